// The multi-teacher loss of a row and its gradient: the staged program.
//
//   sweep      source by source: the maximum, then sums of exponentials
//   settle, conclude   as in the general program
//   gradient   vector by vector, from the student's logits, which stayed in registers, and the
//              teachers' in shared memory
//
// Few registers and short code come first: what keeps the memory busy is the number of warps.
#pragma once

#include "cuda/kd_loss_plain_blocks.cuh"
#include "cuda/kd_loss_plain_lanes.cuh"

namespace edufast::cuda {

// A thread's logits of the student at the first teacher's temperature, relative to the maximum of
// its lanes. Without the label where both sides are normalised without it.
template <class Group>
struct Softened {
  float u[Group::kHeld][kVector];  // (z - max) log2(e) / T
  float max, sum;                  // of the lanes

  __device__ __forceinline__ void read(const Group& g, const Task& task) {
    const float scale = g.log2_scale(1);
    max = g.lane_max(g.largest(0, task, false));
    const float shift = max <= kAbsent ? 0 : max;
    sum = 0;
#pragma unroll
    for (int v = 0; v < Group::kHeld; ++v) {
      if (v >= g.held) break;
      g.fetch(0, v, task, false, u[v]);
#pragma unroll
      for (int i = 0; i < kVector; ++i) {
        u[v][i] = (u[v][i] - shift) * scale;
        sum += fast_exp2(u[v][i]);
      }
    }
    sum = g.lane_sum(sum);
  }

  // The same sum for a teacher at another temperature.
  __device__ __forceinline__ float sum_at(const Group& g, float ratio) const {
    float other = 0;
#pragma unroll
    for (int v = 0; v < Group::kHeld; ++v) {
      if (v >= g.held) break;
#pragma unroll
      for (int i = 0; i < kVector; ++i) other += fast_exp2(u[v][i] * ratio);
    }
    return g.lane_sum(other);
  }

