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
  if (traits_.without_label && local_[k] >= 0) {
    A z, x;
    pair.has_label = true;
    pair.u_label = pair.p.position(*student(k, local_[k], 1, &z), slice_[k].inverse_t);
    pair.v_label = pair.q.position(*teacher(k, local_[k], 1, &x), slice_[k].inverse_t);
  }
  if (pair.p.empty() || pair.q.empty()) return;
  if (traits_.student_first) accumulate_student_first(k);
  if (traits_.mixture) accumulate_mixture(k);
  // 0 * inf, not a NaN logit: mass, though underflown, where the other side is masked.
  if (pair.p.sum != pair.p.sum || pair.q.sum != pair.q.sum) return;
  if (pair.cross != pair.cross) pair.cross = kInf<A>;
}

// Raises the running maximum; false as long as every logit so far is -inf.
template <class A>
bool Rows<A>::raise(A largest, A inverse_t, A* max, Sums<A>* sums) {
  if (largest > *max || largest != largest) {
    if (*max != -kInf<A>) sums->rescale(double(largest) - *max, inverse_t);
    *max = largest;
  }
  return *max != -kInf<A>;
}

// Softmax of the student over slice k, and the cross-entropy's in the same pass where slice k is
// all classes.
template <class A>
void Rows<A>::student_softmax(int64_t k) {
  if (known_[k]) return;
  known_[k] = true;
  const Slice& s = slice_[k];
  if (unit_ == k_ && covers_all(s) && !traits_.without_label) unit_ = k;
  Softmax<A>& p = p_of_[k];
  Sums<A> sums;
  held_[k] = cached_ ? 0 : -1;
  for_blocks(s.classes, [&](int64_t j, int64_t n) {
    const A* z = student_rest(k, j, n, e_[k]);
    if (!raise(maximum(z, n), s.inverse_t, &p.max, &sums)) return clear(e_[k], n);
    exponentials(z, n, p.max, s.inverse_t, student_unit(k), e_[k], e_[k_], &sums,
                 ahead(p_.student, s.columns ? 0 : s.start + j));
  });
  p.set_sum(A(sums.sum));
  if (k == unit_ && k != k_) {
    p_of_[k_].max = p.max;
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
    if (!raise(maximum(t, n), s.inverse_t, &pair.q.max, &sums)) return clear(f_[k], n);
    exponentials_against(t, n, pair.q.max, s.inverse_t, unit, f_[k], student(k, j, n, p_log_ratio_),
                         pair.p.max, &sums, ahead(p_.teachers[k].logits, j));
  });
  pair.q.set_sum(A(sums.sum));
  pair.cross = A(sums.cross);
  if (weighs) unit_statistics(k, sums);
}

// Entropy of the teacher and its cross-entropy with the label, at T = 1.
template <class A>
void Rows<A>::unit_statistics(int64_t k, Sums<A> sums) {
  A max = pair_[k].q.max, label = -kInf<A>;
  if (local_[k] >= 0) label = *teacher(k, local_[k], 1, &label);
  if (traits_.without_label && label != -kInf<A>) {  // the sums leave it out
    raise(label, 1, &max, &sums);
    const A e = scalar_exp(label - max);
    sums.unit += e;
    sums.unit_weighted += e * (label - max);
  }
  const double log_sum = __builtin_log(sums.unit);
  const bool empty = max == -kInf<A>;
  const double entropy = log_sum - sums.unit_weighted / sums.unit;
  entropy_[k] = empty || entropy < kLeastEntropy ? 0 : entropy;
  label_cost_[k] = empty ? kInf<double> : log_sum - (double(label) - max);
}

template <class A>
void Rows<A>::accumulate_student_first(int64_t k) {
  double sum = 0;
  for_blocks(slice_[k].classes, [&](int64_t j, int64_t n) {
    const A* e = student_block(k, j, n);
    student_log_ratios(k, j, n);
    sum += dot(e, p_log_ratio_, n);
  });
  pair_[k].cross = A(sum);
}

template <class A>
void Rows<A>::accumulate_mixture(int64_t k) {
  double p_to_m = 0, q_to_m = 0;
  for_blocks(slice_[k].classes, [&](int64_t j, int64_t n) {
    const A *e = student_block(k, j, n), *f = teacher_block(k, j, n);
    mixture_log_ratios(k, e, f, n);
    p_to_m += dot(e, p_log_ratio_, n);
    q_to_m += dot(f, q_log_ratio_, n);
  });
  pair_[k].p_to_m = A(p_to_m) * pair_[k].p.inverse();
  pair_[k].q_to_m = A(q_to_m) * pair_[k].q.inverse();
}

}  // namespace
}  // namespace edufast::EDUFAST_ISA
