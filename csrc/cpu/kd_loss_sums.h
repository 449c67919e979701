// The first sweep over a row: it reads the logits and leaves sums.
#pragma once

#include "cpu/kd_loss_row.h"

namespace edufast::EDUFAST_ISA {
namespace {

template <class A>
void Rows<A>::find_labels() {
  for (int64_t k = 0; k < k_; ++k) {
    const Slice& s = slice_[k];
    if (!s.columns) {
      const int64_t j = y_ - s.start;
      local_[k] = j >= 0 && j < s.classes ? j : -1;
      continue;
    }
    for (int64_t j = 0; j < s.classes && local_[k] < 0; ++j)
      if (s.columns[j] == y_) local_[k] = j;
  }
}

template <class A>
void Rows<A>::first_sweep(int64_t k) {
  pair_[k] = {};
  Pair<A>& pair = pair_[k];
  student_softmax(group_[k]);
  pair.p = p_of_[group_[k]];
  teacher_softmax(k);
  if (p_.divergence == Divergence::DKD && local_[k] >= 0) {
    A z, x;
    pair.has_label = true;
    pair.u_label = pair.p.position(*student(k, local_[k], 1, &z), slice_[k].inverse_t);
    pair.v_label = pair.q.position(*teacher(k, local_[k], 1, &x), slice_[k].inverse_t);
  }
  if (pair.p.empty() || pair.q.empty()) return;
  if (p_.divergence == Divergence::ReverseKL) reverse_cross_sum(k);
  if (p_.divergence == Divergence::JS) mixture_divergences(k);
  // 0 * inf, not a NaN logit: mass, though underflown, where the other side is masked.
  if (pair.p.sum != pair.p.sum || pair.q.sum != pair.q.sum) return;
  if (pair.forward != pair.forward) pair.forward = kInf<A>;
  if (pair.reverse != pair.reverse) pair.reverse = kInf<A>;
}

// Raises the running maximum; false as long as every logit so far is -inf.
template <class A>
bool Rows<A>::raise(A maximum, A inverse_t, A* shift, Sums<A>* sums) {
  if (maximum > *shift || maximum != maximum) {
    if (*shift != -kInf<A>) sums->rescale(double(maximum) - *shift, inverse_t);
    *shift = maximum;
  }
  return *shift != -kInf<A>;
}

// Softmax of the student over slice k, and the cross-entropy's in the same pass where slice k is
// all classes.
template <class A>
void Rows<A>::student_softmax(int64_t k) {
  if (known_[k]) return;
  known_[k] = true;
  const Slice& s = slice_[k];
  if (unit_ == k_ && covers_all(s) && p_.divergence != Divergence::DKD) unit_ = k;
  Softmax<A>& p = p_of_[k];
  Sums<A> sums;
  held_[k] = cached_ ? 0 : -1;
  for_blocks(s.classes, [&](int64_t j, int64_t n) {
    const A* z = student_rest(k, j, n, e_[k]);
    if (!raise(maximum(z, n), s.inverse_t, &p.shift, &sums)) return clear(e_[k], n);
    exponentials(z, n, p.shift, s.inverse_t, student_unit(k), e_[k], e_[k_], &sums,
                 ahead(p_.student, s.columns ? 0 : s.start + j));
  });
  p.set_sum(A(sums.soft));
  if (k == unit_ && k != k_) {
    p_of_[k_].shift = p.shift;
    p_of_[k_].set_sum(A(sums.unit));
  }
}

template <class A>
int Rows<A>::student_unit(int64_t k) const {
  return k == unit_ && k != k_ && p_.alpha != 0 ? unit_method(slice_[k].temperature) : kNoUnit;
}

template <class A>
void Rows<A>::teacher_softmax(int64_t k) {
  const Slice& s = slice_[k];
  const bool weighs = p_.weighting == Weighting::Entropy || p_.weighting == Weighting::Confidence;
  const int unit = weighs ? unit_method(s.temperature) : kNoUnit;
  Pair<A>& pair = pair_[k];
  Sums<A> sums;
  for_blocks(s.classes, [&](int64_t j, int64_t n) {
    const A* t = teacher_rest(k, j, n, f_[k]);
    if (!raise(maximum(t, n), s.inverse_t, &pair.q.shift, &sums)) return clear(f_[k], n);
    exponentials_against(t, n, pair.q.shift, s.inverse_t, unit, f_[k], student(k, j, n, l_),
                         pair.p.shift, &sums, ahead(p_.teachers[k].logits, j));
  });
  pair.q.set_sum(A(sums.soft));
  pair.forward = A(sums.cross);
  if (weighs) unit_statistics(k, sums);
}

// Entropy of the teacher and its cross-entropy with the label, at T = 1.
template <class A>
void Rows<A>::unit_statistics(int64_t k, Sums<A> sums) {
  A shift = pair_[k].q.shift, label = -kInf<A>;
  if (local_[k] >= 0) label = *teacher(k, local_[k], 1, &label);
  if (p_.divergence == Divergence::DKD && label != -kInf<A>) {  // which the sums leave out
    raise(label, 1, &shift, &sums);
    const A e = scalar_exp(label - shift);
    sums.unit += e;
    sums.unit_weighted += e * (label - shift);
  }
  const double log_sum = __builtin_log(sums.unit);
  const bool empty = shift == -kInf<A>;
  entropy_[k] = empty ? 0 : log_sum - sums.unit_weighted / sums.unit;
  label_cost_[k] = empty ? kInf<double> : log_sum - (double(label) - shift);
}

template <class A>
void Rows<A>::reverse_cross_sum(int64_t k) {
  double sum = 0;
  for_blocks(slice_[k].classes, [&](int64_t j, int64_t n) {
    const A* e = student_block(k, j, n);
    student_log_ratio(k, j, n);
    sum += dot(e, l_, n);
  });
  pair_[k].reverse = A(sum);
}

template <class A>
void Rows<A>::mixture_divergences(int64_t k) {
  double p_to_m = 0, q_to_m = 0;
  for_blocks(slice_[k].classes, [&](int64_t j, int64_t n) {
    const A *e = student_block(k, j, n), *f = teacher_block(k, j, n);
    mixture_log_ratios(k, e, f, n);
    p_to_m += dot(e, l_, n);
    q_to_m += dot(f, m_, n);
  });
  pair_[k].p_to_m = A(p_to_m) * pair_[k].p.inverse();
  pair_[k].q_to_m = A(q_to_m) * pair_[k].q.inverse();
}

}  // namespace
}  // namespace edufast::EDUFAST_ISA
