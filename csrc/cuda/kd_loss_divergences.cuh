// The divergences: what each adds up in a sweep, and what it makes of the sums, as a value and the
// coefficients of its gradients. Derived in docs/kernels.md, whose symbols are the names here, with
// logarithms in base 2. Adding one means one function here, its case in `divergence` and, where it
// needs a sum of its own, in `accumulate`; and its line in `traits_of` of kd_loss.h.
#pragma once

#include "cuda/kd_loss_sums.cuh"

namespace edufast::cuda {

// With p the softmax of the differentiated side and q the other's:
//   dD/d(logit / T) = p (own + ratio (L - mean)) + q other,   plus `label` at the label's class.
// L is the log ratio of the side to its partner, and mean that of L, in units of log 2; ratio holds
// ln 2. Where logits are large, so are L and its mean: their difference comes first.
template <class Real>
struct Coefficients {
  Real own = 0, other = 0, ratio = 0, mean = 0, label = 0;

  __device__ Coefficients times(Real x) const {
    return {own * x, other * x, ratio * x, mean, label * x};
  }
};

template <class Real>
struct DivergenceResult {
  Real value = 0;
  Coefficients<Real> student, teacher;
};

// Which sides have a log ratio in their gradient.
template <Divergence D>
constexpr bool kStudentRatio = traits_of(D).student_first || traits_of(D).mixture;
template <Divergence D>
constexpr bool kTeacherRatio = !traits_of(D).student_first;

// One side's gradient for one class.
template <bool Ratio, class Real>
__device__ __forceinline__ Real gradient(const Coefficients<Real>& c, Real log_own, Real log_other,
                                         Real log_ratio) {
  Real factor = c.own;
  if constexpr (Ratio) factor += weighted(c.ratio, log_ratio - c.mean);
  return weighted(fast_exp2(log_own), factor) + c.other * fast_exp2(log_other);
}

// --- sums ---------------------------------------------------------------------------------------

// One class of a teacher's sweep.
template <class Real, Divergence D>
__device__ __forceinline__ void accumulate(Sums<Real>& s, Real z, Real t, Real scale) {
  const Real dz = z - s.z_max, dt = t - s.t_max;
  const Real e = fast_exp2(dz * scale), f = fast_exp2(dt * scale);
  s.z_sum += e;
  s.t_sum += f;
  if constexpr (traits_of(D).student_first) s.cross += is_masked(z) ? Real(0) : e * (dz - dt);
  else if constexpr (!traits_of(D).mixture) s.cross += is_masked(t) ? Real(0) : f * (dt - dz);
}

// One class of the second sweep that a mixture needs. It leaves KL(p || m) in z_sum and
// KL(q || m) in t_sum, in units of log 2.
template <class Real>
__device__ __forceinline__ void accumulate_mixture(Sums<Real>& s, Real log_p, Real log_q,
                                                   Real p_log_ratio, Real q_log_ratio) {
  s.z_sum += weighted(fast_exp2(log_p), p_log_ratio);
  s.t_sum += weighted(fast_exp2(log_q), q_log_ratio);
}

// log2(p / m) with m = p_share p + q_share q; anything where p is 0. m / p - 1 is formed from
// q / p - 1: with a share of 1e-7, m itself would be p or q after rounding.
template <class Real>
__device__ __forceinline__ Real log_ratio_to_mixture(Real log_p, Real log_q, Real p_share,
                                                     Real q_share) {
  const Real quotient = fast_exp2(log_q - log_p), y = q_share * (quotient - 1);
  const Real most = Real(1e37);  // instead of an overflow, where p is about to underflow
  Real far = p_share + q_share * quotient;
  far = far > most ? most : far;
  return y > Real(-0.5) && y < Real(0.5) ? -log1p_of(y) * Constants<Real>::log2e : -log2_of(far);
}

// --- values and coefficients --------------------------------------------------------------------

// What is known of a row and its label. Without a label in the slice, or where the divergence does
// not look at it, `has_label` is false.
template <class Real>
struct Pair {
  Sums<Real> sums;
  Real scale, z_log_sum, t_log_sum;  // log2(e) / T, and the logarithms of z_sum and t_sum
  bool has_label;
  Real z_label, t_label;
};

// Infinite where sums may overflow.
template <class Real>
__device__ __forceinline__ Real settled(Real divergence) {
  return divergence > Real(kLargestDivergence) ? Constants<Real>::infinity() : divergence;
}

// 0 * inf in a sum of finite or masked logits: mass, though it underflowed, where the other side is
// masked.
template <class Real>
__device__ __forceinline__ Real infinite_if_nan(Real divergence, bool has_nan) {
  return divergence != divergence && !has_nan ? Constants<Real>::infinity() : divergence;
}

// KL divergence, in units of log 2, of the side whose exponentials `cross` has from the other.
template <class Real>
__device__ __forceinline__ Real mean_log_ratio(const Pair<Real>& s, Real sum, Real log_sum,
                                               Real other_log_sum) {
  const Real mean = s.sums.cross / sum * s.scale + (other_log_sum - log_sum);
  return infinite_if_nan(mean, s.sums.z_sum != s.sums.z_sum || s.sums.t_sum != s.sums.t_sum);
}

template <class Real>
__device__ __forceinline__ DivergenceResult<Real> forward_kl(const Pair<Real>& s) {
  constexpr Real ln2 = Constants<Real>::ln2;
  const Real mean = mean_log_ratio(s, s.sums.t_sum, s.t_log_sum, s.z_log_sum);
  return {settled(mean * ln2), {1, -1, 0, 0, 0}, {0, 0, ln2, mean, 0}};
}

template <class Real>
__device__ __forceinline__ DivergenceResult<Real> reverse_kl(const Pair<Real>& s) {
  constexpr Real ln2 = Constants<Real>::ln2;
  const Real mean = mean_log_ratio(s, s.sums.z_sum, s.z_log_sum, s.t_log_sum);
  return {settled(mean * ln2), {0, 0, ln2, mean, 0}, {1, -1, 0, 0, 0}};
}

template <class Real>
__device__ __forceinline__ DivergenceResult<Real> js(Real p_to_m, Real q_to_m, Real beta,
                                                     Real one_minus_beta) {
  constexpr Real ln2 = Constants<Real>::ln2;
  return {(beta * q_to_m + one_minus_beta * p_to_m) * ln2,
          {0, 0, one_minus_beta * ln2, p_to_m, 0},
          {0, 0, beta * ln2, q_to_m, 0}};
}

// Logarithms of the probabilities of the label and of the rest, all other classes together.
template <class Real>
struct Binary {
  Real log_label, log_rest;
  bool empty;

