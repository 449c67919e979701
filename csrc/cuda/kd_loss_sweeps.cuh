// The sweeps over the rows, which leave sums in tables.total.
#pragma once

#include "cuda/kd_loss_group.cuh"

namespace edufast::cuda {

template <class Group>
__device__ void gather(Group& g, int source, const Sums<typename Group::Real>& own) {
  const auto s = warp_reduce<typename Group::Real, Group::kDivergence>(own, g.log2_scale(source));
  if (g.lane == 0)
    (Group::kWarpPerRow ? g.tables.total[source] : g.tables.partial[source * g.warps + g.warp]) = s;
}

// One exchange for all sources; afterwards tables.total holds for the whole group.
template <class Group>
__device__ void combine(Group& g, unsigned teachers, bool student) {
  using Real = typename Group::Real;
  if constexpr (!Group::kWarpPerRow) {
    const int n = g.p.num_teachers + 1, blocks = Cluster::size();
    const auto reduce = [&](int parts, auto part, Sums<Real>* to) {
      for (int s = g.warp; s < n; s += g.warps) {
        if (!(s ? teachers >> (s - 1) & 1 : student)) continue;
        const Sums<Real> sum = warp_reduce<Real, Group::kDivergence>(
            g.lane < parts ? part(s) : Sums<Real>(), g.log2_scale(s));
        if (g.lane == 0) to[s] = sum;
      }
    };
    __syncthreads();
    Sums<Real>* block = blocks == 1 ? g.tables.total : g.tables.block + g.parity * n;
    reduce(g.warps, [&](int s) { return g.tables.partial[s * g.warps + g.lane]; }, block);
    if (blocks > 1) {
      Cluster::sync();
      reduce(blocks, [&](int s) { return *Cluster::peer(&block[s], g.lane); }, g.tables.total);
      g.parity ^= 1;  // somebody may still be reading this half
    }
  }
  g.sync();
}

template <class Group>
__device__ void sweep_student(Group& g, int64_t row) {
  using Real = typename Group::Real;
  constexpr int kAhead = Group::kAhead;
  const Row z = g.student_row(row);
  const int slot = g.student_slot(), end = g.layout.end(z.high);
  Sums<Real> s;
  for (int v = 0; v < end; v += kAhead) {
    Real x[kAhead][kVector];
    load(z, g.layout, v, x);
    Real z_max = s.z_max;
#pragma unroll
    for (int u = 0; u < kAhead; ++u) {
      if (v + u < end) g.cache.keep(z, slot, v + u, x[u]);
#pragma unroll
      for (int i = 0; i < kVector; ++i) z_max = larger(z_max, x[u][i]);
    }
    rescale<Real, Group::kDivergence>(s, z_max, s.t_max, Constants<Real>::log2e);
#pragma unroll
    for (int u = 0; u < kAhead; ++u)
#pragma unroll
      for (int i = 0; i < kVector; ++i) {
        const bool held = g.layout.column(v + u) + i * g.layout.step() < z.high;
        accumulate_student(s, x[u][i], held);
      }
  }
  gather(g, 0, s);
}

template <class Group>
__device__ void sweep_teacher(Group& g, int k, int64_t row, int label, int slot, bool unit) {
  using Real = typename Group::Real;
  constexpr int kAhead = Group::kAhead;
  const Row z = g.student_row(row), t = g.teacher_row(k, row);
  const Real scale = g.log2_scale(k + 1);
  const int end = g.layout.end(t.high);
  Sums<Real> s;
  for (int v = g.layout.begin(t.low); v < end; v += kAhead) {
    Real zs[kAhead][kVector], ts[kAhead][kVector];
    load(t, g.layout, v, ts);
    Real z_max = s.z_max, t_max = s.t_max;
#pragma unroll
    for (int u = 0; u < kAhead; ++u) {
      if (v + u < end) g.cache.keep(t, slot, v + u, ts[u]);
      g.cache.fetch(z, g.student_slot(), min(v + u, end - 1), zs[u]);
      g.select(t, v + u, label, zs[u], ts[u]);
#pragma unroll
      for (int i = 0; i < kVector; ++i) {
        z_max = larger(z_max, zs[u][i]);
        t_max = larger(t_max, ts[u][i]);
      }
    }
    rescale<Real, Group::kDivergence>(s, z_max, t_max, scale);
#pragma unroll
    for (int u = 0; u < kAhead; ++u)
#pragma unroll
      for (int i = 0; i < kVector; ++i)
        accumulate<Real, Group::kDivergence>(s, zs[u][i], ts[u][i], scale);
    if (unit)
#pragma unroll
      for (int u = 0; u < kAhead; ++u)
#pragma unroll
        for (int i = 0; i < kVector; ++i) accumulate_unit(s, ts[u][i]);
  }
  gather(g, k + 1, s);
}

// A mixture needs the normalisers first.
template <class Group>
__device__ void sweep_mixture(Group& g, int k, int64_t row, int label) {
  using Real = typename Group::Real;
  const Row z = g.student_row(row), t = g.teacher_row(k, row);
  const TeacherRow<Real> r = g.tables.teachers[k];
  Sums<Real> s;
  s.z_max = s.t_max = 0;
  for (int v = g.layout.begin(t.low); v < g.layout.end(t.high); ++v) {
    Real zs[kVector], ts[kVector];
    g.cache.fetch(z, g.student_slot(), v, zs);
    g.cache.fetch(t, r.cache, v, ts);
    g.select(t, v, label, zs, ts);
#pragma unroll
    for (int i = 0; i < kVector; ++i) {
      const Real log_p = r.log_p(zs[i]), log_q = r.log_q(ts[i]);
      accumulate_mixture(s, log_p, log_q, g.student_log_ratio(log_p, log_q),
                         g.teacher_log_ratio(log_p, log_q));
    }
  }
  gather(g, k + 1, s);
}

}  // namespace edufast::cuda
