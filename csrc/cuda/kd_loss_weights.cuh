// The weights of the teachers on one row: lane k of a warp knows teacher k's.
#pragma once

#include "cuda/kd_loss_problem.cuh"

namespace edufast::cuda {

// Whether the weights look at the teachers' distributions at T = 1.
__device__ inline bool weighs_logits(const KDLoss& p) {
  return p.weighting == Weighting::Entropy || p.weighting == Weighting::Confidence;
}

template <class Group>
__device__ typename Group::Real given_weight(const Group& g, int64_t row) {
  const KDLoss& p = g.p;
  return p.weights[row * p.weight_row_stride + g.lane * p.weight_col_stride];
}

// Teachers whose logits this row needs. One that a weight of 0 switches off is never touched.
template <class Group>
__device__ unsigned teachers_read(const Group& g, int64_t row, int label) {
  const KDLoss& p = g.p;
  bool reads = g.lane < p.num_teachers && g.alpha() != 1;
  if (reads && p.weighting == Weighting::Given) reads = given_weight(g, row) != 0;
  if (reads && (p.weighting == Weighting::Routed || p.weighting == Weighting::Confidence))
    reads = g.teacher_row(g.lane, row).holds(label);
  return g.lane_ballot(reads);
}

// The weights look at all classes, also at a label that the sweeps passed over.
template <class Group>
__device__ Sums<typename Group::Real> with_label(const Group& g, Sums<typename Group::Real> s,
                                                 int64_t row, int label) {
  using Real = typename Group::Real;
  if constexpr (Group::kWithoutLabel) {
    if (g.lane >= g.p.num_teachers || !weighs_logits(g.p)) return s;
    const Row t = g.teacher_row(g.lane, row);
    if (t.holds(label)) {
      const Real logit = logit_at<Real>(t, label);
      rescale<Real, Group::kDivergence>(s, s.z_max, larger(s.t_max, logit),
                                        g.log2_scale(g.lane + 1));
      accumulate_unit(s, logit);
    }
  }
  return s;
}

template <class Group>
__device__ typename Group::Real weight(const Group& g, int64_t row, int label, unsigned read,
                                       const Sums<typename Group::Real>& s) {
  using Real = typename Group::Real;
  const bool reads = read >> g.lane & 1;
  const int n = __popc(read);
  Real share = 0;  // entropy, confidence: what counts against the teacher
  switch (g.p.weighting) {
    case Weighting::Given: return reads ? given_weight(g, row) : Real(0);
    case Weighting::Mean: return g.mean_weight;
    case Weighting::Routed: return Real(1) / n;
    case Weighting::Entropy: {
      const Real own = reads ? entropy(s) : Real(0), total = g.lane_sum(own);
      share = total == 0 ? Real(1) / n : own / total;
      break;
    }
    case Weighting::Confidence: {
      Real own = Constants<Real>::lowest;
      if (reads) own = bounded_cross_entropy(s, logit_at<Real>(g.teacher_row(g.lane, row), label));
      const Real high = g.lane_max(own), e = reads ? exp_of(own - high) : Real(0);
      share = e / g.lane_sum(e);
      break;
    }
  }
  return n > 1 ? (1 - share) / (n - 1) : Real(1);
}

}  // namespace edufast::cuda
