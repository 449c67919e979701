// The loops of augment, compiled once per instruction set (cmake/cpu_isa.cmake), without fused
// multiply-adds: every backend and every instruction set gives the same bits.
#include "cpu/augment_rows.h"

#include "cpu/half.h"

EDUFAST_DECLARE_AUGMENT_IMAGES(EDUFAST_ISA)

namespace edufast::EDUFAST_ISA {
namespace {

// Row y of a view: `width * channels` bytes, 0 where it leaves the image.
void read_row(const Augment& p, const uint8_t* image, const Window& view, int32_t y, uint8_t* row) {
  const int32_t channels = p.channels, width = p.width, source = y + view.y;
  // Columns of the row, before it is mirrored, that are in the image.
  const int32_t first = view.x < 0 ? -view.x : 0;
  const int32_t last = view.x < 0 ? width : width - view.x;
  if (source < 0 || source >= p.height || first >= last) {
    __builtin_memset(row, 0, int64_t{width} * channels);
    return;
  }
  const int32_t inside = last - first, left = view.mirrored ? width - last : first;
  const uint8_t* from = image + (int64_t{source} * width + first + view.x) * channels;
  uint8_t* to = row + left * channels;
  __builtin_memset(row, 0, left * channels);
  __builtin_memset(to + inside * channels, 0, (width - left - inside) * channels);
  if (!view.mirrored) {
    __builtin_memcpy(to, from, inside * channels);
    return;
  }
  for (int32_t x = 0; x < inside; ++x)
    for (int32_t c = 0; c < channels; ++c)
      to[x * channels + c] = from[(inside - 1 - x) * channels + c];
}

template <class T>
void write_rows(const Augment& p, int64_t begin, int64_t end, float* mean, float* scale) {
  const int32_t size = p.width * p.channels;
  for (int32_t i = 0; i < size; ++i) {  // a row of them, so that the loop below is plain
    mean[i] = p.mean[i % p.channels];
    scale[i] = p.scale[i % p.channels];
  }
  auto* row = reinterpret_cast<uint8_t*>(scale + size);
  T* out = static_cast<T*>(p.out) + begin * p.image_bytes();
  for (int64_t b = begin; b < end; ++b) {
    const uint8_t* image = p.images + p.index[b] * p.image_bytes();
    const Window view = window_of(p, p.views[b]);
    for (int32_t y = 0; y < p.height; ++y, out += size) {
      read_row(p, image, view, y, row);
      for (int32_t i = 0; i < size; ++i) narrow((row[i] - mean[i]) * scale[i], out + i);
    }
  }
}

}  // namespace

int64_t augment_scratch(const Augment& p) {
  return int64_t{p.width} * p.channels * (2 * sizeof(float) + 1);
}

void augment_images(const Augment& p, int64_t begin, int64_t end, void* scratch) {
  auto* mean = static_cast<float*>(scratch);
  float* scale = mean + p.width * p.channels;
  switch (p.dtype) {
    case DType::BF16: return write_rows<BFloat16>(p, begin, end, mean, scale);
    case DType::F16: return write_rows<Half>(p, begin, end, mean, scale);
    default: return write_rows<float>(p, begin, end, mean, scale);
  }
}

}  // namespace edufast::EDUFAST_ISA
