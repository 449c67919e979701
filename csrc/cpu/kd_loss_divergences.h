// The divergences: what each makes of a row's sums, as a value and the coefficients of its
// gradients. Derived in docs/kernels.md, whose symbols are the names here. Adding one means one
// function here, its line in `divergence`, and its line in `traits_of` of kd_loss.h.
#pragma once

#include "cpu/simd.h"
#include "kd_loss.h"

namespace edufast::EDUFAST_ISA {
namespace {

// softmax over one slice: p_c = exp(u_c) / sum with u_c = (logit_c - max) / T.
template <class A> struct Softmax {
  A max = -kInf<A>;
  A sum = 0;
  A log_sum = 0;
  void set_sum(A total) {
    sum = total;
    log_sum = scalar_log(total);
  }
  bool empty() const { return max == -kInf<A>; }  // every logit is -inf
  A inverse() const { return empty() ? 0 : 1 / sum; }
  // u of one logit; that of an empty slice is +-inf, that of an infinite logit NaN.
  A position(A logit, A inverse_t) const {
    if (logit == -kInf<A>) return logit;
    return logit == kInf<A> ? logit - logit : (logit - max) * inverse_t;
  }
};

// With the exponentials e_c = exp(u_c) of the student and f_c = exp(v_c) of the teacher:
//   dD/du_c = e_c (own + ratio (L_c - mean)) + f_c other,   plus `label` at the label's class,
//   dD/dv_c = f_c (own + ratio (L_c - mean)) + e_c other,   likewise;
// the normalisers are in own, other and ratio. L_c is the log ratio of the differentiated side to
// its partner: u - v, v - u; with a mixture log(p / m), log(q / m). Where logits are large, so are
// L and its mean, and their difference must be formed before anything is rounded.
template <class A> struct Coefficients {
  A own = 0, other = 0, ratio = 0, mean = 0, label = 0;
  Coefficients times(A x) const { return {own * x, other * x, ratio * x, mean, label * x}; }
};

template <class A> struct DivergenceResult {
  A value = 0;
  Coefficients<A> student, teacher;
};

// What the sweeps over one slice found about student p and teacher q.
template <class A> struct Pair {
  Softmax<A> p, q;             // with `without_label`: over the other classes
  A cross = 0;                 // sum of f (v - u); with `student_first`: of e (u - v)
  A p_to_m = 0, q_to_m = 0;    // with `mixture`: KL(p || m), KL(q || m)
  bool has_label = false;      // with `without_label`: the slice holds the label, and ...
  A u_label = 0, v_label = 0;  // ... these are its u and v
};

// Infinite where sums may overflow.
template <class A> A settled(A value) { return value > A(kLargestDivergence) ? kInf<A> : value; }

template <class A> DivergenceResult<A> forward_kl(const Pair<A>& s) {
  const A sum = s.q.inverse(), mean = s.cross * sum;
  DivergenceResult<A> d{
      settled(mean + (s.p.log_sum - s.q.log_sum)), {s.p.inverse(), -sum, 0, 0, 0}, {}};
  // Where the divergence is infinite, the teacher's gradient does not exist.
  if (d.value != kInf<A>) d.teacher = {0, 0, sum, mean, 0};
  return d;
}

template <class A> DivergenceResult<A> reverse_kl(const Pair<A>& s) {
  const A sum = s.p.inverse(), mean = s.cross * sum;
  const A value = settled(mean + (s.q.log_sum - s.p.log_sum));
  if (value == kInf<A>) return {value, {}, {}};
  return {value, {0, 0, sum, mean, 0}, {s.q.inverse(), -sum, 0, 0, 0}};
}

template <class A> DivergenceResult<A> js(const Pair<A>& s, A beta, A one_minus_beta) {
  return {beta * s.q_to_m + one_minus_beta * s.p_to_m,
          {0, 0, one_minus_beta * s.p.inverse(), s.p_to_m, 0},
          {0, 0, beta * s.q.inverse(), s.q_to_m, 0}};
}

// (P(label), P(rest)) and their logarithms, from log-odds: no logarithm of a difference.
template <class A> struct Binary {
  A log_label, log_rest, label, rest;
  explicit Binary(A log_odds) {
    const A small = scalar_log1p(scalar_exp(log_odds < 0 ? log_odds : -log_odds));
    log_label = (log_odds < 0 ? log_odds : 0) - small;
    log_rest = (log_odds < 0 ? 0 : -log_odds) - small;
    label = scalar_exp(log_label);
    rest = scalar_exp(log_rest);
  }
};

template <class A> A log_odds(const Softmax<A>& rest, A label) {
  return rest.empty() && label == label ? kInf<A> : label - rest.log_sum;
}

template <class A> A kl_term(A q, A log_q, A log_p) {
  if (log_q == -kInf<A>) return 0;
  return log_p == -kInf<A> ? kInf<A> : q * (log_q - log_p);
}

template <class A> DivergenceResult<A> dkd(const Pair<A>& s, A target_weight, A rest_weight) {
  DivergenceResult<A> d;
  if (!s.p.empty() && !s.q.empty()) {
    d = forward_kl(s);
    d.value *= rest_weight;
    d.student = d.student.times(rest_weight);
    d.teacher = d.teacher.times(rest_weight);
  }
  const bool p_masked = s.p.empty() && s.u_label == -kInf<A>;
  const bool q_masked = s.q.empty() && s.v_label == -kInf<A>;
  if (!s.has_label || p_masked || q_masked) return d;
  const A odds_p = log_odds(s.p, s.u_label), odds_q = log_odds(s.q, s.v_label);
  const Binary<A> p(odds_p), q(odds_q);
  const A target = kl_term(q.label, q.log_label, p.log_label) +
                   kl_term(q.rest, q.log_rest, p.log_rest);
  d.value += target_weight * settled(target);
  // q - p of the label, from the smaller of the two probabilities: there it keeps its digits.
  const A excess = target_weight * (q.label > A(0.5) ? p.rest - q.rest : q.label - p.label);
  d.student.own += excess * s.p.inverse();
  d.student.label = -excess;
  const A uncertain = q.label * q.rest;
  const A slope = uncertain == 0 ? 0 : target_weight * uncertain * (odds_q - odds_p);
  if (d.value == kInf<A>) {
    d.teacher = {};
  } else {
    d.teacher.own -= slope * s.q.inverse();
    d.teacher.label = slope;
  }
  return d;
}

template <class A> DivergenceResult<A> divergence(const KDLoss& problem, const Pair<A>& pair) {
  const A first = problem.divergence_params[0], second = problem.divergence_params[1];
  if (problem.divergence == Divergence::DKD) return dkd(pair, first, second);
  if (pair.p.empty() || pair.q.empty()) return {};
  switch (problem.divergence) {
    case Divergence::ReverseKL: return reverse_kl(pair);
    case Divergence::JS: return js(pair, first, second);
    default: return forward_kl(pair);
  }
}

}  // namespace
}  // namespace edufast::EDUFAST_ISA
