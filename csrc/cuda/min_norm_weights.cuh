// The quadratic program of AEKD's weights, step for step as `reference_weights`: one warp, a lane for
// each teacher.
#pragma once

#include "cuda/primitives.cuh"
#include "min_norm.h"

namespace edufast::cuda {

// Lanes i, i + N, ... do the same for teacher i; from K on they hold a row of the identity matrix.
template <int N>
__global__ void __launch_bounds__(kWarpSize)
    min_norm_kernel(const double* gram, int k, double cap, const double* number, float* weights) {
  const int i = threadIdx.x % N;
  const bool exists = i < k;
  const bool capped = number || cap < 1;
  if (number) {
    cap = *number;
    if (!(cap * k > 1 + 1e-6 && cap <= 1)) cap = Constants<double>::nan();
  }
  const auto of = [](double x, int lane) { return __shfl_sync(kFullMask, x, lane); };

  const double largest = warp_max<N>(exists ? gram[i * k + i] : 0);
  const double unit = largest > 0 ? largest : 1;  // 1 / unit could overflow
  double row[N];
#pragma unroll
  for (int c = 0; c < N; ++c) row[c] = exists && c < k ? gram[i * k + c] / unit : 0;
  double x = exists ? 1.0 / k : 1, z = exists, slack = exists ? cap - x : 1, w = exists && capped;
  for (int iteration = 0; iteration < kMinNormIterations; ++iteration) {
    const double gap = warp_sum<N>(x * z + slack * w);
    const double mean = kMinNormSigma * gap / (capped ? 2 * k : k);
    const double target = mean > kMinNormFloor ? mean : kMinNormFloor;
    // The system's row, solved by Gauss-Jordan elimination for two right sides.
    double m[N], dx = exists ? target / x : 0, ones = exists, diagonal = 1;
#pragma unroll
    for (int c = 0; c < N; ++c) {
      m[c] = row[c];
      dx -= row[c] * of(x, c);
      if (c == i) m[c] += exists ? z / x + (capped ? w / slack : 0) : 1;
    }
    if (capped && exists) dx -= target / slack;
#pragma unroll
    for (int j = 0; j < N; ++j) {
      if (j >= k) continue;
      const double pivot = of(m[j], j);
      if (i == j) diagonal = pivot;
      const double factor = i == j ? 0 : m[j] / pivot;
#pragma unroll
      for (int c = j + 1; c < N; ++c) m[c] -= factor * of(m[c], j);
      dx -= factor * of(dx, j);
      ones -= factor * of(ones, j);
    }
    dx /= diagonal;
    ones /= diagonal;
    dx -= ones * (warp_sum<N>(dx) / warp_sum<N>(ones));
    const double dz = exists ? (target - z * dx) / x - z : 0;
    const double dw = exists && capped ? (target + w * dx) / slack - w : 0;
    double shortest = -1;  // the step is at most 1
    const auto limit = [&](double value, double change) {
      if (change < 0) shortest = larger(shortest, kMinNormToBoundary * value / change);
    };
    limit(x, dx);
    limit(z, dz);
    if (capped) {
      limit(slack, -dx);
      limit(w, dw);
    }
    const double step = -warp_max<N>(shortest);
    x += step * dx;
    z += step * dz;
    slack -= step * dx;
    w += step * dw;
  }
  x = !exists || x < kMinNormNegligible ? 0 : x;
  const double weight = x / warp_sum<N>(x);
  if (threadIdx.x < k) weights[i] = static_cast<float>(weight > cap ? cap : weight);
}

// `start` is called with the kernel and its arguments.
template <class Start>
void launch_min_norm(int k, const Start& start) {
  if (k <= 4) return start(min_norm_kernel<4>);
  if (k <= 8) return start(min_norm_kernel<8>);
  if (k <= 16) return start(min_norm_kernel<16>);
  start(min_norm_kernel<32>);
}

}  // namespace edufast::cuda