  // Factor of exp2(u) that makes it a probability, given the row's maximum and the log2 of its sum.
  __device__ float to_probability(float row_max, float log_sum, float scale) const {
    return max <= kAbsent ? 0 : fast_exp2((max - row_max) * scale - log_sum);
  }
};

// --- sums ---------------------------------------------------------------------------------------

// For the cross-entropy: all classes at T = 1.
template <class Group>
__device__ __forceinline__ void sweep_student(const Group& g, const Task& task,
                                              const Softened<Group>& z) {
  Sums<float> s;
  float x[kVector];
  if constexpr (Group::kWithoutLabel) {
    s.z_max = g.lane_max(g.largest(0, task, true));
    const float shift = s.z_max <= kAbsent ? 0 : s.z_max;
#pragma unroll 1
    for (int v = 0; v < g.held; ++v) {
      g.fetch(0, v, task, true, x);
#pragma unroll
      for (int i = 0; i < kVector; ++i)
        s.z_sum += fast_exp2((x[i] - shift) * Constants<float>::log2e);
    }
  } else {
    s.z_max = z.max;
    const float temperature = g.temperature(0);
#pragma unroll
    for (int v = 0; v < Group::kHeld; ++v) {
      if (v >= g.held) break;
#pragma unroll
      for (int i = 0; i < kVector; ++i) s.z_sum += fast_exp2(z.u[v][i] * temperature);
    }
  }
  s.z_sum = g.lane_sum(s.z_sum);
  if (g.smoothing() != 0) {
#pragma unroll 1
    for (int v = 0; v < g.held; ++v) {
      g.fetch(0, v, task, true, x);
#pragma unroll
      for (int i = 0; i < kVector; ++i) {
        const int c = g.column(v, task.shift) + i;
        if (c < 0 || c >= g.p.classes) continue;
        s.extra += x[i] - s.z_max;
        s.t_sum += 1;
      }
    }
    s.extra = g.lane_sum(s.extra);
    s.t_sum = g.lane_sum(s.t_sum);
  }
  g.keep_sums(0, s);
}

// Exponentials of the divergence's first argument times log ratio; NaN if there is 0 * inf, which a
// masked class is, and a class that underflowed where the other side is masked.
template <bool StudentFirst>
__device__ __forceinline__ float cross_term(float u, float v, float f) {
  return StudentFirst ? fast_exp2(u) * (u - v) : f * (v - u);
}

// The same without classes that are masked on that side: rarely needed.
template <class Group>
__device__ __forceinline__ float cross_without_masked(const Group& g, int k, const Task& task,
                                                      const Softened<Group>& z, float shift) {
  constexpr bool kStudentFirst = traits_of(Group::kDivergence).student_first;
  const float scale = g.paces[k].scale;
  float cross = 0, u[kVector], x[kVector];
#pragma unroll 1
  for (int v = 0; v < g.held; ++v) {
    g.fetch(0, v, task, false, u);
    g.fetch(k + 1, v, task, false, x);
#pragma unroll
    for (int i = 0; i < kVector; ++i) {
      u[i] = (u[i] - (z.max <= kAbsent ? 0 : z.max)) * scale;
      x[i] = fmaf(x[i], scale, -shift);
      if (!is_masked(kStudentFirst ? u[i] : x[i]))
        cross += cross_term<kStudentFirst>(u[i], x[i], fast_exp2(x[i]));
    }
  }
  return cross;
}

template <class Group>
__device__ __forceinline__ void sweep_teacher(const Group& g, int k, const Task& task,
                                              const Softened<Group>& z) {
  constexpr bool kStudentFirst = traits_of(Group::kDivergence).student_first;
  const Pace pace = g.paces[k];
  Sums<float> s;
  s.t_max = g.lane_max(g.largest(k + 1, task, false));
  const float shift = s.t_max <= kAbsent ? 0 : s.t_max * pace.scale;
  float x[kVector];
#pragma unroll
  for (int v = 0; v < Group::kHeld; ++v) {
    if (v >= g.held) break;
    g.fetch(k + 1, v, task, false, x);
#pragma unroll
    for (int i = 0; i < kVector; ++i) {
      x[i] = fmaf(x[i], pace.scale, -shift);
      const float f = fast_exp2(x[i]);
      s.t_sum += f;
      s.cross += cross_term<kStudentFirst>(z.u[v][i] * pace.ratio, x[i], f);
    }
  }
  if (s.cross != s.cross) s.cross = cross_without_masked(g, k, task, z, shift);
  if (g.unit) {
#pragma unroll 1
    for (int v = 0; v < g.held; ++v) {
      g.fetch(k + 1, v, task, false, x);
#pragma unroll
      for (int i = 0; i < kVector; ++i) {
        const float log2_e = fmaf(x[i], pace.scale, -shift) * pace.temperature;
        const float e = fast_exp2(log2_e);
        s.unit += e;
        s.unit_weighted += weighted(e, log2_e * Constants<float>::ln2);
      }
    }
    s.unit = g.lane_sum(s.unit);
    s.unit_weighted = g.lane_sum(s.unit_weighted);
  }
  s.z_max = z.max;
  s.z_sum = pace.ratio == 1 ? z.sum : z.sum_at(g, pace.ratio);
  warp_sum_pair<Group::kLanes>(s.t_sum, s.cross, g.lane);  // keep_sums() takes the first lane's
  // (t - t_max) scale is x minus what the product lost in rounding.
  const float lost = shift == 0 ? 0 : fmaf(s.t_max, pace.scale, -shift), up = fast_exp2(-lost);
  if (kStudentFirst) s.cross += weighted(s.z_sum, lost);
  else s.cross = up * (s.cross - weighted(s.t_sum, lost));
  s.t_sum *= up;
  s.cross *= pace.temperature * Constants<float>::ln2;
  g.keep_sums(k + 1, s);
}

template <class Group>
__device__ __forceinline__ void sweep(Group& g, const Task& task, Softened<Group>& z) {
  const unsigned read = g.of_warp(task.read);
  g.await(task);
  z.read(g, task);
  sweep_student(g, task, z);
#pragma unroll 1
  for (unsigned rest = read; rest; rest &= rest - 1) sweep_teacher(g, __ffs(rest) - 1, task, z);
  g.combine(task.read);
}

// --- gradient -----------------------------------------------------------------------------------

// Makes of the coefficients what the loop over the classes multiplies with; lane k works for
// teacher k. `other` is now of exp2(t scale - shift), and `mean` of the log ratio u - (t scale - shift).
template <class Group>
__device__ __forceinline__ void fold(const Group& g) {
  const unsigned used = g.tables.header->used;
  float own = 0;
  if (used >> g.lane & 1) {
    TeacherRow<float>& r = g.tables.teachers[g.lane];
    const float shift = r.t_max <= kAbsent ? 0 : r.t_max * r.scale;
    const float lost = shift == 0 ? 0 : fmaf(r.t_max, r.scale, -shift);
    own = r.student.own;
    r.student.other *= fast_exp2(-lost - r.t_log_sum);
    r.student.mean += r.z_log_sum - lost - r.t_log_sum;
    r.t_max = shift;
  }
  own = g.lane_sum(own);
  if (g.lane == 0) g.tables.header->teachers_own = own;
}

// What stays the same for the vectors of a row.
template <class Group>
struct Gradient {
  // Whether the log ratio is part of the student's gradient.
  static constexpr bool kRatio = kStudentRatio<Group::kDivergence>;
  const Group& g;
  const Task& task;
  const Softened<Group>& z;
  const Header<float> h = *g.tables.header;
  float of_ce = 0, of_kd = 0;  // factors of the student's exponentials
  float temperature = 1;       // the first teacher's

