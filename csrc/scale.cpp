// The operator scale_: a tensor times a number that only the device knows, in place; nothing is
// read or written where the number is 1, which the upstream gradient of a loss nearly always is.
#include "scale.h"

#include "checks.h"

#ifdef EDUFAST_HAS_CUDA
namespace edufast {
namespace {

void scale_(Tensor x, Tensor factor) {
  EDUFAST_CHECK(x.dim() == 2, "x has shape ", shape(x), "; expected a gradient (B, C)");
  const DType dtype = logits_of({"x"}, x).dtype;
  const ScalarType type = factor.scalar_type();
  EDUFAST_CHECK(factor.dim() == 0 && (type == ScalarType::Float || type == ScalarType::Double),
                "factor has shape ", shape(factor), " and dtype ", dtype_name(factor),
                "; expected float32 or float64 without dimensions");
  check_device({"factor"}, factor, x, "x");
  Scale p{x.mutable_data_ptr(), x.numel(), dtype, factor.const_data_ptr(),
          type == ScalarType::Float ? DType::F32 : DType::F64};
  EDUFAST_CHECK(x.is_contiguous() && reinterpret_cast<uintptr_t>(p.data) % 16 == 0,
                "x is not contiguous or begins inside 16 bytes; expected a tensor of its own");
  torch::stable::accelerator::DeviceGuard guard(x.get_device_index());
  cuda::scale(p, current_cuda_stream(x.get_device_index()));
}

}  // namespace
}  // namespace edufast

STABLE_TORCH_LIBRARY_IMPL(edufast, CUDA, m) { m.impl("scale_", TORCH_BOX(&edufast::scale_)); }
#endif
STABLE_TORCH_LIBRARY_FRAGMENT(edufast, m) { m.def("scale_(Tensor(a!) x, Tensor factor) -> ()"); }
