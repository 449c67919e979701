// A row of the staged program in the common case: KL(teacher || student), one temperature, weights
// that all rows share, no label smoothing. A row with masked classes or with logits beyond the
// ordinary is left to the one that can do everything.
//
// Exponentials are relative to a base: the largest logit times log2(e) / T, rounded. Sums of several
// warps and blocks come to a common base by differences of bases, which are exact or nearly so.
#pragma once

#include "cuda/kd_loss_staged.cuh"

namespace edufast::cuda {

// In log2 units, so far from 0 that float32 has few digits left behind the point.
constexpr float kFar = 0x1p20f;

// Of a source. `sum` is of its exponentials; `more` is, of the student, the same at T = 1, and of a
// teacher, its exponentials times log ratio. By default, of no class.
struct PlainSums {
  float base = -kFar, sum = 0, more = 0;

  PlainSums() = default;
  __device__ PlainSums(float base, float sum, float more) : base(base), sum(sum), more(more) {}
  __device__ PlainSums(const Sums<float>& s) : base(s.t_max), sum(s.t_sum), more(s.cross) {}
  __device__ void write(Sums<float>& s) const {
    s.t_max = base;
    s.t_sum = sum;
    s.cross = more;
  }
};

// Of so many parts of a row, one a lane.
template <class Group, class Part>
__device__ __forceinline__ PlainSums merge_plain(const Group& g, int source, int parts, Part part) {
  PlainSums s, z;
  if (g.lane < parts) {
    s = part(source, g.lane);
    z = part(0, g.lane);
  }
  const float base = g.lane_max(s.base), down = s.base - base;
  const float drift = down - (z.base - g.lane_max(z.base)), factor = fast_exp2(down);
  const float more = source == 0 ? s.more * fast_exp2(down * g.temperature(0))
                                 : factor * fmaf(s.sum, drift, s.more);
  return {base, g.lane_sum(factor * s.sum), g.lane_sum(more)};
}

// As StagedGroup::combine(), but every warp merges some of the sources, and knows all in the end.
template <class Group>
__device__ __forceinline__ void combine_plain(Group& g) {
  g.sync();
  if (g.warps == 1 && Cluster::size() == 1) return;
  const int n = g.p.num_teachers + 1, blocks = Cluster::size();
  const auto merge = [&](int parts, auto part, Sums<float>* to) {
    for (int s = g.warp; s < n; s += g.warps) {
      if (s > 0 && !(g.plain_read >> (s - 1) & 1)) continue;
      const PlainSums sums = merge_plain(g, s, parts, part);
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
struct PlainRow {
  // e^z is the fourth power of e^(z / 4), but for the rounding of four.
  static constexpr bool kPowers = !std::is_same_v<typename Group::Stored, float>;

  Group& g;
  const Task& task;
  const float scale = g.paces[0].scale, temperature = g.paces[0].temperature;
  const bool fourth = kPowers && temperature == 4;
  float u[Group::kHeld][kVector];  // the student's logits times scale, minus `base`; then gradients
  float base;                      // of this thread's lanes

  __device__ PlainRow(Group& group, const Task& t) : g(group), task(t) {}

  // Exponentials at T = 1, of exponentials e of u at T.
  __device__ __forceinline__ void unsoften(const float (&u)[kVector], const float (&e)[kVector],
                                           float (&x)[kVector]) const {
    if (fourth) {
#pragma unroll
      for (int i = 0; i < kVector; ++i) x[i] = e[i] * e[i];
#pragma unroll
      for (int i = 0; i < kVector; ++i) x[i] *= x[i];
    } else {
#pragma unroll
      for (int i = 0; i < kVector; ++i) x[i] = fast_exp2(u[i] * temperature);
    }
  }

  __device__ __forceinline__ float base_of(int source) const {
    const float base = g.lane_max(g.largest(source, task, false)) * scale;
    return fminf(fmaxf(base, -kFar), kFar);  // beyond, sums are 0 or infinite
  }

  __device__ __forceinline__ void sweep_student() {
    base = base_of(0);
    float sum = 0, more = 0, x[kVector], e[kVector];
#pragma unroll
    for (int v = 0; v < Group::kHeld; ++v) {
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
    for (int v = 0; v < Group::kHeld; ++v) {
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

  // Pairwise: few additions wait for each other.
  static __device__ __forceinline__ float total(const float (&x)[kVector]) {
    return ((x[0] + x[1]) + (x[2] + x[3])) + ((x[4] + x[5]) + (x[6] + x[7]));
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
    write(alpha * gradient_scale);
    return true;
  }

  static __device__ bool positive(float x) { return x > 0 && x < Constants<float>::infinity(); }

  __device__ __forceinline__ void differentiate_student(float of_kd, float of_ce) {
#pragma unroll
    for (int v = 0; v < Group::kHeld; ++v) {
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
    for (int v = 0; v < Group::kHeld; ++v) {
      if (v >= g.held) break;
      g.fetch(source, v, task, false, x);
#pragma unroll
      for (int i = 0; i < kVector; ++i)
        u[v][i] = fmaf(factor, fast_exp2(fmaf(x[i], scale, -own)), u[v][i]);
    }
  }

  __device__ __forceinline__ void write(float at_label) {
    auto* row = static_cast<typename Group::Out*>(g.student_grad(task.row).data);
#pragma unroll
    for (int v = 0; v < Group::kHeld; ++v) {
      if (v >= g.held) break;
      const int first = g.column(v, task.shift);
      if (first >= g.p.classes) break;
      if (unsigned(task.label - first) < kVector)
#pragma unroll
        for (int i = 0; i < kVector; ++i)
          if (first + i == task.label) u[v][i] -= at_label;
      store_vector(row, first, g.p.classes, u[v]);
    }
  }
};

}  // namespace edufast::cuda
