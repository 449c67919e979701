// The element types of the tensors that kernels read and write.
#pragma once

#include <cstdint>

#ifdef __CUDACC__
#define EDUFAST_HOST_DEVICE __host__ __device__
#else
#define EDUFAST_HOST_DEVICE
#endif

namespace edufast {

enum class DType : uint8_t { F32, BF16, F16, F64, I64, I32, I16, I8, U8 };  // bool is U8

constexpr bool is_float(DType type) { return type <= DType::F64; }

EDUFAST_HOST_DEVICE constexpr int64_t bytes_of(DType type) {
  switch (type) {
    case DType::F64:
    case DType::I64: return 8;
    case DType::F32:
    case DType::I32: return 4;
    case DType::BF16:
    case DType::F16:
    case DType::I16: return 2;
    default: return 1;
  }
}

// float16 gradients wait in float32 for the upstream gradient; see csrc/checks.h.
EDUFAST_HOST_DEVICE constexpr DType stored_grad(DType type) {
  return type == DType::F16 ? DType::F32 : type;
}

}  // namespace edufast
