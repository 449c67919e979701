// The multi-teacher loss of a row and its gradient: the staged program.
//
//   sweep      source by source, as they arrive: the maximum, then sums of exponentials
//   settle, conclude   as in the general program
//   gradient   from the student's logits, which stayed in registers, and the teachers'; where one
//              has served, the next row's is requested
#pragma once

#include "cuda/kd_loss_staged.cuh"

namespace edufast::cuda {

// A thread's logits of the student at one temperature, relative to the maximum of its lanes.
template <class Group>
struct Softened {
  float u[Group::kHeld][kVector];  // (z - max) log2(e) / T; exp2 of it after raise()
  float max, sum;                  // of the lanes

  __device__ __forceinline__ void read(const Group& g, const Task& task, int low, int high,
                                       bool with_label, float scale) {
    max = Constants<float>::lowest;
#pragma unroll
    for (int v = 0; v < Group::kHeld; ++v) {
      g.fetch(0, v, task, low, high, with_label, u[v]);
#pragma unroll
      for (int i = 0; i < kVector; ++i) max = larger(max, u[v][i]);
    }
    max = g.lane_max(max);
    const float shift = max <= kAbsent ? 0 : max;
    sum = 0;
#pragma unroll
    for (int v = 0; v < Group::kHeld; ++v)
#pragma unroll
      for (int i = 0; i < kVector; ++i) {
        u[v][i] = (u[v][i] - shift) * scale;
        sum += fast_exp2(u[v][i]);
      }
    sum = g.lane_sum(sum);
  }

  __device__ __forceinline__ void raise() {
#pragma unroll
    for (int v = 0; v < Group::kHeld; ++v)
#pragma unroll
      for (int i = 0; i < kVector; ++i) u[v][i] = fast_exp2(u[v][i]);
  }

