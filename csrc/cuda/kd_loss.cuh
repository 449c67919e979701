// The kernels of the multi-teacher loss: rows handed out, lists inverted.
#pragma once

#include "cuda/kd_loss_reduce.cuh"
#include "cuda/kd_loss_row.cuh"
#include "cuda/kd_loss_staged_row.cuh"

namespace edufast::cuda {

// Only for lists of classes and for very many labels. One block per teacher inverts its list: rows
// that read a teacher whose list is flagged get a NaN loss. The blocks behind them count labels.
__global__ void __launch_bounds__(kMaxThreads)
    prepare_kernel(const __grid_constant__ KDLoss p, const __grid_constant__ Launch launch) {
  const int k = blockIdx.x;
  if (k >= p.num_teachers) {
    const int part = k - p.num_teachers;
    const int count = count_labels(p, part, kCountBlocks, dynamic_shared());
    if (threadIdx.x == 0) launch.workspace.counts[part] = count;
    return;
  }
  const Teacher& t = p.teachers[k];
  if (!t.columns) return;
  invert_list(t, p.classes, launch.workspace.positions + k * (int64_t(p.classes) + 1));
}

template <class Real, Divergence D, bool WarpPerRow, bool Vectors>
__global__ void __launch_bounds__(kMaxThreads, sizeof(Real) == 8 ? 1 : 2)
    kd_loss_kernel(const __grid_constant__ KDLoss p, const __grid_constant__ Launch launch) {
  if (p.reduction != Reduction::None) open_tickets(launch);
  const Real scale = gradient_scale<Real>(p, launch, dynamic_shared());
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
  if (p.reduction != Reduction::None) reduce_blocks(p, launch, sum, scale, dynamic_shared());
}

template <class Stored, Divergence D, int Lanes, bool MayBePlain>
__global__ void __launch_bounds__(Lanes ? kWarpThreads : kStagedThreads,
                                  staged_blocks(Lanes ? kWarpThreads : kStagedThreads))
    kd_loss_staged_kernel(const __grid_constant__ KDLoss p, const __grid_constant__ Launch launch) {
  char* const scratch = dynamic_shared();
  StagedGroup<Stored, D, Lanes, MayBePlain> g(p, launch, scratch);
  unsigned row = blockIdx.x, rows = gridDim.x;  // the plan keeps them below 2^31
  if (Lanes) {
    row += g.group() * gridDim.x;
    rows *= blockDim.x / g.threads;
  } else {
    row /= Cluster::size();
    rows /= Cluster::size();
  }
  Task task = g.look(row, g.label_of(row));
  g.request(task);
  if (p.reduction != Reduction::None) open_tickets(launch);
  const float scale = gradient_scale<float>(p, launch, scratch);
  double sum = 0;
  // The rows of a warp come to their ends together: its first has one wherever another has.
  while (g.of_warp(task.fate != Fate::None)) {
    row += rows;
    const int64_t label = g.label_of(row);  // is not needed before this row is done
    const float loss = run_staged_row(g, task, scale);
    if (g.leads() && task.fate != Fate::None) {
      if (p.reduction == Reduction::None) store_loss(p, task.row, loss);
      else sum += loss;
    }
    task = g.look(row, label);
    g.request(task);
  }
  if (!Lanes) Cluster::sync();  // nobody leaves while others may read its shared memory
  if (p.reduction != Reduction::None) reduce_blocks(p, launch, sum, scale, scratch);
}

}  // namespace edufast::cuda