  __device__ Gradient(const Group& group, const Task& t, const Softened<Group>& softened)
      : g(group), task(t), z(softened), temperature(group.temperature(0)) {
    if (!Group::kWithoutLabel)
      of_ce = z.to_probability(h.z_max, h.z_log_sum, Constants<float>::log2e) * h.own;
    if (kRatio || !g.alike || h.used == 0) return;
    const TeacherRow<float>& r = g.tables.teachers[__ffs(h.used) - 1];
    of_kd = z.to_probability(r.z_max, r.z_log_sum, r.scale) * h.teachers_own;
  }

  // Of this thread's vector v.
  __device__ __forceinline__ void of(int v, const float (&u)[kVector], float (&x)[kVector]) const {
    cross_entropy(v, u, x);
    if (h.used == 0) return;  // u may count for nothing
    float t[kVector];
#pragma unroll 1
    for (unsigned rest = h.used; rest; rest &= rest - 1) {
      const int k = __ffs(rest) - 1;
      const TeacherRow<float>& r = g.tables.teachers[k];
      g.fetch(k + 1, v, task, false, t);
#pragma unroll
      for (int i = 0; i < kVector; ++i) t[i] = fmaf(t[i], r.scale, -r.t_max);
      if constexpr (kRatio) add_ratio(k, r, u, t, x);
      else if (!g.alike) add_own(k, r, u, x);
      if constexpr (!kRatio)
#pragma unroll
        for (int i = 0; i < kVector; ++i) x[i] = fmaf(r.student.other, fast_exp2(t[i]), x[i]);
    }
    if constexpr (!kRatio)
      if (g.alike)
#pragma unroll
        for (int i = 0; i < kVector; ++i) x[i] = fmaf(of_kd, fast_exp2(u[i]), x[i]);
  }

 private:
  __device__ __forceinline__ void cross_entropy(int v, const float (&u)[kVector],
                                                float (&x)[kVector]) const {
    if (h.own == 0) {
#pragma unroll
      for (int i = 0; i < kVector; ++i) x[i] = 0;
    } else if constexpr (Group::kWithoutLabel) {
      g.fetch(0, v, task, true, x);
#pragma unroll
      for (int i = 0; i < kVector; ++i) {
        const float log_p = (x[i] - h.z_max) * Constants<float>::log2e - h.z_log_sum;
        x[i] = h.own * fast_exp2(log_p) - h.uniform;
      }
    } else {
#pragma unroll
      for (int i = 0; i < kVector; ++i)
        x[i] = fmaf(fast_exp2(u[i] * temperature), of_ce, -h.uniform);
    }
  }

  __device__ __forceinline__ void add_own(int k, const TeacherRow<float>& r,
                                          const float (&u)[kVector], float (&x)[kVector]) const {
    const float ratio = g.paces[k].ratio;
    const float own = z.to_probability(r.z_max, r.z_log_sum, r.scale) * r.student.own;
#pragma unroll
    for (int i = 0; i < kVector; ++i) x[i] = fmaf(own, fast_exp2(u[i] * ratio), x[i]);
  }

