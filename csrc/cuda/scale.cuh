// A tensor times a number of the device's memory, in place.
#pragma once

#include <cstring>

#include "cuda/rows.cuh"
#include "scale.h"

namespace edufast::cuda {

constexpr int kScaleThreads = 256;
constexpr int kScaleVectors = 4;  // 16 bytes each, in flight for a thread

template <class T>
__device__ void scale_elements(T* x, int64_t elements, double factor) {
  constexpr int kWidth = 16 / sizeof(T);
  using Real = std::conditional_t<std::is_same_v<T, double>, double, float>;
  const Real by = static_cast<Real>(factor);
  const int64_t first = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  const int64_t threads = int64_t(gridDim.x) * blockDim.x, whole = elements / kWidth;
  uint4* vectors = reinterpret_cast<uint4*>(x);
  for (int64_t i = first; i < whole; i += threads * kScaleVectors) {
    uint4 raw[kScaleVectors];
#pragma unroll
    for (int j = 0; j < kScaleVectors; ++j)
      if (i + j * threads < whole) raw[j] = vectors[i + j * threads];
#pragma unroll
    for (int j = 0; j < kScaleVectors; ++j) {
      if (i + j * threads >= whole) continue;
      T stored[kWidth];
      memcpy(stored, &raw[j], sizeof(stored));
#pragma unroll
      for (int k = 0; k < kWidth; ++k)
        stored[k] = rounded<T>(static_cast<Real>(to_float(stored[k])) * by);
      memcpy(&raw[j], stored, sizeof(stored));
      vectors[i + j * threads] = raw[j];
    }
  }
  for (int64_t i = whole * kWidth + first; i < elements; i += threads)
    x[i] = rounded<T>(static_cast<Real>(to_float(x[i])) * by);
}

__global__ void __launch_bounds__(kScaleThreads) scale_kernel(const __grid_constant__ Scale p) {
  const double factor = p.factor_dtype == DType::F64 ? *static_cast<const double*>(p.factor)
                                                     : *static_cast<const float*>(p.factor);
  if (factor == 1) return;
  switch (p.dtype) {
    case DType::F64: return scale_elements(static_cast<double*>(p.data), p.elements, factor);
    case DType::F16: return scale_elements(static_cast<__half*>(p.data), p.elements, factor);
    case DType::BF16:
      return scale_elements(static_cast<__nv_bfloat16*>(p.data), p.elements, factor);
    default: return scale_elements(static_cast<float*>(p.data), p.elements, factor);
  }
}

}  // namespace edufast::cuda
