// The threads that work on a row, a warp, a block or a cluster of them, and what they see of it.
#pragma once

#include "cuda/kd_loss_plan.h"

namespace edufast::cuda {

template <class Real_, Divergence D, bool WarpPerRow_, bool Vectors>
struct Group {
  using Real = Real_;
  using C = Constants<Real>;
  static constexpr Divergence kDivergence = D;
  static constexpr bool kWarpPerRow = WarpPerRow_, kVectors = Vectors;
  static constexpr int kAhead = Vectors ? 2 : 1;  // vectors in flight
  // Where both sides are normalised without the label, sweeps and gradients pass over it.
  static constexpr bool kWithoutLabel = traits_of(D).without_label;
  static constexpr bool kMixture = traits_of(D).mixture;

  const KDLoss& p;
  const Launch& launch;
  Tables<Real> tables;
  Layout<Vectors> layout;
  RowCache<Real, Vectors> cache;
  int lane, warp, warps;
  int parity = 0;                 // which half of tables.block is next
  Real q_share = 0, p_share = 0;  // of the mixture: beta and 1 - beta

  __device__ Group(const KDLoss& problem, const Launch& launch, char* memory)
      : p(problem), launch(launch) {
    lane = threadIdx.x % kWarpSize;
    warp = threadIdx.x / kWarpSize;
    warps = blockDim.x / kWarpSize;
    layout.rank = kWarpPerRow ? lane : Cluster::rank() * blockDim.x + threadIdx.x;
    const int threads = kWarpPerRow ? kWarpSize : blockDim.x;
    layout.log2_span = 31 - __clz(kVector * threads * (kWarpPerRow ? 1 : Cluster::size()));
    if (kWarpPerRow)
      memory += warp * (Tables<Real>::bytes(p.num_teachers, true, 1) + launch.cache_bytes);
    tables = Tables<Real>::carve(memory, p.num_teachers, kWarpPerRow, warps);
    cache = {tables.cache, threads, kWarpPerRow ? lane : int(threadIdx.x), layout};
    if constexpr (kMixture) {
      q_share = divergence_param(0);
      p_share = divergence_param(1);
    }
  }

  __device__ bool leads() const { return layout.rank == 0; }

  __device__ void sync() const {
    if (kWarpPerRow) __syncwarp();
    else __syncthreads();
  }

  // --- rows --------------------------------------------------------------------------------------

  __device__ Row student_row(int64_t row) const {
    return {row_of(p.student, row), p.student.col_stride, p.student.dtype, 0, p.classes, nullptr};
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
    if (!Vectors && t.columns) return {data, stride, dtype, 0, p.classes, positions(k)};
    return {data, stride, dtype, t.start, t.start + t.classes, nullptr};
  }

  static __device__ void* row_of(const Logits& x, int64_t row) {
    return static_cast<char*>(const_cast<void*>(x.data)) + row * x.row_stride * bytes_of(x.dtype);
  }

  __device__ const int* positions(int k) const {
    return launch.workspace.positions + k * (int64_t(p.classes) + 1);
  }

  // Classes that are not in the teacher's slice become masked on the student's side too.
  __device__ void select(const Row& t, int v, int label, Real (&z)[kVector],
                         Real (&x)[kVector]) const {
    const int first = layout.column(v), last = layout.last_column(v);
    const bool whole = !t.positions && first >= t.low && last < t.high;
    if (whole && (!kWithoutLabel || label < first || label > last)) return;
#pragma unroll
    for (int i = 0; i < kVector; ++i) {
      const int c = first + i * layout.step();
      const bool in_slice = Vectors ? whole : t.holds(c);
      if (!in_slice || (kWithoutLabel && c == label)) z[i] = x[i] = -C::infinity();
    }
  }

  // --- rows kept in shared memory ----------------------------------------------------------------

  __device__ int student_slot() const {
    return cache.bytes_for(0, p.classes) <= launch.cache_bytes ? 0 : -1;
  }

  // Slots of the teachers that are read lie behind the student's; lane k has teacher k's.
  __device__ int slot_of_lane(unsigned read) const {
    int bytes = 0;
    if (read >> lane & 1) {
      const Row t = teacher_row(lane, 0);
      bytes = cache.bytes_for(t.low, t.high);
    }
    const int begin = cache.bytes_for(0, p.classes) + warp_prefix_sum(bytes, lane);
    return begin + bytes <= launch.cache_bytes ? begin : -1;
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

  // The log ratio of a side to what the divergence compares it with: the mixture, or the other.
  __device__ Real student_log_ratio(Real log_p, Real log_q) const {
    return kMixture ? log_ratio_to_mixture(log_p, log_q, p_share, q_share) : log_p - log_q;
  }
  __device__ Real teacher_log_ratio(Real log_p, Real log_q) const {
    return kMixture ? log_ratio_to_mixture(log_q, log_p, q_share, p_share) : log_q - log_p;
  }
};

}  // namespace edufast::cuda
