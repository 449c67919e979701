// The multi-teacher loss of a row and its gradient: the general program, for any rows.
// Specification: edufast/ops/reference/kd_loss.py.
//
//   sweeps     every row is read once: maxima, and sums of exponentials, online; the logits stay in
//              shared memory as far as it reaches, the others come back from L2
//   settle     weights, one lane per teacher
//   conclude   the losses, and a few coefficients per teacher
//   gradients  one pass that knows the losses by these coefficients only
#pragma once

#include "cuda/kd_loss_conclude.cuh"
#include "cuda/kd_loss_gradient.cuh"
#include "cuda/kd_loss_sweeps.cuh"

namespace edufast::cuda {

// Writes all gradients of the row, times `gradient_scale`. The loss is for the group's leader.
template <class Group>
__device__ typename Group::Real run_row(Group& g, int64_t row,
                                        typename Group::Real gradient_scale) {
  using Real = typename Group::Real;
  const KDLoss& p = g.p;
  const int64_t y = p.labels[row * p.label_stride];
  if (y == p.ignore_index) return fill(g, row, Real(0));
  if (y < 0 || y >= p.classes || g.numbers_broken()) return fill(g, row, Constants<Real>::nan());
  const int label = static_cast<int>(y);
  const unsigned read = teachers_read(g, row, label);
  if (lists_broken(g, read)) return fill(g, row, Constants<Real>::nan());
  const int slot = g.slot_of_lane(read);
  const bool one_warp_of_group = Group::kWarpPerRow || g.warp == 0;

  sweep_student(g, row);
  for (unsigned rest = read; rest; rest &= rest - 1) {
    const int k = __ffs(rest) - 1;
    sweep_teacher(g, k, row, label, __shfl_sync(kFullMask, slot, k), weighs_logits(p));
  }
  combine(g, read, true);
  if (one_warp_of_group) settle(g, row, label, read, slot);
  if constexpr (Group::kMixture) {
    g.sync();
    const unsigned used = g.tables.header->used;
    for (unsigned rest = used; rest; rest &= rest - 1)
      sweep_mixture(g, __ffs(rest) - 1, row, label);
    combine(g, used, false);
  }
  if (one_warp_of_group) conclude(g, row, label, gradient_scale);
  g.sync();
  write_gradients(g, row, label);
  return g.tables.header->loss;
}

}  // namespace edufast::cuda
