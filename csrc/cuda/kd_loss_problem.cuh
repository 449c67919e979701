// What a kernel reads of the problem: rows, and numbers that may be in the device's memory.
#pragma once

#include "cuda/kd_loss_plan.h"
#include "cuda/kd_loss_tables.cuh"
#include "cuda/rows.cuh"

namespace edufast::cuda {

// Lanes of a warp share a row, or its warps do together.
template <class Real_, Divergence D, bool Lists, int Lanes = kWarpSize>
struct Problem {
  using Real = Real_;
  using C = Constants<Real>;
  static constexpr Divergence kDivergence = D;
  static constexpr int kLanes = Lanes;
  // Where both sides are normalised without the label, sweeps and gradients pass over it.
  static constexpr bool kWithoutLabel = traits_of(D).without_label;
  static constexpr bool kMixture = traits_of(D).mixture;

  const KDLoss& p;
  const Launch& launch;
  int lane = threadIdx.x % Lanes;
  const Real mean_weight;

  __device__ Problem(const KDLoss& problem, const Launch& launch)
      : p(problem), launch(launch), mean_weight(Real(1) / problem.num_teachers) {}

  // --- lanes that share a row --------------------------------------------------------------------

  template <class T>
  static __device__ T lane_sum(T x) {
    return warp_sum<Lanes>(x);
  }
  static __device__ Real lane_max(Real x) { return warp_max<Lanes>(x); }
  // Of lane k of those that share the row.
  static __device__ Real lane_value(Real x, int k) {
    return __shfl_sync(kFullMask, x, threadIdx.x % kWarpSize / Lanes * Lanes + k);
  }
  static __device__ unsigned lane_ballot(bool x) {
    const unsigned all = __ballot_sync(kFullMask, x);
    if (Lanes == kWarpSize) return all;
    return all >> (threadIdx.x % kWarpSize / Lanes * Lanes) & ((1u << Lanes % kWarpSize) - 1);
  }

  // --- rows --------------------------------------------------------------------------------------

  __device__ Row student_row(int64_t row) const {
    return {row_of(p.student, row), p.student.col_stride, p.student.dtype, 0, p.classes, nullptr};
  }

  __device__ Real student_logit(int64_t row, int c) const {
    return logit_at<Real>(student_row(row), c);
  }

  __device__ Row student_grad(int64_t row) const {
    return {
        row_of({p.grad, p.classes, 1, p.grad_dtype}, row), 1, p.grad_dtype, 0, p.classes, nullptr};
  }

  __device__ Row teacher_row(int k, int64_t row) const {
    const Logits& x = p.teachers[k].logits;
    return teacher_view(k, row_of(x, row), x.col_stride, x.dtype);
  }

  __device__ Row teacher_grad(int k, int64_t row) const {
    const Teacher& t = p.teachers[k];
    const DType dtype = stored_grad(t.logits.dtype);
    return teacher_view(k, row_of({t.grad, t.classes, 1, dtype}, row), 1, dtype);
  }

  __device__ Row teacher_view(int k, void* data, int64_t stride, DType dtype) const {
    const Teacher& t = p.teachers[k];
    if (Lists && t.columns) return {data, stride, dtype, 0, p.classes, positions(k)};
    return {data, stride, dtype, t.start, t.start + t.classes, nullptr};
  }

  static __device__ void* row_of(const Logits& x, int64_t row) {
    return static_cast<char*>(const_cast<void*>(x.data)) + row * x.row_stride * bytes_of(x.dtype);
  }

  __device__ const int* positions(int k) const {
    return launch.workspace.positions + k * (int64_t(p.classes) + 1);
  }

  // --- numbers: parameters of the launch, or in the device's memory ------------------------------

  __device__ Real number(int i, float given) const {
    return p.numbers ? Real(static_cast<float>(p.numbers[i])) : Real(given);
  }
  __device__ Real temperature(int k) const { return number(k, p.teachers[k].temperature); }
  __device__ Real alpha() const { return number(p.num_teachers, p.alpha); }
  __device__ Real smoothing() const { return number(p.num_teachers + 1, p.label_smoothing); }
  __device__ Real divergence_param(int i) const {
    if (kMixture && p.numbers && i == 1)  // as on the host: beta and 1 - beta, each rounded once
      return Real(static_cast<float>(1 - p.numbers[p.num_teachers + 2]));
    return number(p.num_teachers + 2 + i, p.divergence_params[i]);
  }

  // Whether those in the device's memory are out of range, which nobody could see before.
  __device__ bool numbers_broken() const {
    if (!p.numbers) return false;
    const auto within = [](double x, double low, double high) { return x >= low && x <= high; };
    const double* term = p.numbers + p.num_teachers;  // alpha, label_smoothing, divergence_params
    bool right = within(term[0], 0, 1) && term[1] >= 0 && term[1] < 1;
    if (lane < p.num_teachers) right = right && within(p.numbers[lane], 1 / kMaxNumber, kMaxNumber);
    if constexpr (kMixture) right = right && term[2] >= 1 / kMaxNumber && term[2] < 1;
    else
      for (int i = 0; i < traits_of(D).params; ++i)
        right = right && within(term[2 + i], 0, kMaxNumber);
    return __any_sync(kFullMask, !right);
  }

  // --- arithmetic --------------------------------------------------------------------------------

  __device__ Real log2_scale(int source) const {  // source 0: the student, k + 1: teacher k
    return source == 0 ? C::log2e : C::log2e / temperature(source - 1);
  }
};

}  // namespace edufast::cuda
