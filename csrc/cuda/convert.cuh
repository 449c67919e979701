// Between the types of elements and those that are computed in.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <type_traits>

namespace edufast::cuda {

template <class A, class T>
__device__ __forceinline__ A widened(T x) {
  if constexpr (std::is_same_v<T, __nv_bfloat16>) return __bfloat162float(x);
  else if constexpr (std::is_same_v<T, __half>) return __half2float(x);
  else return static_cast<A>(x);
}

template <class T, class A>
__device__ __forceinline__ T rounded(A x) {
  if constexpr (std::is_same_v<T, __nv_bfloat16>) return __float2bfloat16_rn(static_cast<float>(x));
  else if constexpr (std::is_same_v<T, __half>) return __float2half_rn(static_cast<float>(x));
  else return static_cast<T>(x);
}

}  // namespace edufast::cuda
