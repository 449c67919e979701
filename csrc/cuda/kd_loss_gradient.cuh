// Writing the gradients of a row: one pass that knows the losses by their coefficients only.
#pragma once

#include "cuda/kd_loss_group.cuh"

namespace edufast::cuda {

// By column, not by class: a broken list does not name every column.
template <class Group>
__device__ void fill_teacher(const Group& g, int k, int64_t row, typename Group::Real value) {
  Row out = g.teacher_grad(k, row);
  out.low = 0;
  out.high = g.p.teachers[k].classes;
  out.positions = nullptr;
  typename Group::Real x[kVector];
#pragma unroll
  for (int i = 0; i < kVector; ++i) x[i] = value;
  for (int v = 0; v < g.layout.end(out.high); ++v) store(out, g.layout, v, x);
}

// Rows that contribute nothing, or whose label does not exist.
template <class Group>
__device__ typename Group::Real fill(const Group& g, int64_t row, typename Group::Real value) {
  typename Group::Real x[kVector];
#pragma unroll
  for (int i = 0; i < kVector; ++i) x[i] = value;
  for (int v = 0; v < g.layout.end(g.p.classes); ++v) store(g.student_grad(row), g.layout, v, x);
  for (int k = 0; k < g.p.num_teachers; ++k)
    if (g.p.teachers[k].grad) fill_teacher(g, k, row, value);
  return value;
}

// Adds teacher k's share for the student's logits x to `grad`; writes the teacher's own gradient.
template <class Group, class Real = typename Group::Real>
__device__ void add_teacher(const Group& g, int k, int v, int64_t row, int label,
                            const Real (&x)[kVector], Real (&grad)[kVector]) {
  constexpr Divergence D = Group::kDivergence;
  const Row t = g.teacher_row(k, row);
  if (v < g.layout.begin(t.low) || v >= g.layout.end(t.high)) return;
  if (Group::kVectors && (g.layout.column(v) < t.low || g.layout.column(v) >= t.high)) return;
  const TeacherRow<Real>& r = g.tables.teachers[k];
  Real zs[kVector], ts[kVector];
  g.cache.fetch(t, r.cache, v, ts);
#pragma unroll
  for (int i = 0; i < kVector; ++i) zs[i] = x[i];
  g.select(t, v, label, zs, ts);
#pragma unroll
  for (int i = 0; i < kVector; ++i) {
    const Real log_p = r.log_p(zs[i]), log_q = r.log_q(ts[i]);
    const Real own = gradient<kStudentRatio<D>>(r.student, log_p, log_q,
                                                g.student_log_ratio(log_p, log_q));
    // A NaN in the teacher stays inside its slice.
    grad[i] += !Group::kVectors && is_masked(zs[i]) && is_masked(ts[i]) ? Real(0) : own;
  }
  if (!g.p.teachers[k].grad) return;

#pragma unroll
  for (int i = 0; i < kVector; ++i) {
    const Real log_p = r.log_p(zs[i]), log_q = r.log_q(ts[i]);
    ts[i] = gradient<kTeacherRatio<D>>(r.teacher, log_q, log_p, g.teacher_log_ratio(log_p, log_q));
  }
  if constexpr (Group::kWithoutLabel)
#pragma unroll
    for (int i = 0; i < kVector; ++i)
      if (g.layout.column(v) + i * g.layout.step() == label) ts[i] = r.teacher.label;
  store(g.teacher_grad(k, row), g.layout, v, ts);
}

template <class Group>
__device__ void write_gradients(const Group& g, int64_t row, int label) {
  using Real = typename Group::Real;
  const Header<Real> h = *g.tables.header;
  const Row z = g.student_row(row), out = g.student_grad(row);
  for (int k = 0; k < g.p.num_teachers; ++k)
    if (g.p.teachers[k].grad && !(h.used >> k & 1)) fill_teacher(g, k, row, Real(0));
  for (int v = 0; v < g.layout.end(z.high); ++v) {
    Real x[kVector], grad[kVector];
    g.cache.fetch(z, g.student_slot(), v, x);
#pragma unroll
    for (int i = 0; i < kVector; ++i)
      grad[i] = weighted(h.own,
                         fast_exp2((x[i] - h.z_max) * Constants<Real>::log2e - h.z_log_sum)) -
                h.uniform;
    for (unsigned rest = h.used; rest; rest &= rest - 1)
      add_teacher(g, __ffs(rest) - 1, v, row, label, x, grad);
#pragma unroll
    for (int i = 0; i < kVector; ++i)
      if (g.layout.column(v) + i * g.layout.step() == label) grad[i] += h.label;
    store(out, g.layout, v, grad);
  }
}

}  // namespace edufast::cuda
