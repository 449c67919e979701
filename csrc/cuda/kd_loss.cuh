// The kernels of the multi-teacher loss: rows handed out, losses reduced, lists inverted.
#pragma once

#include "cuda/kd_loss_row.cuh"

namespace edufast::cuda {

// --- blocks -------------------------------------------------------------------------------------

// Sum over the block in a fixed order, for all threads. Borrows the shared memory of the rows.
template <class T>
__device__ T block_sum(T x) {
  T* sums = reinterpret_cast<T*>(dynamic_shared());
  x = warp_sum(x);
  __syncthreads();
  if (threadIdx.x % kWarpSize == 0) sums[threadIdx.x / kWarpSize] = x;
  __syncthreads();
  T total = 0;
  for (int w = 0; w < int(blockDim.x) / kWarpSize; ++w) total += sums[w];
  __syncthreads();
  return total;
}

// Rows that are not ignored, in part `part` of `parts`.
__device__ int count_labels(const KDLoss& p, int part, int parts) {
  int count = 0;
  for (int64_t i = part * blockDim.x + threadIdx.x; i < p.rows; i += parts * blockDim.x)
    count += p.labels[i * p.label_stride] != p.ignore_index;
  return block_sum(count);
}

__device__ int count_all_labels(const KDLoss& p, const Launch& launch) {
  if (!launch.counted) return count_labels(p, 0, 1);
  int count = 0;
  for (int i = 0; i < kCountBlocks; ++i) count += launch.workspace.counts[i];
  return count;
}

__device__ void store_loss(const KDLoss& p, int64_t at, double loss) {
  if (p.student.dtype == DType::F64) static_cast<double*>(p.loss)[at] = loss;
  else static_cast<float*>(p.loss)[at] = static_cast<float>(loss);
}

// The loss is reduced in the same launch, without memory that somebody would have to clear first:
// every block leaves its part with the token of this call, and the last block waits for all of
// them. Uninitialised memory does not hold the token (64 bits, never used twice), and the last
// block removes it, so that a graph may replay the launch. Nobody waits for the last block and
// blocks start in order, so this cannot deadlock; the order of summation is fixed.
__device__ void reduce_blocks(const KDLoss& p, const Launch& launch, double part, double scale) {
  Partial* partials = launch.workspace.partials;
  part = block_sum(part);
  if (threadIdx.x == 0) {
    partials[blockIdx.x].loss = part;
    __threadfence();
    *static_cast<volatile unsigned long long*>(&partials[blockIdx.x].done) = launch.token;
  }
  if (blockIdx.x != gridDim.x - 1) return;
  __syncthreads();
  double total = 0;
  for (unsigned b = threadIdx.x; b < gridDim.x; b += blockDim.x) {
    volatile unsigned long long* done = &partials[b].done;
    while (*done != launch.token) __nanosleep(64);
    __threadfence();
    total += *static_cast<volatile double*>(&partials[b].loss);
    *done = 0;
  }
  total = block_sum(total);
  if (threadIdx.x == 0) store_loss(p, 0, total * scale);
}

// --- kernels ------------------------------------------------------------------------------------

// Only for lists of classes and for very many labels. One block per teacher inverts its list, and
// raises the flag behind it when a class is out of range or named twice: rows that read such a
// teacher get a NaN loss. The blocks behind them count labels.
__global__ void __launch_bounds__(kMaxThreads)
    prepare_kernel(const __grid_constant__ KDLoss p, const __grid_constant__ Launch launch) {
  const int k = blockIdx.x;
  if (k >= p.num_teachers) {
    const int part = k - p.num_teachers;
    const int count = count_labels(p, part, kCountBlocks);
    if (threadIdx.x == 0) launch.workspace.counts[part] = count;
    return;
  }
  const Teacher& t = p.teachers[k];
  if (!t.columns) return;
  int* positions = launch.workspace.positions + k * (int64_t(p.classes) + 1);
  for (int c = threadIdx.x; c <= p.classes; c += blockDim.x) positions[c] = c < p.classes ? -1 : 0;
  __syncthreads();
  for (int j = threadIdx.x; j < t.classes; j += blockDim.x)
    if (t.columns[j] >= 0 && t.columns[j] < p.classes) positions[t.columns[j]] = j;
  __syncthreads();
  for (int j = threadIdx.x; j < t.classes; j += blockDim.x)
    if (t.columns[j] < 0 || t.columns[j] >= p.classes || positions[t.columns[j]] != j)
      positions[p.classes] = 1;
}

template <class Real, Divergence D, bool WarpPerRow, bool Vectors>
__global__ void __launch_bounds__(kMaxThreads, sizeof(Real) == 8 ? 1 : 2)
    kd_loss_kernel(const __grid_constant__ KDLoss p, const __grid_constant__ Launch launch) {
  Real scale = 1;
  if (p.reduction == Reduction::Mean) {
    const int count = count_all_labels(p, launch);
    scale = Real(1) / (count > 0 ? count : 1);
  }
  Group<Real, D, WarpPerRow, Vectors> group(p, launch, dynamic_shared());
  // Neighbouring rows go to different multiprocessors, so that few rows use all of them.
  int64_t row = blockIdx.x, rows = gridDim.x;
  if (WarpPerRow) {
    row += int64_t(threadIdx.x / kWarpSize) * gridDim.x;
    rows *= blockDim.x / kWarpSize;
  } else {
    row /= Cluster::size();
    rows /= Cluster::size();
  }
  double sum = 0;
  for (; row < p.rows; row += rows) {
    const Real loss = run_row(group, row, scale);
    if (!group.leads()) continue;
    if (p.reduction == Reduction::None) store_loss(p, row, loss);
    else sum += loss;
  }
  if (!WarpPerRow) Cluster::sync();  // nobody leaves while others may read its shared memory
  if (p.reduction != Reduction::None) reduce_blocks(p, launch, sum, scale);
}

}  // namespace edufast::cuda
