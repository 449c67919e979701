// The multi-teacher loss of a row and its gradient. Specification: edufast/ops/kd_loss_reference.py.
//
//   sweeps     every row is read once: maxima, and sums of exponentials, online; the logits stay in
//              shared memory as far as it reaches, the others come back from L2
//   settle     weights, one lane per teacher
//   conclude   the losses, and a few coefficients per teacher
//   gradients  one pass that knows the losses by these coefficients only
#pragma once

#include "cuda/kd_loss_gradient.cuh"
#include "cuda/kd_loss_sweeps.cuh"
#include "cuda/kd_loss_weights.cuh"

namespace edufast::cuda {

// Lists on the device are not checked before the launch; prepare_kernel() flags bad ones.
template <class Group>
__device__ bool lists_broken(const Group& g, unsigned read) {
  const bool broken = read >> g.lane & 1 && g.p.teachers[g.lane].columns &&
                      g.positions(g.lane)[g.p.classes];
  return __any_sync(kFullMask, broken);
}

// The teachers that contribute, and what is known of each before its coefficients.
template <class Group>
__device__ void settle(Group& g, int64_t row, int label, unsigned read, int slot) {
  using Real = typename Group::Real;
  Stats<Real> s;
  if (read >> g.lane & 1) s = g.tables.total[g.lane + 1];
  const Real w = weight(g, row, label, read, with_label(g, s, row, label));
  // A side without any class contributes nothing; with DKD its label may, so that decides later.
  const bool empty = !Group::kWithoutLabel && (s.zsum == 0 || s.tsum == 0);
  const bool use = read >> g.lane & 1 && w != 0 && !empty;
  if (use) {
    TeacherRow<Real>& r = g.tables.teachers[g.lane];
    r.weight = w;
    r.scale = g.log2_scale(g.lane + 1);
    r.zmax = s.zmax;
    r.tmax = s.tmax;
    r.zlog = s.zsum == 0 ? Real(0) : log2_of(s.zsum);
    r.tlog = s.tsum == 0 ? Real(0) : log2_of(s.tsum);
    r.cache = slot;
  }
  const unsigned used = __ballot_sync(kFullMask, use);
  if (g.lane == 0) g.tables.header->used = used;
  __syncwarp();
}

// The row's loss, and the coefficients of its gradients times `gradient_scale`.
template <class Group>
__device__ void conclude(Group& g, int64_t row, int label, typename Group::Real gradient_scale) {
  using Real = typename Group::Real;
  const KDLoss& p = g.p;
  bool use = g.tables.header->used >> g.lane & 1;
  Real loss = 0, at_label = 0;
  if (use) {
    TeacherRow<Real>& r = g.tables.teachers[g.lane];
    const Real temperature = p.teachers[g.lane].temperature;
    const Real share = (1 - Real(p.alpha)) * r.weight;
    // d (T^2 D) / d logit = T dD / d (logit / T)
    const Real factor = share * temperature * gradient_scale;
    Label<Real> known = {};
    if constexpr (Group::kWithoutLabel) {
      const Row t = g.teacher_row(g.lane, row);
      known.known = t.holds(label);
      if (known.known)
        known = {true, logit_at<Real>(g.student_row(row), label), logit_at<Real>(t, label)};
    }
    const Real divergence = conclude_divergence<Real, Group::kDivergence>(
        r, g.tables.total[g.lane + 1], known, p.divergence_params, factor, &at_label);
    loss = share * temperature * temperature * divergence;
    use = divergence != Constants<Real>::infinity();  // or no gradient exists
  }
  const unsigned used = __ballot_sync(kFullMask, use);
  if (!use) at_label = 0;
  Header<Real> h = {};
  h.used = used;
  h.loss = warp_sum(loss);
  h.label = warp_sum(at_label);
  if (p.alpha != 0)
    h.loss += Real(p.alpha) * conclude_cross_entropy<Real>(
                                  h, g.tables.total[0], logit_at<Real>(g.student_row(row), label),
                                  p.classes, p.label_smoothing, p.alpha * gradient_scale);
  __syncwarp();
  if (g.lane == 0) *g.tables.header = h;
}

// Writes all gradients of the row, times `gradient_scale`. The loss is for the group's leader.
template <class Group>
__device__ typename Group::Real run_row(Group& g, int64_t row,
                                        typename Group::Real gradient_scale) {
  using Real = typename Group::Real;
  const KDLoss& p = g.p;
  const int64_t y = p.labels[row * p.label_stride];
  if (y == p.ignore_index) return fill(g, row, Real(0));
  if (y < 0 || y >= p.classes) return fill(g, row, Constants<Real>::nan());
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
  if constexpr (Group::kDivergence == Divergence::JS) {
    g.sync();
    const unsigned used = g.tables.header->used;
    for (unsigned rest = used; rest; rest &= rest - 1) sweep_mixture(g, __ffs(rest) - 1, row, label);
    combine(g, used, false);
  }
  if (one_warp_of_group) conclude(g, row, label, gradient_scale);
  g.sync();
  write_gradients(g, row, label);
  return g.tables.header->loss;
}

}  // namespace edufast::cuda
