// A plain row that lanes of a warp share.
//
// Source by source, the student first: a thread makes the exponentials of its logits once, in
// registers, has the next row's logits copied to where they were, and when the sums of the row are
// known adds the source's part to the gradient. Weights are known beforehand, so nothing waits for
// all sources. (Several warps would have to meet after every source, which took longer on an H200.)
#pragma once

#include "cuda/kd_loss_plain_row.cuh"

namespace edufast::cuda {

template <class Group>
struct PlainRowOfLanes : PlainRow<Group> {
  using Base = PlainRow<Group>;
  using Base::g, Base::kHeld, Base::scale, Base::task, Base::temperature, Base::total,
      Base::unsoften;

  const Task& next;
  float u[kHeld][kVector];  // the student's logits times scale, relative to this thread's base
  float grad[kHeld][kVector];
  float z_down, z_log_sum;  // that base relative to the row's; of the row
  float loss = 0;
  bool ordinary = true;  // the same for all threads of the row, as are sums of a row

  __device__ PlainRowOfLanes(Group& group, const Task& t, const Task& n)
      : Base(group, t), next(n) {}

  // False: the row is to be left to the others. Then nothing was written, but what had been copied
  // of it is gone.
  __device__ __forceinline__ bool run(float gradient_scale) {
    const float label_logit = to_float(g.data(0, task)[task.label]);
    add_student(gradient_scale, label_logit);
#pragma unroll 1
    for (unsigned rest = g.plain_read; rest; rest &= rest - 1)
      add_teacher(gradient_scale, __ffs(rest) - 1);
    if (g.of_warp(!ordinary)) return false;
    this->write(grad, g.alpha() * gradient_scale);
    return true;
  }

 private:
  // This thread's logits of a source, times scale and relative to the base that is returned.
  __device__ __forceinline__ float take(int source, float (&x)[kHeld][kVector]) {
    wait_for_copies_but(__popc(g.plain_read));
    g.patch(source, task);
    const float most = g.largest(source, task, false) * scale;
    const float base = Base::bounded(most);
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
      unsoften(u[v], e[v], x);
      sum += total(e[v]);
      more += total(x);
    }
    const PlainSums row = merge_plain(g, true, {base, sum, more}, 0);
    z_down = base - row.base;
    z_log_sum = log2_of(row.sum);
    ordinary = positive(row.sum) && positive(row.more);
    if (alpha != 0)
      loss = alpha * Constants<float>::ln2 *
             (log2_of(row.more) - fmaf(label_logit, scale, -row.base) * temperature);
    const float of_kd = g.plain_shares * temperature * gradient_scale / row.sum * fast_exp2(z_down);
    const float of_ce = alpha * gradient_scale / row.more * fast_exp2(z_down * temperature);
#pragma unroll
    for (int v = 0; v < kHeld; ++v) {
      unsoften(u[v], e[v], x);
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
    const PlainSums row = merge_plain(g, false, {base, sum, cross}, z_down);
    const float share = g.lane_value(g.plain_share, k);
    const float mean = row.more / row.sum + (z_log_sum - log2_of(row.sum));
    ordinary = ordinary && positive(row.sum) && fabsf(mean) < float(kLargestDivergence);
    loss += share * temperature * temperature * Constants<float>::ln2 * mean;
    const float factor = share * temperature * gradient_scale / row.sum *
                         fast_exp2(base - row.base);
#pragma unroll
    for (int v = 0; v < kHeld; ++v)
#pragma unroll
      for (int i = 0; i < kVector; ++i) grad[v][i] = fmaf(-factor, f[v][i], grad[v][i]);
  }
};

}  // namespace edufast::cuda