  __device__ Binary(Real logit, Real rest_max, Real rest_sum, Real inverse_t) {
    const Real high = larger(rest_max, logit);
    log_label = (logit - high) * inverse_t;
    log_rest = rest_sum == 0 ? -Constants<Real>::infinity()
                             : (rest_max - high) * inverse_t + log_of(rest_sum);
    empty = is_masked(logit) && rest_sum == 0;
    const Real log_sum = log_of(exp_of(log_label) + exp_of(log_rest));
    log_label -= log_sum;
    log_rest -= log_sum;
  }
};

// The decoupled divergence (Zhao et al. 2022, eq. 7). The sums are over the rest.
template <class Real>
__device__ __forceinline__ DivergenceResult<Real> dkd(const Pair<Real>& s, Real target_weight,
                                                      Real rest_weight) {
  const Sums<Real>& rest = s.sums;
  DivergenceResult<Real> d;
  if (rest.z_sum != 0 && rest.t_sum != 0) {
    d = forward_kl(s);
    d.value *= rest_weight;
    d.student = d.student.times(rest_weight);
    d.teacher = d.teacher.times(rest_weight);
  }
  if (!s.has_label) return d;

  const Real inverse_t = s.scale * Constants<Real>::ln2;
  const Binary<Real> z(s.z_label, rest.z_max, rest.z_sum, inverse_t);
  const Binary<Real> t(s.t_label, rest.t_max, rest.t_sum, inverse_t);
  if (z.empty || t.empty) return d;
  const Real p_label = exp_of(z.log_label), q_label = exp_of(t.log_label);
  const Real q_rest = exp_of(t.log_rest);
  Real kl = is_masked(t.log_label) ? Real(0) : q_label * (t.log_label - z.log_label);
  kl += is_masked(t.log_rest) ? Real(0) : q_rest * (t.log_rest - z.log_rest);
  d.value += target_weight * infinite_if_nan(settled(kl), p_label != p_label || q_label != q_label);
  const Real excess = target_weight * (q_label - p_label);
  d.student.own += excess;
  if (rest.z_sum != 0) d.student.label = -excess;
  const Real odds = (t.log_label - z.log_label) - (t.log_rest - z.log_rest);
  const Real slope = target_weight * weighted(q_label * q_rest, odds);
  d.teacher.own -= slope;
  d.teacher.label = slope;
  return d;
}

template <Divergence D, class Real>
__device__ __forceinline__ DivergenceResult<Real> divergence(const Pair<Real>& s, Real first,
                                                             Real second) {
  if constexpr (D == Divergence::ForwardKL) return forward_kl(s);
  if constexpr (D == Divergence::ReverseKL) return reverse_kl(s);
  if constexpr (D == Divergence::JS) return js(s.sums.z_sum, s.sums.t_sum, first, second);
  if constexpr (D == Divergence::DKD) return dkd(s, first, second);
}

}  // namespace edufast::cuda
