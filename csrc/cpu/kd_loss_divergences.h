// The divergences: what each makes of a row's sums, as a value and the coefficients of its
// gradients. Adding one means one function here and its line in `divergence`.
#pragma once

#include "cpu/simd.h"
#include "kd_loss.h"

namespace edufast::EDUFAST_ISA {
namespace {

// softmax over one slice: p_c = exp(u_c) / sum with u_c = (logit_c - shift) / T.
template <class A> struct Softmax {
  A shift = -kInf<A>;
  A sum = 0;
  A log_sum = 0;
  void set_sum(A total) {
    sum = total;
    log_sum = scalar_log(total);
  }
  bool empty() const { return shift == -kInf<A>; }  // every logit is -inf
  A inverse() const { return empty() ? 0 : 1 / sum; }
  A position(A logit, A inverse_t) const {  // u of one logit; that of an empty slice is +-inf
    return logit == -kInf<A> ? logit : (logit - shift) * inverse_t;
  }
};

// With E_c = exp(u_c) of the student and F_c = exp(v_c) of the teacher:
//   dD/du_c = E_c * (own + log * (L_c - mean)) + F_c * other,   plus `label` at the label's class,
//   dD/dv_c = F_c * (own + log * (M_c - mean)) + E_c * other,   likewise.
// JS: L = log(p / m), M = log(q / m). The others: L = u - v, M = v - u. Where logits are large, so
// are L and its mean, and their difference must be formed before anything is rounded.
template <class A> struct Coefficients {
  A own = 0, other = 0, log = 0, mean = 0, label = 0;
  Coefficients times(A x) const { return {own * x, other * x, log * x, mean, label * x}; }
};

template <class A> struct Divergences {
  A value = 0;
  Coefficients<A> student, teacher;
};

// What the sweeps over one slice found about student p and teacher q.
template <class A> struct Pair {
  Softmax<A> p, q;             // DKD: over the classes without the label
  A forward = 0;               // forward KL, DKD: sum F (v - u)
  A reverse = 0;               // reverse KL: sum E (u - v)
  A p_to_m = 0, q_to_m = 0;    // JS: KL(p || m), KL(q || m)
  bool has_label = false;      // DKD: the slice holds the label, and ...
  A u_label = 0, v_label = 0;  // ... these are its shifted logits over T
};

template <class A> Divergences<A> forward_kl(const Pair<A>& s) {
  const A sum = s.q.inverse(), mean = s.forward * sum;
  Divergences<A> d{mean + (s.p.log_sum - s.q.log_sum), {s.p.inverse(), -sum, 0, 0, 0}, {}};
  // Where the divergence is infinite, the teacher's gradient does not exist.
  if (d.value != kInf<A>) d.teacher = {0, 0, sum, mean, 0};
  return d;
}

template <class A> Divergences<A> reverse_kl(const Pair<A>& s) {
  const A sum = s.p.inverse(), mean = s.reverse * sum;
  const A value = mean + (s.q.log_sum - s.p.log_sum);
  if (value == kInf<A>) return {value, {}, {}};
  return {value, {0, 0, sum, mean, 0}, {s.q.inverse(), -sum, 0, 0, 0}};
}

template <class A> Divergences<A> jensen_shannon(const Pair<A>& s, A beta) {
  return {beta * s.q_to_m + (1 - beta) * s.p_to_m,
          {0, 0, (1 - beta) * s.p.inverse(), s.p_to_m, 0},
          {0, 0, beta * s.q.inverse(), s.q_to_m, 0}};
}

// (P(label), P(other classes)) and their logarithms, from log-odds: no logarithm of a difference.
template <class A> struct Binary {
  A log_label, log_other, label, other;
  explicit Binary(A log_odds) {
    const A small = scalar_log1p(scalar_exp(log_odds < 0 ? log_odds : -log_odds));
    log_label = (log_odds < 0 ? log_odds : 0) - small;
    log_other = (log_odds < 0 ? 0 : -log_odds) - small;
    label = scalar_exp(log_label);
    other = scalar_exp(log_other);
  }
};

template <class A> A log_odds(const Softmax<A>& others, A label) {
  return others.empty() ? kInf<A> : label - others.log_sum;
}

template <class A> A kl_term(A q, A log_q, A log_p) {
  if (log_q == -kInf<A>) return 0;
  return log_p == -kInf<A> ? kInf<A> : q * (log_q - log_p);
}

template <class A> Divergences<A> decoupled(const Pair<A>& s, A target, A other) {
  Divergences<A> d;
  if (!s.p.empty() && !s.q.empty()) {
    d = forward_kl(s);
    d.value *= other;
    d.student = d.student.times(other);
    d.teacher = d.teacher.times(other);
  }
  const bool p_masked = s.p.empty() && s.u_label == -kInf<A>;
  const bool q_masked = s.q.empty() && s.v_label == -kInf<A>;
  if (!s.has_label || p_masked || q_masked) return d;
  const A odds_p = log_odds(s.p, s.u_label), odds_q = log_odds(s.q, s.v_label);
  const Binary<A> p(odds_p), q(odds_q);
  d.value += target * (kl_term(q.label, q.log_label, p.log_label) +
                       kl_term(q.other, q.log_other, p.log_other));
  // q - p of the label, from the smaller of the two probabilities: there it keeps its digits.
  const A excess = target * (q.label > A(0.5) ? p.other - q.other : q.label - p.label);
  d.student.own += excess * s.p.inverse();
  d.student.label = -excess;
  const A uncertain = q.label * q.other;
  const A slope = uncertain == 0 ? 0 : target * uncertain * (odds_q - odds_p);
  if (d.value == kInf<A>) {
    d.teacher = {};
  } else {
    d.teacher.own -= slope * s.q.inverse();
    d.teacher.label = slope;
  }
  return d;
}

template <class A> Divergences<A> divergence(const KDLoss& problem, const Pair<A>& pair) {
  const A first = problem.divergence_params[0], second = problem.divergence_params[1];
  if (problem.divergence == Divergence::DKD) return decoupled(pair, first, second);
  if (pair.p.empty() || pair.q.empty()) return {};
  switch (problem.divergence) {
    case Divergence::ReverseKL: return reverse_kl(pair);
    case Divergence::JS: return jensen_shannon(pair, first);
    default: return forward_kl(pair);
  }
}

}  // namespace
}  // namespace edufast::EDUFAST_ISA