  // Factor of exp2(u) that makes it a probability, given the row's maximum and the log2 of its sum.
  __device__ float to_probability(float row_max, float log_sum, float scale) const {
    return max <= kAbsent ? 0 : fast_exp2((max - row_max) * scale - log_sum);
  }
};

// exp(x) of exp(x / T).
__device__ __forceinline__ float squared(float e, int times) {
  if (times > 0) e *= e;
  return times > 1 ? e * e : e;
}

// --- sums ---------------------------------------------------------------------------------------

// For the cross-entropy: all classes at T = 1.
template <class Group>
__device__ __forceinline__ void sweep_student(const Group& g, const Task& task,
                                              const Softened<Group>& z) {
  Sums<float> s;
  if (g.squarings >= 0) {
    s.z_max = z.max;
#pragma unroll
    for (int v = 0; v < Group::kHeld; ++v)
#pragma unroll
      for (int i = 0; i < kVector; ++i) s.z_sum += squared(fast_exp2(z.u[v][i]), g.squarings);
  } else {
    float x[kVector];
#pragma unroll 1
    for (int v = 0; v < Group::kHeld; ++v) {
      g.fetch(0, v, task, 0, g.p.classes, true, x);
#pragma unroll
      for (int i = 0; i < kVector; ++i) s.z_max = larger(s.z_max, x[i]);
    }
    s.z_max = g.lane_max(s.z_max);
    const float shift = s.z_max <= kAbsent ? 0 : s.z_max;
#pragma unroll 1
    for (int v = 0; v < Group::kHeld; ++v) {
      g.fetch(0, v, task, 0, g.p.classes, true, x);
#pragma unroll
      for (int i = 0; i < kVector; ++i)
        s.z_sum += fast_exp2((x[i] - shift) * Constants<float>::log2e);
    }
  }
  s.z_sum = g.lane_sum(s.z_sum);
  if (g.smoothing() != 0) {
    float x[kVector];
#pragma unroll 1
    for (int v = 0; v < Group::kHeld; ++v) {
      g.fetch(0, v, task, 0, g.p.classes, true, x);
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

template <class Group>
__device__ __forceinline__ void sweep_teacher(const Group& g, int k, const Task& task,
                                              const Softened<Group>& z, const Slice& t) {
  constexpr bool kStudentFirst = traits_of(Group::kDivergence).student_first;
  const float scale = g.log2_scale(k + 1);
  Sums<float> s;
  float x[Group::kHeld][kVector];
#pragma unroll
  for (int v = 0; v < Group::kHeld; ++v) {
    g.fetch(k + 1, v, task, t.low, t.high, false, x[v]);
#pragma unroll
    for (int i = 0; i < kVector; ++i) s.t_max = larger(s.t_max, x[v][i]);
  }
  s.t_max = g.lane_max(s.t_max);
  const float shift = s.t_max <= kAbsent ? 0 : s.t_max * scale;
#pragma unroll
  for (int v = 0; v < Group::kHeld; ++v)
#pragma unroll
    for (int i = 0; i < kVector; ++i) {
      x[v][i] = fmaf(x[v][i], scale, -shift);
      const float f = fast_exp2(x[v][i]);
      s.t_sum += f;
      s.cross += cross_term<kStudentFirst>(z.u[v][i], x[v][i], f);
    }
  if (s.cross != s.cross) {  // rarely
    s.cross = 0;
#pragma unroll
    for (int v = 0; v < Group::kHeld; ++v)
#pragma unroll
      for (int i = 0; i < kVector; ++i)
        if (!is_masked(kStudentFirst ? z.u[v][i] : x[v][i]))
          s.cross += cross_term<kStudentFirst>(z.u[v][i], x[v][i], fast_exp2(x[v][i]));
  }
  if (g.unit) {
    const float temperature = g.temperature(k);
#pragma unroll
    for (int v = 0; v < Group::kHeld; ++v)
#pragma unroll
      for (int i = 0; i < kVector; ++i) {
        const float log2_e = x[v][i] * temperature, e = fast_exp2(log2_e);
        s.unit += e;
        s.unit_weighted += weighted(e, log2_e * Constants<float>::ln2);
      }
    s.unit = g.lane_sum(s.unit);
    s.unit_weighted = g.lane_sum(s.unit_weighted);
  }
  s.z_max = z.max;
  s.z_sum = z.sum;
  warp_sum_pair<Group::kLanes>(s.t_sum, s.cross, g.lane);  // keep_sums() takes the first lane's
  // (t - t_max) scale is x minus what the product lost in rounding.
  const float lost = shift == 0 ? 0 : fmaf(s.t_max, scale, -shift), up = fast_exp2(-lost);
  if (kStudentFirst) s.cross += weighted(s.z_sum, lost);
  else s.cross = up * (s.cross - weighted(s.t_sum, lost));
  s.t_sum *= up;
  s.cross *= g.temperature(k) * Constants<float>::ln2;
  g.keep_sums(k + 1, s);
}

template <class Group>
__device__ __forceinline__ void sweep(Group& g, const Task& task, Softened<Group>& z) {
  const int teachers = g.p.num_teachers;
  const unsigned read = g.of_warp(task.read);
  wait_for_copies(g.shared ? teachers : 0);
  if (g.shared) z.read(g, task, 0, g.p.classes, false, g.log2_scale(1));
  sweep_student(g, task, z);
#pragma unroll 1
  for (int k = 0; k < teachers; ++k) {
    if (g.shared) wait_for_copies(teachers - 1 - k);
    if (!(read >> k & 1)) continue;
    const Slice t = g.slice(k);
    if (!g.shared) z.read(g, task, t.low, t.high, false, g.log2_scale(k + 1));
    sweep_teacher(g, k, task, z, t);
  }
  g.combine(task.read);
}

// --- gradient -----------------------------------------------------------------------------------

// The student's gradient as it grows, teacher by teacher.
template <class Group>
struct Gradient {
  static constexpr bool kRatio = kStudentRatio<Group::kDivergence>;
  float x[Group::kHeld][kVector];
  float of_p[Group::kHeld][kVector];  // factors of the student's probabilities; kRatio only
  float own = 0;                      // one for all of them; else

  __device__ __forceinline__ void begin() {
    own = 0;
    if constexpr (kRatio)
#pragma unroll
      for (int v = 0; v < Group::kHeld; ++v)
#pragma unroll
        for (int i = 0; i < kVector; ++i) of_p[v][i] = 0;
  }

  // With the cross-entropy's share. z is that of the sweep, raised where it can be.
  __device__ __forceinline__ void start(const Group& g, const Task& task, const Header<float>& h,
                                        const Softened<Group>& z) {
    const float log2e = Constants<float>::log2e;
    const float factor = z.to_probability(h.z_max, h.z_log_sum, log2e) * h.own;
#pragma unroll
    for (int v = 0; v < Group::kHeld; ++v) {
      if (h.own == 0) {
#pragma unroll
        for (int i = 0; i < kVector; ++i) x[v][i] = 0;
      } else if (g.squarings >= 0) {
#pragma unroll
        for (int i = 0; i < kVector; ++i)
          x[v][i] = fmaf(squared(kRatio ? fast_exp2(z.u[v][i]) : z.u[v][i], g.squarings), factor,
                         -h.uniform);
      } else {
        g.fetch(0, v, task, 0, g.p.classes, true, x[v]);
#pragma unroll
        for (int i = 0; i < kVector; ++i)
          x[v][i] = h.own * fast_exp2((x[v][i] - h.z_max) * log2e - h.z_log_sum) - h.uniform;
      }
    }
  }

  __device__ __forceinline__ void add(const Group& g, int k, const Task& task,
                                      const TeacherRow<float>& r, const Slice& t,
                                      const Softened<Group>& z) {
    const float shift = r.t_max <= kAbsent ? 0 : r.t_max * r.scale;
    const float lost = shift == 0 ? 0 : fmaf(r.t_max, r.scale, -shift);
    const float other = r.student.other * fast_exp2(-lost - r.t_log_sum);
    const float log_p = (z.max - r.z_max) * r.scale - r.z_log_sum;
    const float ahead = log_p + lost + r.t_log_sum - r.student.mean;
    own += r.student.own;
#pragma unroll
    for (int v = 0; v < Group::kHeld; ++v) {
      float ts[kVector];
      // Shared: what is beyond the row's ends is not stored, and does no harm.
      if (g.shared && !Group::kWithoutLabel) g.fetch(k + 1, v, ts);
      else g.fetch(k + 1, v, task, t.low, t.high, false, ts);
#pragma unroll
      for (int i = 0; i < kVector; ++i) {
        const float log_f = fmaf(ts[i], r.scale, -shift);
        if constexpr (kRatio)
          of_p[v][i] += r.student.ratio * ((z.u[v][i] - log_f) + ahead) + r.student.own;
        else x[v][i] = fmaf(other, fast_exp2(log_f), x[v][i]);
      }
    }
  }

  // What the teachers since begin() make of the student's probabilities.
  __device__ __forceinline__ void finish(const Softened<Group>& z, float to_probability) {
#pragma unroll
    for (int v = 0; v < Group::kHeld; ++v)
#pragma unroll
      for (int i = 0; i < kVector; ++i) {
        if constexpr (kRatio)
          x[v][i] += weighted(fast_exp2(z.u[v][i]) * to_probability, of_p[v][i]);
        else x[v][i] = fmaf(own, z.u[v][i] * to_probability, x[v][i]);
      }
  }
};

// Writes one vector of a row of gradients, as far as the row goes.
template <class Stored>
__device__ __forceinline__ void store_vector(Stored* row, int first, int classes,
                                             const float (&x)[kVector]) {
  Stored stored[kVector];
#pragma unroll
  for (int i = 0; i < kVector; ++i) stored[i] = rounded<Stored>(x[i]);
  if (first >= 0 && first + kVector <= classes) {
    uint4 raw[sizeof(stored) / 16];
    memcpy(raw, stored, sizeof(raw));
#pragma unroll
    for (int i = 0; i < int(sizeof(raw) / 16); ++i)
      reinterpret_cast<uint4*>(row + first)[i] = raw[i];
  } else {
#pragma unroll
    for (int i = 0; i < kVector; ++i)
      if (first + i >= 0 && first + i < classes) row[first + i] = stored[i];
  }
}

template <class Group>
__device__ __forceinline__ void store_gradient(const Group& g, const Task& task, float at_label,
                                               float (&x)[Group::kHeld][kVector]) {
  // float16 logits have float32 gradients.
  using Out = std::conditional_t<std::is_same_v<typename Group::Stored, __half>, float,
                                 typename Group::Stored>;
  if (task.fate == Fate::None) return;
  auto* row = static_cast<Out*>(g.student_grad(task.row).data);
#pragma unroll
  for (int v = 0; v < Group::kHeld; ++v) {
    const int first = g.column(v, task.shift);
    if (task.fate != Fate::Valid) {
      const float value = task.fate == Fate::Ignored ? 0 : Constants<float>::nan();
#pragma unroll
      for (int i = 0; i < kVector; ++i) x[v][i] = value;
    } else if (unsigned(task.label - first) < kVector) {
#pragma unroll
      for (int i = 0; i < kVector; ++i)
        if (first + i == task.label) x[v][i] += at_label;
    }
    if (first < g.p.classes) store_vector(row, first, g.p.classes, x[v]);
  }
}

// The row's gradient; requests the next row.
template <class Group>
__device__ __forceinline__ void write_gradient(const Group& g, const Task& task, const Task& next,
                                               Softened<Group>& z) {
  const Header<float> h = *g.tables.header;
  const unsigned used = g.of_warp(task.fate == Fate::Valid ? h.used : 0);
  Gradient<Group> grad;
  if (g.shared && !Gradient<Group>::kRatio) z.raise();
  grad.start(g, task, h, z);
  grad.begin();
  if (g.shared) g.request(next, 0);
  float to_probability = 0;
#pragma unroll 1
  for (int k = 0; k < g.p.num_teachers; ++k) {
    if (used >> k & 1) {
      const TeacherRow<float> r = g.tables.teachers[k];
      const Slice t = g.slice(k);
      if (!g.shared) z.read(g, task, t.low, t.high, false, r.scale);
      if (Group::kLanes == kWarpSize || h.used >> k & 1) {
        to_probability = z.to_probability(r.z_max, r.z_log_sum, r.scale);
        grad.add(g, k, task, r, t, z);
        if (!g.shared && !Gradient<Group>::kRatio) z.raise();
        if (!g.shared) grad.finish(z, to_probability);
      }
      if (!g.shared) grad.begin();
    }
    g.request(next, k + 1);
  }
  if (g.shared && h.used) grad.finish(z, to_probability);  // else z counts for nothing
  if (!g.shared) g.request(next, 0);
  store_gradient(g, task, h.label, grad.x);
}

// Writes all gradients of the row, times `gradient_scale`. The loss is for the group's leader.
template <class Group>
__device__ __forceinline__ float run_staged_row(Group& g, const Task& task, const Task& next,
                                                float gradient_scale) {
  Softened<Group> z;
  if (g.of_warp(task.fate == Fate::Valid)) {
    sweep(g, task, z);
    if (g.first_warp()) {
      settle(g, task.row, task.label, task.read, -1);
      conclude(g, task.row, task.label, gradient_scale);
    }
    g.sync();
  }
  write_gradient(g, task, next, z);
  if (task.fate == Fate::Valid) return g.tables.header->loss;
  return task.fate == Fate::Broken ? Constants<float>::nan() : 0;
}

}  // namespace edufast::cuda
