// Rows of the staged program in the common case: KL(teacher || student), one temperature, weights
// that all rows share, no label smoothing. A row with masked classes or with logits beyond the
// ordinary is left to the one that can do everything.
//
// Exponentials are relative to a base: the largest logit of some lanes times log2(e) / T, rounded.
// Sums come to a common base by differences of bases, which are exact or nearly so.
#pragma once

#include "cuda/kd_loss_staged.cuh"

namespace edufast::cuda {

// In log2 units, so far from 0 that float32 has few digits left behind the point.
constexpr float kFar = 0x1p20f;

// Of a part of a source's row. `sum` is of its exponentials; `more` is, of the student, the same at
// T = 1, and of a teacher, its exponentials times log ratio. By default, of no class.
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

// Of parts of a row, one a lane. A teacher's log ratios are relative to a base of the student's, from
// which the part's own is `z_down` away.
template <class Group>
__device__ __forceinline__ PlainSums merge_plain(const Group& g, bool of_student,
                                                 const PlainSums& part, float z_down) {
  const float base = g.lane_max(part.base), down = part.base - base, factor = fast_exp2(down);
  const float more = of_student ? part.more * fast_exp2(down * g.temperature(0))
                                : factor * fmaf(part.sum, down - z_down, part.more);
  return {base, g.lane_sum(factor * part.sum), g.lane_sum(more)};
}

__device__ __forceinline__ bool positive(float x) {
  return x > 0 && x < Constants<float>::infinity();
}

// A row in the making, and what a thread has of it.
template <class Group>
struct PlainRow {
  static constexpr int kHeld = Group::kHeld;
  // e^z is the fourth power of e^(z / 4), but for the rounding of four.
  static constexpr bool kPowers = !std::is_same_v<typename Group::Stored, float>;

  Group& g;
  const Task& task;
  const float scale = g.paces[0].scale, temperature = g.paces[0].temperature;
  const bool fourth = kPowers && temperature == 4;

  __device__ PlainRow(Group& group, const Task& t) : g(group), task(t) {}

  // Beyond this sums are 0 or infinite.
  static __device__ __forceinline__ float bounded(float base) {
    return fminf(fmaxf(base, -kFar), kFar);
  }

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

  // Pairwise: few additions wait for each other.
  static __device__ __forceinline__ float total(const float (&x)[kVector]) {
    return ((x[0] + x[1]) + (x[2] + x[3])) + ((x[4] + x[5]) + (x[6] + x[7]));
  }

  __device__ __forceinline__ void write(float (&grad)[kHeld][kVector], float at_label) const {
    auto* row = static_cast<typename Group::Out*>(g.student_grad(task.row).data);
#pragma unroll
    for (int v = 0; v < kHeld; ++v) {
      if (v >= g.held) break;
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
