// A row of the staged program in the common case: KL(teacher || student), one temperature, weights
// that all rows share, no label smoothing. A row with masked classes or with logits beyond the
// ordinary is left to the one that can do everything.
//
// Source by source, the student first: a thread makes the exponentials of its logits once, in
// registers, has the next row's logits copied to where they were, and when the sums of the row are
// known adds the source's part to the gradient. Weights are known beforehand, so nothing waits for
// all sources.
//
// Exponentials are relative to a base: the thread's largest logit times log2(e) / T, rounded. Sums
// come to a common base by differences of bases, which are exact or nearly so.
#pragma once

#include "cuda/kd_loss_staged.cuh"

namespace edufast::cuda {

// In log2 units, so far from 0 that float32 has few digits left behind the point.
constexpr float kFar = 0x1p20f;

// Of a part of a source's row: the sum of its exponentials; and of the student's at T = 1, or of a
// teacher's times log ratio. By default, of no class.
struct PlainSums {
  float base = -kFar, sum = 0, more = 0;
};

template <class Group>
struct PlainRow {
  static constexpr int kHeld = Group::kHeld;
  // e^z is the fourth power of e^(z / 4), but for the rounding of four.
  static constexpr bool kPowers = !std::is_same_v<typename Group::Stored, float>;

  Group& g;
  const Task &task, &next;
  const float scale = g.paces[0].scale, temperature = g.paces[0].temperature;
  const bool fourth = kPowers && temperature == 4;
  float u[kHeld][kVector];  // the student's logits times scale, relative to this thread's base
  float grad[kHeld][kVector];
  float z_down, z_log_sum;  // that base relative to the row's; of the row
  float loss = 0;
  bool ordinary = true;  // the same for all threads of the row, as are sums of a row

  __device__ PlainRow(Group& group, const Task& t, const Task& n) : g(group), task(t), next(n) {}

  // False: the row is to be left to the others. Then nothing was written, but what had been copied
  // of it is gone.
  __device__ __forceinline__ bool run(float gradient_scale) {
    const float label_logit = to_float(g.data(0, task)[task.label]);
    add_student(gradient_scale, label_logit);
#pragma unroll 1
    for (unsigned rest = g.plain_read; rest; rest &= rest - 1)
      add_teacher(gradient_scale, __ffs(rest) - 1);
    if (g.of_warp(!ordinary)) return false;
    write(g.alpha() * gradient_scale);
    return true;
  }

 private:
  // This thread's logits of a source, times scale and relative to the base that is returned.
  __device__ __forceinline__ float take(int source, float (&x)[kHeld][kVector]) {
    wait_for_copies_but(__popc(g.plain_read));
    g.patch(source, task);
    const float most = g.largest(source, task, false) * scale;
    const float base = fminf(fmaxf(most, -kFar), kFar);  // beyond, sums are 0 or infinite
#pragma unroll
    for (int v = 0; v < kHeld; ++v) {
      g.fetch(source, v, task, false, x[v]);
#pragma unroll
      for (int i = 0; i < kVector; ++i) x[v][i] = fmaf(x[v][i], scale, -base);
    }
    g.request(source, next);
    return base;
  }

  __device__ __forceinline__ void add_student(float gradient_scale, float label_logit) {
    const float alpha = g.alpha(), base = take(0, u);
    float sum = 0, more = 0, e[kHeld][kVector], x[kVector];
#pragma unroll
    for (int v = 0; v < kHeld; ++v) {
#pragma unroll
      for (int i = 0; i < kVector; ++i) e[v][i] = fast_exp2(u[v][i]);
      unsoften(v, e[v], x);
      sum += total(e[v]);
      more += total(x);
    }
    const PlainSums row = of_row<true>({base, sum, more});
    z_down = base - row.base;
    z_log_sum = log2_of(row.sum);
    ordinary = positive(row.sum) && positive(row.more);
    if (alpha != 0)
      loss = alpha * Constants<float>::ln2 *
             (log2_of(row.more) - fmaf(label_logit, scale, -row.base) * temperature);
    const float of_kd = g.plain_shares * temperature * gradient_scale / row.sum *
                        fast_exp2(z_down);
    const float of_ce = alpha * gradient_scale / row.more * fast_exp2(z_down * temperature);
#pragma unroll
    for (int v = 0; v < kHeld; ++v) {
      unsoften(v, e[v], x);
#pragma unroll
      for (int i = 0; i < kVector; ++i) grad[v][i] = fmaf(of_kd, e[v][i], of_ce * x[i]);
    }
  }

