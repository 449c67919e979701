// The one place for what the operators take from the LibTorch stable ABI.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#ifdef EDUFAST_HAS_CUDA
// The headers declare this only where USE_CUDA is defined, and with it much that is not stable.
extern "C" AOTITorchError aoti_torch_get_current_cuda_stream(int32_t device, void** stream);
#endif

namespace edufast {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

#ifdef EDUFAST_HAS_CUDA
inline void* current_cuda_stream(int32_t device) {
// The number itself: older headers do not know the name TORCH_VERSION_2_13_0.
#if TORCH_TARGET_VERSION >= 0x020d000000000000
  return torch::stable::accelerator::getCurrentStream(device).nativeHandle();
#else
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device, &stream));
  return stream;
#endif
}
#endif

}  // namespace edufast
