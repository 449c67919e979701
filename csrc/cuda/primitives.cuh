// Arithmetic, warps and clusters. No torch header here, and nothing that only a GPU can compile:
// tests/ops/cuda_emulation runs these files on a CPU.
#pragma once

#ifndef EDUFAST_CUDA_EMULATION
#include <cooperative_groups.h>
#endif

#include <type_traits>

#include "cuda/sizes.h"

namespace edufast::cuda {

constexpr unsigned kFullMask = 0xffffffffu;

// --- arithmetic -----------------------------------------------------------------------------

template <class Real>
struct Constants {
  static constexpr Real log2e = Real(1.4426950408889634074);
  static constexpr Real ln2 = Real(0.6931471805599453094);
  // Finite, so that the first maximum never makes inf - inf of a masked logit.
  static constexpr Real lowest = std::is_same_v<Real, double> ? Real(-1.7976931348623157e308)
                                                              : Real(-3.4028234663852886e38f);
  static __device__ Real infinity() { return Real(__int_as_float(0x7f800000)); }
  static __device__ Real nan() { return Real(__int_as_float(0x7fc00000)); }
};

// One instruction of the special function unit (2 ulp); denormal results flush to 0.
__device__ __forceinline__ float fast_exp2(float x) {
#ifdef __CUDA_ARCH__
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#else
  return exp2f(x);
#endif
}
__device__ __noinline__ inline double fast_exp2(double x) { return exp2(x); }

__device__ __forceinline__ float log2_of(float x) { return log2f(x); }
__device__ __noinline__ inline double log2_of(double x) { return log2(x); }
__device__ __forceinline__ float log1p_of(float x) { return log1pf(x); }
__device__ __noinline__ inline double log1p_of(double x) { return log1p(x); }
__device__ __forceinline__ float exp_of(float x) { return expf(x); }
__device__ __noinline__ inline double exp_of(double x) { return exp(x); }
__device__ __forceinline__ float log_of(float x) { return logf(x); }
__device__ __noinline__ inline double log_of(double x) { return log(x); }

// A NaN operand is dropped; it comes back through the exponential that follows every maximum.
__device__ __forceinline__ float larger(float a, float b) { return fmaxf(a, b); }
__device__ __forceinline__ double larger(double a, double b) { return fmax(a, b); }

template <class Real>
__device__ __forceinline__ bool is_masked(Real logit) {
  return logit == -Constants<Real>::infinity();
}

// --- warp, or aligned parts of it: butterflies, so that every lane ends with the same bits -------

template <int Lanes = kWarpSize, class T>
__device__ __forceinline__ T warp_sum(T x) {
#pragma unroll
  for (int mask = Lanes / 2; mask > 0; mask /= 2) x += __shfl_xor_sync(kFullMask, x, mask);
  return x;
}

// Both sums for the lower half of the lanes, in little more than the time of one.
template <int Lanes, class T>
__device__ __forceinline__ void warp_sum_pair(T& x, T& y, int lane) {
  const bool upper = lane & Lanes / 2;
  const T sent = upper ? x : y;
  T kept = (upper ? y : x) + __shfl_xor_sync(kFullMask, sent, Lanes / 2);
  kept = warp_sum<Lanes / 2>(kept);
  x = kept;
  y = __shfl_xor_sync(kFullMask, kept, Lanes / 2);
}

template <int Lanes = kWarpSize, class Real>
__device__ __forceinline__ Real warp_max(Real x) {
#pragma unroll
  for (int mask = Lanes / 2; mask > 0; mask /= 2)
    x = larger(x, __shfl_xor_sync(kFullMask, x, mask));
  return x;
}

__device__ __forceinline__ int warp_prefix_sum(int x, int lane) {  // exclusive
  const int own = x;
#pragma unroll
  for (int distance = 1; distance < kWarpSize; distance *= 2) {
    const int below = __shfl_up_sync(kFullMask, x, distance);
    if (lane >= distance) x += below;
  }
  return x - own;
}

// --- block -------------------------------------------------------------------------------------

// Sum over the block in a fixed order, for all threads. `memory` is shared, with room for a number
// of every warp.
template <class T>
__device__ __noinline__ T block_sum(T x, char* memory) {
  T* sums = reinterpret_cast<T*>(memory);
  x = warp_sum(x);
  __syncthreads();
  if (threadIdx.x % kWarpSize == 0) sums[threadIdx.x / kWarpSize] = x;
  __syncthreads();
  T total = 0;
  for (int w = 0; w < int(blockDim.x) / kWarpSize; ++w) total += sums[w];
  __syncthreads();
  return total;
}

// --- copies into shared memory that nobody waits for at first -----------------------------------

#ifndef EDUFAST_CUDA_EMULATION
__device__ __forceinline__ void copy_async(uint4* to, const void* from) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  const auto shared = static_cast<unsigned>(__cvta_generic_to_shared(to));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared), "l"(from) : "memory");
#else
  *to = *static_cast<const uint4*>(from);
#endif
}

// Makes a group of this thread's copies since the last.
__device__ __forceinline__ void commit_copies() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Until this thread's copies are there but for the last so many groups, or fewer.
__device__ __forceinline__ void wait_for_copies_but(int groups) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  if (groups >= 4) asm volatile("cp.async.wait_group 4;" ::: "memory");
  else if (groups >= 2) asm volatile("cp.async.wait_group 2;" ::: "memory");
  else if (groups == 1) asm volatile("cp.async.wait_group 1;" ::: "memory");
  else asm volatile("cp.async.wait_group 0;" ::: "memory");
#endif
}

// Until this thread's copies are there.
__device__ __forceinline__ void wait_for_copies() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_all;" ::: "memory");
#endif
}
#endif

// --- a launch that begins before the one ahead of it has ended (sm_90) --------------------------

#ifndef EDUFAST_CUDA_EMULATION
__device__ __forceinline__ void let_next_launch_begin() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;");
#endif
}

// Until the launch ahead has ended and what it wrote can be seen.
__device__ __forceinline__ void wait_for_launch_ahead() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
#endif

// --- cluster: blocks that read each other's shared memory; one block before sm_90 ---------------

struct Cluster {
#if defined(EDUFAST_CUDA_EMULATION) || (defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900)
  static __device__ int size() { return cooperative_groups::this_cluster().num_blocks(); }
  static __device__ int rank() { return cooperative_groups::this_cluster().block_rank(); }
  static __device__ void sync() { cooperative_groups::this_cluster().sync(); }
  template <class T>
  static __device__ T* peer(T* shared, int rank) {
    return cooperative_groups::this_cluster().map_shared_rank(shared, rank);
  }
#else
  static __device__ int size() { return 1; }
  static __device__ int rank() { return 0; }
  static __device__ void sync() {}
  template <class T>
  static __device__ T* peer(T* shared, int) {
    return shared;
  }
#endif
};

#ifndef EDUFAST_CUDA_EMULATION
__device__ __forceinline__ char* dynamic_shared() {
  extern __shared__ uint4 shared[];
  return reinterpret_cast<char*>(shared);
}
#endif

}  // namespace edufast::cuda
