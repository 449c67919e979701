// augment as the backends see it: raw pointers and numbers, no torch type.
// Specification: edufast/ops/reference/augment.py.
#pragma once

#include "dtype.h"

namespace edufast {

constexpr int kMaxChannels = 4;
constexpr int64_t kMaxImageBytes = int64_t{1} << 28;  // counted in 32 bits
constexpr int64_t kMaxPad = (1 << 14) - 1;            // and so are views

struct Augment {
  const uint8_t* images = nullptr;  // (N, H, W, C)
  int64_t num_images = 0;
  int32_t height = 0, width = 0, channels = 0;
  const int64_t* index = nullptr;  // (B,)
  const int64_t* views = nullptr;  // (B,)
  int64_t batch = 0;
  int32_t pad = 0;
  bool flip = false;
  float mean[kMaxChannels] = {};  // a pixel becomes (pixel - mean) * scale, both steps rounded
  float scale[kMaxChannels] = {};
  void* out = nullptr;  // (B, H, W, C)
  DType dtype = DType::F32;

  EDUFAST_HOST_DEVICE int32_t image_bytes() const { return height * width * channels; }
  EDUFAST_HOST_DEVICE int32_t shifts() const { return 2 * pad + 1; }
  EDUFAST_HOST_DEVICE int32_t num_views() const { return shifts() * shifts() * (flip ? 2 : 1); }
};

// What the number of a view says.
struct Window {
  int32_t y, x;   // of its corner in the image
  bool mirrored;  // left to right
};

EDUFAST_HOST_DEVICE inline Window window_of(const Augment& p, int64_t number) {
  const auto in_range = static_cast<uint32_t>(number), shifts = static_cast<uint32_t>(p.shifts());
  const uint32_t cell = p.flip ? in_range / 2 : in_range;
  return {static_cast<int32_t>(cell / shifts) - p.pad, static_cast<int32_t>(cell % shifts) - p.pad,
          p.flip && in_range % 2 == 1};
}

namespace cpu {
void augment(const Augment& problem);  // index and views are in range
}
#ifdef EDUFAST_HAS_CUDA
namespace cuda {
void augment(const Augment& problem, void* stream);  // makes images NaN where they are not
}
#endif

}  // namespace edufast