  __device__ __forceinline__ void add_teacher(float gradient_scale, int k) {
    float sum = 0, cross = 0, f[kHeld][kVector], x[kVector];
    const float base = take(k + 1, f);
#pragma unroll
    for (int v = 0; v < kHeld; ++v) {
#pragma unroll
      for (int i = 0; i < kVector; ++i) {
        const float ahead = f[v][i] - u[v][i];
        f[v][i] = fast_exp2(f[v][i]);
        x[i] = f[v][i] * ahead;
      }
      sum += total(f[v]);
      cross += total(x);
    }
    const PlainSums row = of_row<false>({base, sum, cross});
    const float share = g.lane_value(g.plain_share, k);
    const float mean = row.more / row.sum + (z_log_sum - log2_of(row.sum));
    ordinary = ordinary && positive(row.sum) && fabsf(mean) < float(kLargestDivergence);
    loss += share * temperature * temperature * Constants<float>::ln2 * mean;
    const float factor = share * temperature * gradient_scale / row.sum * fast_exp2(base - row.base);
#pragma unroll
    for (int v = 0; v < kHeld; ++v)
#pragma unroll
      for (int i = 0; i < kVector; ++i) grad[v][i] = fmaf(-factor, f[v][i], grad[v][i]);
  }

  // Exponentials at T = 1, of exponentials e of u at T.
  __device__ __forceinline__ void unsoften(int v, const float (&e)[kVector],
                                           float (&x)[kVector]) const {
    if (fourth) {
#pragma unroll
      for (int i = 0; i < kVector; ++i) x[i] = e[i] * e[i];
#pragma unroll
      for (int i = 0; i < kVector; ++i) x[i] *= x[i];
    } else {
#pragma unroll
      for (int i = 0; i < kVector; ++i) x[i] = fast_exp2(u[v][i] * temperature);
    }
  }

  // --- sums --------------------------------------------------------------------------------------

  // Pairwise: few additions wait for each other.
  static __device__ __forceinline__ float total(const float (&x)[kVector]) {
    return ((x[0] + x[1]) + (x[2] + x[3])) + ((x[4] + x[5]) + (x[6] + x[7]));
  }

  static __device__ bool positive(float x) { return x > 0 && x < Constants<float>::infinity(); }

  // Of the parts that the lanes hold. A teacher's log ratios are relative to the student's base, from
  // which the part's own is `z_down` away.
  template <bool Student>
  __device__ __forceinline__ PlainSums of_lanes(const PlainSums& part, float z_down) const {
    const float base = g.lane_max(part.base), down = part.base - base, factor = fast_exp2(down);
    const float more = Student ? part.more * fast_exp2(down * temperature)
                               : factor * fmaf(part.sum, down - z_down, part.more);
    return {base, g.lane_sum(factor * part.sum), g.lane_sum(more)};
  }

  // Of the row, for all of its threads.
  template <bool Student>
  __device__ __forceinline__ PlainSums of_row(const PlainSums& thread) const {
    PlainSums s = of_lanes<Student>(thread, z_down);
    if constexpr (!Group::kOfWarp) {
      if (g.warps > 1) {
        auto* warps = reinterpret_cast<PlainSums*>(g.tables.partial) + g.parity * g.warps;
        if (g.lane == 0) warps[g.warp] = s;
        __syncthreads();
        s = of_lanes<Student>(g.lane < g.warps ? warps[g.lane] : PlainSums{}, 0);
      }
      if (const int blocks = Cluster::size(); blocks > 1) {
        auto* block =
            reinterpret_cast<PlainSums*>(g.tables.block + g.parity * (g.p.num_teachers + 1));
        if (threadIdx.x == 0) *block = s;
        Cluster::sync();
        s = of_lanes<Student>(g.lane < blocks ? *Cluster::peer(block, g.lane) : PlainSums{}, 0);
      }
      g.parity ^= 1;  // somebody may still be reading this half
    }
    return s;
  }

  // --- gradient ----------------------------------------------------------------------------------

  __device__ __forceinline__ void write(float at_label) {
    auto* row = static_cast<typename Group::Out*>(g.student_grad(task.row).data);
#pragma unroll
    for (int v = 0; v < kHeld; ++v) {
      const int first = g.column(v, task.shift);
      if (first >= g.p.classes) break;
      if (unsigned(task.label - first) < kVector)
#pragma unroll
        for (int i = 0; i < kVector; ++i)
          if (first + i == task.label) grad[v][i] -= at_label;
      store_vector(row, first, g.p.classes, grad[v]);
    }
  }
};

}  // namespace edufast::cuda
