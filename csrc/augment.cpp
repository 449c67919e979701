// The operator augment: its schema, its checks and its dispatch.
#include "augment.h"

#include "checks.h"

#include <algorithm>

namespace edufast {
namespace {

using torch::stable::new_empty;

void set_images(Augment& p, const Tensor& images) {
  const bool shaped = images.dim() == 4 && images.size(1) > 0 && images.size(2) > 0 &&
                      images.size(3) >= 1 && images.size(3) <= kMaxChannels;
  EDUFAST_CHECK(images.scalar_type() == ScalarType::Byte && shaped && images.is_contiguous(),
                "images has shape ", shape(images), " and dtype ", dtype_name(images),
                "; expected contiguous uint8 (N, H, W, C), C from 1 to ", kMaxChannels);
  // A product of two numbers up to this bound does not overflow.
  const int64_t rows = std::min(images.size(1), kMaxImageBytes + 1);
  const int64_t row = std::min(images.size(2), kMaxImageBytes + 1) * images.size(3);
  EDUFAST_CHECK(rows * row <= kMaxImageBytes, "images has shape ", shape(images),
                "; expected at most ", kMaxImageBytes, " bytes each");
  p.images = static_cast<const uint8_t*>(images.const_data_ptr());
  p.num_images = images.size(0);
  p.height = static_cast<int32_t>(images.size(1));
  p.width = static_cast<int32_t>(images.size(2));
  p.channels = static_cast<int32_t>(images.size(3));
}

const int64_t* numbers_of(Argument argument, const Tensor& t, int64_t count, const Tensor& images) {
  EDUFAST_CHECK(t.scalar_type() == ScalarType::Long && t.dim() == 1 && t.is_contiguous(), argument,
                " has shape ", shape(t), " and dtype ", dtype_name(t),
                "; expected contiguous int64 (B,)");
  EDUFAST_CHECK(t.size(0) == count, argument, " has ", t.size(0), " numbers; expected ", count,
                ", like index");
  check_device(argument, t, images, "images");
  return static_cast<const int64_t*>(t.const_data_ptr());
}

void set_normalisation(Augment& p, const std::vector<double>& mean,
                       const std::vector<double>& std) {
  const auto check_count = [&p](const char* name, const std::vector<double>& values) {
    EDUFAST_CHECK(static_cast<int32_t>(values.size()) == p.channels, name, " has ", values.size(),
                  " numbers; expected ", p.channels, ", like the channels of images");
  };
  check_count("mean", mean);
  check_count("std", std);
  for (int32_t c = 0; c < p.channels; ++c) {
    check_range({"mean", c}, mean[c], -kMaxNumber, kMaxNumber);
    check_range({"std", c}, std[c], 1 / kMaxNumber, kMaxNumber);
    p.mean[c] = static_cast<float>(255 * mean[c]);
    p.scale[c] = 1 / static_cast<float>(255 * std[c]);
  }
}

DType result_dtype(ScalarType dtype) {
  switch (dtype) {
    case ScalarType::Float: return DType::F32;
    case ScalarType::BFloat16: return DType::BF16;
    case ScalarType::Half: return DType::F16;
    default:
      fail("dtype is ", torch::headeronly::toString(dtype),
           "; expected float32, bfloat16 or float16");
  }
}

// Only memory of the CPU can be looked at; a CUDA kernel looks itself, and makes images NaN.
void check_in_range(const char* name, const int64_t* numbers, int64_t count, int64_t limit) {
  EDUFAST_CHECK(limit > 0 || count == 0, name, " has ", count,
                " numbers; expected none without images");
  for (int64_t i = 0; i < count; ++i)
    EDUFAST_CHECK(numbers[i] >= 0 && numbers[i] < limit, Argument{name, i}, " is ", numbers[i],
                  "; expected 0 to ", limit - 1);
}

Tensor augment(Tensor images, Tensor index, Tensor views, int64_t pad, bool flip,
               std::vector<double> mean, std::vector<double> std, ScalarType dtype) {
  Augment p;
  set_images(p, images);
  p.batch = index.dim() == 1 ? index.size(0) : 0;
  p.index = numbers_of({"index"}, index, p.batch, images);
  p.views = numbers_of({"views"}, views, p.batch, images);
  check_choice({"pad"}, pad, kMaxPad + 1);
  p.pad = static_cast<int32_t>(pad);
  p.flip = flip;
  set_normalisation(p, mean, std);
  p.dtype = result_dtype(dtype);
  if (images.is_cpu()) {
    check_in_range("index", p.index, p.batch, p.num_images);
    check_in_range("views", p.views, p.batch, p.num_views());
  }

  Tensor out = new_empty(images, {p.batch, p.height, p.width, p.channels}, dtype);
  p.out = out.mutable_data_ptr();
  if (images.is_cpu()) {
    cpu::augment(p);
#ifdef EDUFAST_HAS_CUDA
  } else if (images.is_cuda()) {
    torch::stable::accelerator::DeviceGuard guard(images.get_device_index());
    cuda::augment(p, current_cuda_stream(images.get_device_index()));
#endif
  } else {
    fail_for_device({"images"}, images);
  }
  return out;
}

}  // namespace
}  // namespace edufast

STABLE_TORCH_LIBRARY_FRAGMENT(edufast, m) {
  m.def(
      "augment(Tensor images, Tensor index, Tensor views, int pad, bool flip, float[] mean, "
      "float[] std, ScalarType dtype) -> Tensor");
}
STABLE_TORCH_LIBRARY_IMPL(edufast, CPU, m) { m.impl("augment", TORCH_BOX(&edufast::augment)); }
#ifdef EDUFAST_HAS_CUDA
STABLE_TORCH_LIBRARY_IMPL(edufast, CUDA, m) { m.impl("augment", TORCH_BOX(&edufast::augment)); }
#endif
