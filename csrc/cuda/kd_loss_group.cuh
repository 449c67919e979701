// The threads that work on a row, a warp, a block or a cluster of them, and what they see of it.
#pragma once

#include "cuda/kd_loss_problem.cuh"

namespace edufast::cuda {

template <class Real, Divergence D, bool WarpPerRow_, bool Vectors>
struct Group : Problem<Real, D, !Vectors> {
  using Base = Problem<Real, D, !Vectors>;
  using Base::kMixture, Base::kWithoutLabel, Base::lane, Base::launch, Base::p;
  using typename Base::C;
  static constexpr bool kWarpPerRow = WarpPerRow_, kVectors = Vectors;
  static constexpr int kAhead = Vectors ? 2 : 1;  // vectors in flight

  Tables<Real> tables;
  Layout<Vectors> layout;
  RowCache<Real, Vectors> cache;
  int warp, warps;
  int parity = 0;                 // which half of tables.block is next
  Real q_share = 0, p_share = 0;  // of the mixture: beta and 1 - beta

  __device__ Group(const KDLoss& problem, const Launch& launch, char* memory)
      : Base(problem, launch) {
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
      q_share = this->divergence_param(0);
      p_share = this->divergence_param(1);
    }
  }

  __device__ bool leads() const { return layout.rank == 0; }

  __device__ void sync() const {
    if (kWarpPerRow) __syncwarp();
    else __syncthreads();
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
      const Row t = this->teacher_row(lane, 0);
      bytes = cache.bytes_for(t.low, t.high);
    }
    const int begin = cache.bytes_for(0, p.classes) + warp_prefix_sum(bytes, lane);
    return begin + bytes <= launch.cache_bytes ? begin : -1;
  }

  // --- arithmetic --------------------------------------------------------------------------------

  // The log ratio of a side to what the divergence compares it with: the mixture, or the other.
  __device__ Real student_log_ratio(Real log_p, Real log_q) const {
    return kMixture ? log_ratio_to_mixture(log_p, log_q, p_share, q_share) : log_p - log_q;
  }
  __device__ Real teacher_log_ratio(Real log_p, Real log_q) const {
    return kMixture ? log_ratio_to_mixture(log_q, log_p, q_share, p_share) : log_q - log_p;
  }
};

}  // namespace edufast::cuda
