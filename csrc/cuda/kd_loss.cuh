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
  let_next_launch_begin();
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

template <class Stored, Divergence D, int Lanes, int Plain>
__global__ void __launch_bounds__(staged_threads(Lanes),
                                  staged_blocks(staged_threads(Lanes), Lanes, Plain))
    kd_loss_staged_kernel(const __grid_constant__ KDLoss p, const __grid_constant__ Launch launch) {
  char* const scratch = dynamic_shared();
  StagedGroup<Stored, D, Lanes, Plain> g(p, launch, scratch);
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
  int64_t label = g.label_of(row + rows);
  if (p.reduction != Reduction::None) open_tickets(launch);
  const float scale = gradient_scale<float>(p, launch, scratch);
  double sum = 0;
  // The rows of a warp come to their ends together: its first has one wherever another has.
  while (g.of_warp(task.fate != Fate::None)) {
    const Task next = g.look(row + rows, label);
    label = g.label_of(row + 2 * rows);  // is not needed before this row is done
    const float loss = run_staged_row(g, row, task, next, scale);
    if (g.leads() && task.fate != Fate::None) {
      if (p.reduction == Reduction::None) store_loss(p, task.row, loss);
      else sum += loss;
    }
    task = next;
    row += rows;
  }
  if (!Lanes) Cluster::sync();  // nobody leaves while others may read its shared memory
  if (p.reduction != Reduction::None) reduce_blocks(p, launch, sum, scale, scratch);
}

// --- the kernel of a plan ------------------------------------------------------------------------

using Kernel = void (*)(const KDLoss, const Launch);

template <Divergence D, class Stored>
Kernel staged_kernel_of(const Plan& plan) {
  if constexpr (D == Divergence::ForwardKL) {
    const bool two = plan.plain == 2;
    if (two && plan.lanes == kLanes) return kd_loss_staged_kernel<Stored, D, kLanes, 2>;
    if (two) return kd_loss_staged_kernel<Stored, D, kWarpSize, 2>;
    if (plan.plain && plan.lanes > 0) return kd_loss_staged_kernel<Stored, D, kWarpSize, 4>;
    if (plan.plain) return kd_loss_staged_kernel<Stored, D, 0, 4>;
  }
  if constexpr (may_share_warps(D))
    if (plan.lanes == kLanes) return kd_loss_staged_kernel<Stored, D, kLanes, 0>;
  return kd_loss_staged_kernel<Stored, D, 0, 0>;
}

// float64 is for checking gradients: one program without the fast paths.
template <Divergence D>
Kernel kernel_of(const KDLoss& p, const Plan& plan) {
  if constexpr (D != Divergence::JS)
    if (plan.staged) switch (p.student.dtype) {
        case DType::BF16: return staged_kernel_of<D, __nv_bfloat16>(plan);
        case DType::F16: return staged_kernel_of<D, __half>(plan);
        default: return staged_kernel_of<D, float>(plan);
      }
  if (plan.doubles) return kd_loss_kernel<double, D, false, false>;
  if (plan.warp_per_row)
    return plan.vectors ? kd_loss_kernel<float, D, true, true>
                        : kd_loss_kernel<float, D, true, false>;
  return plan.vectors ? kd_loss_kernel<float, D, false, true>
                      : kd_loss_kernel<float, D, false, false>;
}

inline Kernel kernel_of(const KDLoss& p, const Plan& plan) {
  switch (p.divergence) {
    case Divergence::ReverseKL: return kernel_of<Divergence::ReverseKL>(p, plan);
    case Divergence::JS: return kernel_of<Divergence::JS>(p, plan);
    case Divergence::DKD: return kernel_of<Divergence::DKD>(p, plan);
    default: return kernel_of<Divergence::ForwardKL>(p, plan);
  }
}

}  // namespace edufast::cuda
