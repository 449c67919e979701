// The second sweep over a row: it writes the gradients, knowing the divergence by its coefficients.
#pragma once

#include "cpu/kd_loss_row.h"

namespace edufast::EDUFAST_ISA {
namespace {

template <class A>
void Rows<A>::second_sweep(A scale) {
  const int64_t classes = p_.classes;
  A* row = static_cast<A*>(p_.grad) + r_ * classes;  // where grad has the type of the sums
  for_blocks(classes, [&](int64_t c, int64_t n) {
    A* g = !sum_ ? row + c : scatters_ ? sum_ + c : sum_;
    whole_gradient(c, n, scale, g);
    for (int64_t k = 0; k < k_; ++k) {
      const Slice& s = slice_[k];
      if (s.columns || joins(k)) continue;
      const int64_t stop = s.start + s.classes;
      const int64_t begin = c > s.start ? c : s.start, end = c + n < stop ? c + n : stop;
      if (begin < end) slice_gradient(k, begin - s.start, end - begin, g + (begin - c));
    }
    if (sum_ && !scatters_) write(sum_, n, p_.grad_dtype, p_.grad, r_ * classes + c);
  });
  if (!scatters_) return;
  for (int64_t k = 0; k < k_; ++k)
    if (slice_[k].columns) scatter_gradient(k, sum_ ? sum_ : row);
  if (sum_) write(sum_, classes, p_.grad_dtype, p_.grad, r_ * classes);
}

// Whether teacher k's part of the gradient is a multiple of exponentials that are at hand, as for
// forward KL: such teachers are added in the pass that begins the gradient.
template <class A>
bool Rows<A>::joins(int64_t k) const {
  return cached_ && weight_[k] != 0 && group_[k] == unit_ && student_[k].ratio == 0 &&
         !p_.teachers[k].grad;
}

// Sets g to the gradient of the cross-entropy and of the teachers that join it, with what teachers
// of all classes share.
template <class A>
void Rows<A>::whole_gradient(int64_t c, int64_t n, A scale, A* g) {
  const bool counts = p_.alpha != 0 && y_ != p_.ignore_index && !p_of_[k_].empty();
  if (!counts && unit_ == k_) return clear(g, n);
  const A weight = counts ? A(p_.alpha) * scale : 0, smoothing = p_.label_smoothing;
  const A *e = student_block(unit_, c, n), *e1 = counts ? e_[k_] : e;
  Multiples<A> joined;
  for (int64_t k = 0; k < k_; ++k)
    if (joins(k)) joined.add(f_[k], student_[k].other);
  begin_gradient(shared_own_, e, counts ? weight * p_of_[k_].inverse() : 0, e1,
                 weight * smoothing / A(p_.classes), joined, n, g,
                 cached_ && !sum_ ? p_.classes : 0);
  if (y_ >= c && y_ < c + n) g[y_ - c] -= weight * (1 - smoothing);
}

// Adds the gradient of teacher k's columns [j, j + n) to g and writes the teacher's own.
template <class A>
void Rows<A>::slice_gradient(int64_t k, int64_t j, int64_t n, A* g) {
  void* const own_grad = p_.teachers[k].grad;
  if (weight_[k] == 0) {
    if (own_grad) clear(g_, n), write_teacher_gradient(k, j, n);
    return;
  }
  const Coefficients<A>&s = student_[k], &t = teacher_[k];
  const bool needs_e = s.own != 0 || s.ratio != 0 || own_grad;
  const A *e = needs_e ? student_block(k, j, n) : nullptr, *f = teacher_block(k, j, n);
  if (traits_.mixture && needs_e) mixture_log_ratios(k, e, f, n);
  else if (s.ratio != 0) student_log_ratios(k, j, n);
  add_gradient(s, e, f, p_log_ratio_, n, g);
  const int64_t label = local_[k] - j;
  const bool has_label = label >= 0 && label < n;
  if (has_label) g[label] += s.label;
  if (!own_grad) return;
  if (!traits_.mixture && t.ratio != 0) teacher_log_ratios(k, j, n);
  clear(g_, n);
  add_gradient(t, f, e, q_log_ratio_, n, g_);
  if (has_label) g_[label] += t.label;
  write_teacher_gradient(k, j, n);
}

template <class A>
void Rows<A>::write_teacher_gradient(int64_t k, int64_t j, int64_t n) {
  const Teacher& t = p_.teachers[k];
  const DType dtype = t.logits.dtype == DType::F16 ? DType::F32 : t.logits.dtype;
  write(g_, n, dtype, t.grad, r_ * t.classes + j);
}

template <class A>
void Rows<A>::scatter_gradient(int64_t k, A* g) {
  for_blocks(slice_[k].classes, [&](int64_t j, int64_t n) {
    clear(gathered_, n);
    slice_gradient(k, j, n, gathered_);
    for (int64_t i = 0; i < n; ++i) g[slice_[k].columns[j + i]] += gathered_[i];
  });
}

}  // namespace
}  // namespace edufast::EDUFAST_ISA
