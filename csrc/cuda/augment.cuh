// augment on the GPU: what a thread makes. Compiled without fused multiply-adds: every backend gives
// the same bits. No torch header here, and nothing that only a GPU can compile:
// tests/ops/cuda_emulation runs it on a CPU.
#pragma once

#include <cstdint>
#include <type_traits>

#include "augment.h"
#include "cuda/convert.cuh"

namespace edufast::cuda {

constexpr int kAugmentThreads = 128;
constexpr int kAugmentHeld = 8;  // elements of a thread, side by side: 16 bytes of a half type

// Of threads that make one image.
EDUFAST_HOST_DEVICE constexpr uint32_t augment_blocks(uint32_t image_bytes) {
  constexpr uint32_t span = kAugmentThreads * kAugmentHeld;
  return (image_bytes + span - 1) / span;
}

// Calls visit(T{}, constant) with the type and the number of channels of the result.
template <class Visit>
void with_result(const Augment& p, Visit visit) {
  const auto with_channels = [&](auto channels) {
    switch (p.dtype) {
      case DType::BF16: return visit(__nv_bfloat16{}, channels);
      case DType::F16: return visit(__half{}, channels);
      default: return visit(float{}, channels);
    }
  };
  switch (p.channels) {
    case 1: return with_channels(std::integral_constant<int, 1>{});
    case 2: return with_channels(std::integral_constant<int, 2>{});
    case 3: return with_channels(std::integral_constant<int, 3>{});
    default: return with_channels(std::integral_constant<int, 4>{});
  }
}

// A pixel of a view: its place in the image, negative where the image has none.
__device__ __forceinline__ int place_of(const Augment& p, const Window& view, int y, int x) {
  const int row = y + view.y, column = (view.mirrored ? p.width - 1 - x : x) + view.x;
  const bool inside = row >= 0 && row < p.height && column >= 0 && column < p.width;
  return inside ? row * p.width + column : -1;
}

// Elements [first, first + kAugmentHeld) of image b of the batch, as far as there are any.
template <class T, int Channels>
__device__ __forceinline__ void augment_elements(const Augment& p, int64_t b, int first) {
  const int64_t i = p.index[b], number = p.views[b];
  const bool known = i >= 0 && i < p.num_images && number >= 0 && number < p.num_views();
  const Window view = window_of(p, number);
  const int size = p.image_bytes(), skipped = first % Channels;  // channels of the first pixel
  constexpr int kPixels = (kAugmentHeld + 2 * Channels - 2) / Channels;
  int place[kPixels];
  int x = first / Channels % p.width, y = first / Channels / p.width;
#pragma unroll
  for (int k = 0; k < kPixels; ++k) {
    place[k] = known ? place_of(p, view, y, x) : -1;
    const bool below = ++x == p.width;
    x = below ? 0 : x;
    y += below;
  }
  float mean[Channels], scale[Channels];  // of the first elements, from which on they repeat
#pragma unroll
  for (int k = 0; k < Channels; ++k) {
    const int c = skipped + k < Channels ? skipped + k : skipped + k - Channels;
    mean[k] = known ? p.mean[c] : __int_as_float(0x7fc00000);  // NaN
    scale[k] = p.scale[c];
  }
  const uint8_t* image = p.images + (known ? i : 0) * size;
  uint8_t byte[kAugmentHeld];  // all loads are under way before the first is used
#pragma unroll
  for (int k = 0; k < kAugmentHeld; ++k) {
    const int c = skipped + k % Channels;
    const bool next = c >= Channels;
    const int at = Channels > 1 && next ? place[k / Channels + 1] : place[k / Channels];
    byte[k] = at < 0 ? 0 : image[at * Channels + c - (next ? Channels : 0)];
  }
  alignas(16) T made[kAugmentHeld];
#pragma unroll
  for (int k = 0; k < kAugmentHeld; ++k)
    made[k] = rounded<T>((static_cast<float>(byte[k]) - mean[k % Channels]) * scale[k % Channels]);
  T* out = static_cast<T*>(p.out) + b * size + first;
  if (size % kAugmentHeld == 0) {  // then all images begin at multiples of 16 bytes
#pragma unroll
    for (int k = 0; k < int(sizeof(made) / 16); ++k)
      reinterpret_cast<uint4*>(out)[k] = reinterpret_cast<const uint4*>(made)[k];
    return;
  }
#pragma unroll
  for (int k = 0; k < kAugmentHeld; ++k)
    if (first + k < size) out[k] = made[k];
}

// The grid has `augment_blocks` for each of as many images as are made at a time.
template <class T, int Channels>
__device__ __forceinline__ void augment_images(const Augment& p) {
  const uint32_t blocks = augment_blocks(p.image_bytes());
  const int first = (blockIdx.x % blocks * kAugmentThreads + threadIdx.x) * kAugmentHeld;
  if (first >= p.image_bytes()) return;
  for (int64_t b = blockIdx.x / blocks; b < p.batch; b += gridDim.x / blocks)
    augment_elements<T, Channels>(p, b, first);
}

}  // namespace edufast::cuda
