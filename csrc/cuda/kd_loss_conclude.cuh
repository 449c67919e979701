// What a row's sums amount to: weights, the loss, and a few coefficients of the gradients. Lane k
// works for teacher k.
#pragma once

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
  Sums<Real> s;
  if (read >> g.lane & 1) s = g.tables.total[g.lane + 1];
  const Real w = weight(g, row, label, read, with_label(g, s, row, label));
  // A side without any class contributes nothing; a label kept apart may, so that decides later.
  const bool empty = !Group::kWithoutLabel && (s.z_sum == 0 || s.t_sum == 0);
  const bool use = read >> g.lane & 1 && w != 0 && !empty;
  if (use) {
    TeacherRow<Real>& r = g.tables.teachers[g.lane];
    r.weight = w;
    r.scale = g.log2_scale(g.lane + 1);
    r.z_max = s.z_max;
    r.t_max = s.t_max;
    r.z_log_sum = s.z_sum == 0 ? Real(0) : log2_of(s.z_sum);
    r.t_log_sum = s.t_sum == 0 ? Real(0) : log2_of(s.t_sum);
    r.cache = slot;
  }
  const unsigned used = g.lane_ballot(use);
  if (g.lane == 0) g.tables.header->used = used;
  __syncwarp();
}

// The cross-entropy; its gradient, times `factor`, goes into h.
template <class Real>
__device__ __forceinline__ Real cross_entropy(Header<Real>& h, const Sums<Real>& s, Real logit,
                                              int classes, Real smoothing, Real factor) {
  if (s.z_sum == 0) return Constants<Real>::infinity();  // all masked; no gradient exists
  h.z_max = s.z_max;
  h.z_log_sum = log2_of(s.z_sum);
  h.own = factor;
  h.uniform = smoothing == 0 ? Real(0) : factor * smoothing / classes;
  h.label -= factor * (1 - smoothing);
  Real loss = (1 - smoothing) * (s.z_max - logit) + log_of(s.z_sum);
  if (smoothing != 0) loss += smoothing * settled(-s.extra / classes);
  return loss;
}

// The row's loss, and the coefficients of its gradients times `gradient_scale`.
template <class Group>
__device__ void conclude(Group& g, int64_t row, int label, typename Group::Real gradient_scale) {
  using Real = typename Group::Real;
  const KDLoss& p = g.p;
  const Real alpha = g.alpha();
  bool use = g.tables.header->used >> g.lane & 1;
  Real loss = 0, at_label = 0;
  if (use) {
    TeacherRow<Real>& r = g.tables.teachers[g.lane];
    Pair<Real> pair = {g.tables.total[g.lane + 1], r.scale, r.z_log_sum, r.t_log_sum, false, 0, 0};
    if constexpr (Group::kWithoutLabel) {
      const Row t = g.teacher_row(g.lane, row);
      pair.has_label = t.holds(label);
      if (pair.has_label) {
        pair.z_label = g.student_logit(row, label);
        pair.t_label = logit_at<Real>(t, label);
      }
    }
    const auto d = divergence<Group::kDivergence>(pair, g.divergence_param(0),
                                                  g.divergence_param(1));
    const Real temperature = g.temperature(g.lane);
    const Real share = (1 - alpha) * r.weight;
    // d (T^2 D) / d logit = T dD / d (logit / T)
    const Real factor = share * temperature * gradient_scale;
    r.student = d.student.times(factor);
    r.teacher = d.teacher.times(factor);
    loss = share * temperature * temperature * d.value;
    use = d.value != Constants<Real>::infinity();  // or no gradient exists
    if (use) at_label = r.student.label;
  }
  const unsigned used = g.lane_ballot(use);
  Header<Real> h = {};
  h.used = used;
  h.loss = g.lane_sum(loss);
  h.label = g.lane_sum(at_label);
  if (alpha != 0)
    h.loss += alpha * cross_entropy<Real>(h, g.tables.total[0], g.student_logit(row, label),
                                          p.classes, g.smoothing(), alpha * gradient_scale);
  __syncwarp();
  if (g.lane == 0) *g.tables.header = h;
}

}  // namespace edufast::cuda
