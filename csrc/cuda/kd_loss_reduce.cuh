// Labels counted and losses summed, over a block and over all of them.
#pragma once

#include "cuda/kd_loss_plan.h"
#include "cuda/primitives.cuh"

namespace edufast::cuda {

// Rows that are not ignored, in part `part` of `parts`.
__device__ int count_labels(const KDLoss& p, int part, int parts, char* memory) {
  constexpr int kAhead = 16;  // in flight
  const int step = parts * blockDim.x;
  const int64_t jump = step * p.label_stride;
  int count = 0;
  for (int64_t i = part * blockDim.x + threadIdx.x; i < p.rows; i += kAhead * step) {
    const int rest = static_cast<int>(p.rows - i < kAhead * step ? p.rows - i : kAhead * step);
    const int64_t* label = p.labels + i * p.label_stride;
    int64_t y[kAhead];
#pragma unroll
    for (int j = 0; j < kAhead; ++j, label += jump)
      y[j] = j * step < rest ? *label : p.ignore_index;
#pragma unroll
    for (int j = 0; j < kAhead; ++j) count += y[j] != p.ignore_index;
  }
  return block_sum(count, memory);
}

__device__ int count_all_labels(const KDLoss& p, const Launch& launch, char* memory) {
  if (!launch.counted) return count_labels(p, 0, 1, memory);
  wait_for_launch_ahead();
  int count = 0;
  for (int i = 0; i < kCountBlocks; ++i) count += launch.workspace.counts[i];
  return count;
}

__device__ void store_loss(const KDLoss& p, int64_t at, double loss) {
  if (p.student.dtype == DType::F64) static_cast<double*>(p.loss)[at] = loss;
  else static_cast<float*>(p.loss)[at] = static_cast<float>(loss);
}

// What the gradients of a row are multiplied by.
template <class Real>
__device__ Real gradient_scale(const KDLoss& p, const Launch& launch, char* memory) {
  if (p.reduction != Reduction::Mean) return 1;
  const int count = count_all_labels(p, launch, memory);
  return Real(1) / (count > 0 ? count : 1);
}

// The loss is reduced in the same launch, without memory that somebody would have to clear first:
// every block leaves its part and takes a ticket, and who takes the last one adds them up, in a
// fixed order. Nobody waits. The last one also clears the word, so that a graph may replay the launch.
//
// The upper bits of the word say of which call it speaks: what uninitialised memory or another call
// left there is none of them. So a block opens the word before it takes a ticket, by one attempt:
// where it fails, another block of this call has opened it. (Tickets taken by attempts that are
// repeated until one succeeds take turns: 0.4 us for each block on an H100.)
__device__ void open_tickets(const Launch& launch) {
  if (threadIdx.x != 0) return;
  unsigned long long* word = launch.workspace.ticket;
  const unsigned long long seen = *static_cast<volatile unsigned long long*>(word);
  if (seen >> kCountBits != launch.token >> kCountBits) atomicCAS(word, seen, launch.token);
}

// How many blocks have left their parts, this one included.
__device__ unsigned take_ticket(const Launch& launch) {
  const unsigned long long before = atomicAdd(launch.workspace.ticket, 1ull);
  return static_cast<unsigned>(before & ((1u << kCountBits) - 1)) + 1;
}

// After open_tickets().
__device__ void reduce_blocks(const KDLoss& p, const Launch& launch, double part, double scale,
                              char* memory) {
  const Workspace& w = launch.workspace;
  part = block_sum(part, memory);
  bool last = false;
  if (threadIdx.x == 0) {
    w.partials[blockIdx.x] = part;
    __threadfence();
    last = take_ticket(launch) == gridDim.x;
  }
  if (block_sum(int(last), memory) == 0) return;
  __threadfence();
  double total = 0;
  for (unsigned b = threadIdx.x; b < gridDim.x; b += blockDim.x)
    total += static_cast<volatile double*>(w.partials)[b];
  total = block_sum(total, memory);
  if (threadIdx.x != 0) return;
  store_loss(p, 0, total * scale);
  *w.ticket = 0;
}

}  // namespace edufast::cuda
