// A plain row that the warps of a block, or of several, share: sums of all sources first, and the
// gradient from the student's logits, which stayed in registers, and the teachers' in shared memory.
#pragma once

#include "cuda/kd_loss_plain_row.cuh"

namespace edufast::cuda {

// As StagedGroup::combine(), but every warp merges some of the sources, and knows all in the end.
template <class Group>
__device__ __forceinline__ void combine_plain(Group& g) {
  g.sync();
  if (g.warps == 1 && Cluster::size() == 1) return;
  const int n = g.p.num_teachers + 1, blocks = Cluster::size();
  const auto merge = [&](int parts, auto part, Sums<float>* to) {
    for (int s = g.warp; s < n; s += g.warps) {
      if (s > 0 && !(g.plain_read >> (s - 1) & 1)) continue;
      PlainSums own, z;
      if (g.lane < parts) {
        own = part(s, g.lane);
        z = part(0, g.lane);
      }
      const PlainSums sums = merge_plain(g, s == 0, own, z.base - g.lane_max(z.base));
      if (g.lane == 0) sums.write(to[s]);
    }
  };
  Sums<float>* block = blocks == 1 ? g.tables.total : g.tables.block + g.parity * n;
  merge(g.warps, [&](int s, int w) { return PlainSums(g.tables.partial[s * g.warps + w]); }, block);
  if (blocks > 1) {
    Cluster::sync();
    merge(
        blocks, [&](int s, int b) { return PlainSums(*Cluster::peer(&block[s], b)); },
        g.tables.total);
    g.parity ^= 1;  // somebody may still be reading this half
  }
  __syncthreads();
}

template <class Group>
struct PlainRowOfBlocks : PlainRow<Group> {
  using Base = PlainRow<Group>;
  using Base::g, Base::kHeld, Base::scale, Base::task, Base::temperature, Base::total,
      Base::unsoften;

  float u[kHeld][kVector];  // the student's logits times scale, minus `base`; then gradients
  float base;               // of this thread's lanes

  using Base::Base;

  __device__ __forceinline__ float base_of(int source) const {
    return Base::bounded(g.lane_max(g.largest(source, task, false)) * scale);
  }

  __device__ __forceinline__ void sweep_student() {
    base = base_of(0);
    float sum = 0, more = 0, x[kVector], e[kVector];
#pragma unroll
    for (int v = 0; v < kHeld; ++v) {
      if (v >= g.held) break;
      g.fetch(0, v, task, false, x);
#pragma unroll
      for (int i = 0; i < kVector; ++i) {
        u[v][i] = fmaf(x[i], scale, -base);
        e[i] = fast_exp2(u[v][i]);
      }
      unsoften(u[v], e, x);
      sum += total(e);
      more += total(x);
    }
    keep(0, sum, more, base);
  }

  __device__ __forceinline__ void sweep_teacher(int source) const {
    const float own = base_of(source);
    float sum = 0, cross = 0, x[kVector], f[kVector];
#pragma unroll
    for (int v = 0; v < kHeld; ++v) {
      if (v >= g.held) break;
      g.fetch(source, v, task, false, x);
#pragma unroll
      for (int i = 0; i < kVector; ++i) {
        x[i] = fmaf(x[i], scale, -own);
        f[i] = fast_exp2(x[i]);
        x[i] = f[i] * (x[i] - u[v][i]);
      }
      sum += total(f);
      cross += total(x);
    }
    keep(source, sum, cross, own);
  }

  __device__ __forceinline__ void keep(int source, float sum, float more, float own) const {
    warp_sum_pair<Group::kLanes>(sum, more, g.lane);  // the first lane has both
    if (g.lane == 0)
      PlainSums{own, sum, more}.write(g.warps == 1 ? g.tables.total[source]
                                                   : g.tables.partial[source * g.warps + g.warp]);
  }

  // False: the row is to be left to the others. Then nothing was written.
  __device__ __forceinline__ bool run(float gradient_scale, float& loss) {
    const float label_logit = to_float(g.data(0, task)[task.label]);
    g.await(task);
    sweep_student();
#pragma unroll 1
    for (unsigned rest = g.plain_read; rest; rest &= rest - 1) sweep_teacher(__ffs(rest));
    combine_plain(g);

    const bool mine = g.plain_read >> g.lane & 1;
    const PlainSums z = g.tables.total[0], t = g.tables.total[mine ? g.lane + 1 : 0];
    const float alpha = g.alpha(), factor = mine ? g.plain_share * temperature : 0;
    const float mean = mine ? t.more / t.sum + (log2_of(z.sum) - log2_of(t.sum)) : 0;
    const bool ordinary = positive(z.sum) && positive(z.more) && positive(t.sum) &&
                          fabsf(mean) < float(kLargestDivergence);
    if (g.of_warp(g.lane_ballot(!ordinary))) return false;

    loss = g.lane_sum(factor * temperature * Constants<float>::ln2 * mean);
    if (alpha != 0)
      loss += alpha * Constants<float>::ln2 *
              (log2_of(z.more) - fmaf(label_logit, scale, -z.base) * temperature);
    const float of_teacher = -factor * gradient_scale / t.sum, down = base - z.base;
    const float of_kd = g.lane_sum(factor) * gradient_scale / z.sum * fast_exp2(down);
    const float of_ce = alpha * gradient_scale / z.more * fast_exp2(down * temperature);
    differentiate_student(of_kd, of_ce);
#pragma unroll 1
    for (unsigned rest = g.plain_read; rest; rest &= rest - 1) {
      const int k = __ffs(rest) - 1;
      differentiate_teacher(k + 1, g.lane_value(t.base, k), g.lane_value(of_teacher, k));
    }
    this->write(u, alpha * gradient_scale);
    return true;
  }

  __device__ __forceinline__ void differentiate_student(float of_kd, float of_ce) {
#pragma unroll
    for (int v = 0; v < kHeld; ++v) {
      if (v >= g.held) break;
      float e[kVector], x[kVector];
#pragma unroll
      for (int i = 0; i < kVector; ++i) e[i] = fast_exp2(u[v][i]);
      unsoften(u[v], e, x);
#pragma unroll
      for (int i = 0; i < kVector; ++i) u[v][i] = fmaf(of_kd, e[i], of_ce * x[i]);
    }
  }

  __device__ __forceinline__ void differentiate_teacher(int source, float own, float factor) {
    float x[kVector];
#pragma unroll
    for (int v = 0; v < kHeld; ++v) {
      if (v >= g.held) break;
      g.fetch(source, v, task, false, x);
#pragma unroll
      for (int i = 0; i < kVector; ++i)
        u[v][i] = fmaf(factor, fast_exp2(fmaf(x[i], scale, -own)), u[v][i]);
    }
  }
};

}  // namespace edufast::cuda