  __device__ __forceinline__ void add_ratio(int k, const TeacherRow<float>& r,
                                            const float (&u)[kVector],
                                            const float (&log_f)[kVector],
                                            float (&x)[kVector]) const {
    const float ratio = g.paces[k].ratio;
    const float to_probability = z.to_probability(r.z_max, r.z_log_sum, r.scale);
    const float ahead = (z.max - r.z_max) * r.scale - r.student.mean;
#pragma unroll
    for (int i = 0; i < kVector; ++i) {
      const float log_u = u[i] * ratio;
      const float factor = r.student.ratio * ((log_u - log_f[i]) + ahead) + r.student.own;
      x[i] += weighted(fast_exp2(log_u) * to_probability, factor);
    }
  }
};

// The row's gradient.
template <class Group>
__device__ __forceinline__ void write_gradient(const Group& g, const Task& task,
                                               const Softened<Group>& z) {
  if (task.fate == Fate::None) return;
  auto* row = static_cast<typename Group::Out*>(g.student_grad(task.row).data);
  const Gradient<Group> gradient(g, task, z);
#pragma unroll
  for (int v = 0; v < Group::kHeld; ++v) {
    if (v >= g.held) break;
    const int first = g.column(v, task.shift);
    if (first >= g.p.classes) break;
    float x[kVector];
    if (task.fate == Fate::Valid) {
      gradient.of(v, z.u[v], x);
      if (unsigned(task.label - first) < kVector)
#pragma unroll
        for (int i = 0; i < kVector; ++i)
          if (first + i == task.label) x[i] += gradient.h.label;
    } else {
#pragma unroll
      for (int i = 0; i < kVector; ++i)
        x[i] = task.fate == Fate::Ignored ? 0 : Constants<float>::nan();
    }
    store_vector(row, first, g.p.classes, x);
  }
}

// Writes all gradients of the row, times `gradient_scale`. The loss is for the group's leader.
template <class Group>
__device__ __forceinline__ float run_any_row(Group& g, const Task& task, float gradient_scale) {
  Softened<Group> z;
  if (g.of_warp(task.fate == Fate::Valid)) {
    g.label_logit = to_float(g.data(0, task)[task.label]);  // needed by conclude()
    sweep(g, task, z);
    if (g.first_warp()) {
      settle(g, task.row, task.label, task.read, -1);
      conclude(g, task.row, task.label, gradient_scale);
      __syncwarp();
      fold(g);
    }
    g.sync();
  }
  write_gradient(g, task, z);
  if (task.fate == Fate::Valid) return g.tables.header->loss;
  return task.fate == Fate::Broken ? Constants<float>::nan() : 0;
}

// A row that lanes of a warp share and that is not plain. A call, so that plain rows have the registers
// to themselves. If it was taken for one, what had been copied is `gone`.
template <class Group>
__device__ __noinline__ float run_apart(const KDLoss& p, const Launch& launch, char* memory,
                                        unsigned row, bool gone, float gradient_scale) {
  Group g(p, launch, memory, false);
  const Task task = g.look(row, g.label_of(row));
  if (gone) {
    wait_for_copies();  // of the next row, into the places that are needed now
    g.request(task);
  }
  return run_any_row(g, task, gradient_scale);
}

// A row that was requested; and requests the next.
template <class Group>
__device__ __forceinline__ float run_staged_row(Group& g, unsigned row, const Task& task,
                                                const Task& next, float gradient_scale) {
  const bool plain = Group::kMayBePlain && g.plain && !g.of_warp(task.fate != Fate::Valid);
  float loss;
  if constexpr (Group::kStreams) {
    if (plain) {
      PlainRowOfLanes<Group> of_lanes(g, task, next);
      if (of_lanes.run(gradient_scale)) return of_lanes.loss;
    }
    loss = run_apart<Group>(g.p, g.launch, dynamic_shared(), row, plain, gradient_scale);
  } else {
    bool done = false;
    if constexpr (Group::kMayBePlain)
      done = plain && PlainRowOfBlocks<Group>(g, task).run(gradient_scale, loss);
    if (!done) loss = run_any_row(g, task, gradient_scale);
  }
  g.request(next);
  return loss;
}

}  // namespace edufast::cuda
