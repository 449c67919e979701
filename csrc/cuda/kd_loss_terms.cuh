// The numbers of a row: what the sweeps learn, what the gradient needs, and how the one becomes the
// other. A new divergence is a sum in accumulate() and a case in conclude_divergence().
#pragma once

#include "cuda/primitives.cuh"
#include "kd_loss.h"

namespace edufast::cuda {

// Everything per class is in log2 units relative to the row's maximum:
//   log2 p = (z - zmax) * scale - zlog,  scale = log2(e) / T,  zlog = log2(zsum)
// so that one multiplication and ex2 make a probability; likewise q of the teacher's t.

// What a sweep learns about one teacher and the student over its slice. The student's own sweep
// (source 0), over all classes, uses zmax and zsum, counts its classes in tsum, and fills `extra`.
template <class Real>
struct Stats {
  Real zmax = Constants<Real>::lowest, zsum = 0;  // student: sum of exp((z - zmax) / T)
  Real tmax = Constants<Real>::lowest, tsum = 0;  // teacher
  // Exponentials of the divergence's first argument (teacher: forward KL; student: reverse KL)
  // times log ratio, both sides relative to their maxima; T times as large.
  Real cross = 0;
  Real tsum1 = 0, tlead1 = 0;  // teacher at T = 1: sum of e = exp(t - tmax), and of e (t - tmax)
  Real extra = 0;              // student's own sweep: sum of (z - zmax)
};

template <class Real>
struct TeacherRow {
  Real scale, zmax, zlog, tmax, tlog;  // log2 p = (z - zmax) * scale - zlog, log2 q likewise
  Real weight;
  // With x the divergence's partner (the other side, or the mixture):
  //   d/dz = p (a0 + a1 log2(p / x)) + a2 q,   d/dt = q (b0 + b1 log2(q / x)) + b2 p
  Real a0, a1, a2, b0, b1, b2;
  Real label;  // the teacher's gradient at the label, which DKD leaves out of p and q
  int cache;   // where the row is kept in shared memory, -1: nowhere
};

template <class Real>
struct Header {
  Real zmax, zlog, scale, uniform;  // cross-entropy: d/dz = scale * p - uniform, plus ...
  Real label;                       // ... this at the label
  Real loss;
  unsigned used;  // teachers that contribute, a bit each
};

// Shared memory of one group.
template <class Real>
struct Tables {
  Stats<Real>* total;    // (K + 1), of the whole group
  Stats<Real>* partial;  // (K + 1, warps), block per row only
  Stats<Real>* block;    // (2, K + 1): of this block, in turn, for the other blocks of the cluster
  TeacherRow<Real>* teachers;
  Header<Real>* header;
  char* cache;

  static __host__ __device__ int bytes(int k, bool warp_per_row, int warps) {
    const int stats = warp_per_row ? k + 1 : (k + 1) * (warps + 3);
    const int size = stats * sizeof(Stats<Real>) + k * sizeof(TeacherRow<Real>) +
                     sizeof(Header<Real>);
    return (size + 15) / 16 * 16;
  }
  static __device__ Tables carve(char* memory, int k, bool warp_per_row, int warps) {
    Tables t;
    t.total = reinterpret_cast<Stats<Real>*>(memory);
    t.partial = t.total + k + 1;
    t.block = t.partial + (warp_per_row ? 0 : (k + 1) * warps);
    t.teachers = reinterpret_cast<TeacherRow<Real>*>(t.block + (warp_per_row ? 0 : 2 * (k + 1)));
    t.header = reinterpret_cast<Header<Real>*>(t.teachers + k);
    t.cache = memory + bytes(k, warp_per_row, warps);
    return t;
  }
};

template <class Real>
__device__ __forceinline__ Real weighted(Real probability, Real x) {
  return probability == 0 ? Real(0) : probability * x;
}

// Moves the sums to other maxima.
template <class Real, Divergence D>
__device__ __forceinline__ void rescale(Stats<Real>& s, Real zmax, Real tmax, Real scale) {
  const Real fz = fast_exp2((s.zmax - zmax) * scale), ft = fast_exp2((s.tmax - tmax) * scale);
  const Real shift = s.tmax - tmax, f1 = fast_exp2(shift * Constants<Real>::log2e);
  const Real drift = (s.tmax - tmax) - (s.zmax - zmax);
  s.cross = D == Divergence::ReverseKL ? fz * (s.cross - weighted(s.zsum, drift))
                                       : ft * (s.cross + weighted(s.tsum, drift));
  s.extra += weighted(s.tsum, s.zmax - zmax);
  s.zsum *= fz;
  s.tsum *= ft;
  s.tlead1 = f1 * (s.tlead1 + weighted(s.tsum1, shift));
  s.tsum1 *= f1;
  s.zmax = zmax;
  s.tmax = tmax;
}

template <class Real, Divergence D>
__device__ __forceinline__ Stats<Real> warp_reduce(Stats<Real> s, Real scale) {
  rescale<Real, D>(s, warp_max(s.zmax), warp_max(s.tmax), scale);
  s.zsum = warp_sum(s.zsum);
  s.tsum = warp_sum(s.tsum);
  s.cross = warp_sum(s.cross);
  s.tsum1 = warp_sum(s.tsum1);
  s.tlead1 = warp_sum(s.tlead1);
  s.extra = warp_sum(s.extra);
  return s;
}

// One class of the student's own sweep, if it is one; s holds the maximum already.
template <class Real>
__device__ __forceinline__ void accumulate_student(Stats<Real>& s, Real z, bool held) {
  s.zsum += fast_exp2((z - s.zmax) * Constants<Real>::log2e);
  s.extra += held ? z - s.zmax : Real(0);
  s.tsum += held ? Real(1) : Real(0);
}

// One class of a teacher's sweep.
template <class Real, Divergence D>
__device__ __forceinline__ void accumulate(Stats<Real>& s, Real z, Real t, Real scale) {
  const Real dz = z - s.zmax, dt = t - s.tmax;
  const Real ez = fast_exp2(dz * scale), et = fast_exp2(dt * scale);
  s.zsum += ez;
  s.tsum += et;
  if constexpr (D == Divergence::ForwardKL || D == Divergence::DKD)
    s.cross += is_masked(t) ? Real(0) : et * (dt - dz);
  if constexpr (D == Divergence::ReverseKL) s.cross += is_masked(z) ? Real(0) : ez * (dz - dt);
}

// The teacher at T = 1, which the weightings by entropy and by confidence look at.
template <class Real>
__device__ __forceinline__ void accumulate_at_one(Stats<Real>& s, Real t) {
  const Real lead = t - s.tmax, e = fast_exp2(lead * Constants<Real>::log2e);
  s.tsum1 += e;
  s.tlead1 += weighted(e, lead);
}

// Entropy of a teacher at T = 1; 0 where every class is masked.
template <class Real>
__device__ __forceinline__ Real entropy(const Stats<Real>& s) {
  return s.tsum1 == 0 ? Real(0) : log_of(s.tsum1) - s.tlead1 / s.tsum1;
}

// Cross-entropy of a teacher whose logit of the label is `logit`; finite, for a softmax over it.
template <class Real>
__device__ __forceinline__ Real bounded_cross_entropy(const Stats<Real>& s, Real logit) {
  const Real x = s.tsum1 == 0 ? Real(1e30) : log_of(s.tsum1) + (s.tmax - logit);
  return x > Real(1e30) ? Real(1e30) : x;  // keeps NaN
}

// 0 * inf in a sum of finite or masked logits: mass, though it underflowed, where the other side is
// masked.
template <class Real>
__device__ __forceinline__ Real infinite_if_nan(Real divergence, bool has_nan) {
  return divergence != divergence && !has_nan ? Constants<Real>::infinity() : divergence;
}

// KL divergence of the side whose exponentials `cross` has, `sum`, from the other.
template <class Real>
__device__ __forceinline__ Real kl_divergence(Real cross, Real sum, Real other, Real inverse_t) {
  const Real kl = cross / sum * inverse_t + log_of(other) - log_of(sum);
  return infinite_if_nan(kl, sum != sum || other != other);
}

// Logarithms of the probabilities of the label and of all other classes together.
template <class Real>
struct Binary {
  Real label, rest;
  bool empty;

  __device__ Binary(Real logit, Real rest_max, Real rest_sum, Real inverse_t) {
    const Real high = larger(rest_max, logit);
    label = (logit - high) * inverse_t;
    rest = rest_sum == 0 ? -Constants<Real>::infinity()
                         : (rest_max - high) * inverse_t + log_of(rest_sum);
    empty = is_masked(logit) && rest_sum == 0;
    const Real log_sum = log_of(exp_of(label) + exp_of(rest));
    label -= log_sum;
    rest -= log_sum;
  }
};

// What a row's label is to a teacher: the two logits, if its slice holds the class at all.
template <class Real>
struct Label {
  bool known;
  Real z, t;
};

// The decoupled divergence (Zhao et al. 2022, eq. 7). `s` is about the classes without the label.
template <class Real>
__device__ __forceinline__ Real conclude_decoupled(TeacherRow<Real>& r, const Stats<Real>& s,
                                                   const Label<Real>& label, const float* params,
                                                   Real g, Real* student_at_label) {
  const Real inverse_t = r.scale * Constants<Real>::ln2;
  const Real target = params[0], other = params[1];
  const bool rest_z = s.zsum != 0, rest_t = s.tsum != 0;
  Real loss = 0;
  if (rest_z && rest_t) {
    const Real kl = kl_divergence(s.cross, s.tsum, s.zsum, inverse_t);
    loss = other * kl;
    r.a0 = g * other;
    r.a2 = -g * other;
    r.b0 = -g * other * kl;
    r.b1 = g * other * Constants<Real>::ln2;
  }
  if (!label.known) return loss;

  const Binary<Real> z(label.z, s.zmax, s.zsum, inverse_t);
  const Binary<Real> t(label.t, s.tmax, s.tsum, inverse_t);
  if (z.empty || t.empty) return loss;
  const Real py = exp_of(z.label), qy = exp_of(t.label), qr = exp_of(t.rest);
  Real kl = is_masked(t.label) ? Real(0) : qy * (t.label - z.label);
  kl += is_masked(t.rest) ? Real(0) : qr * (t.rest - z.rest);
  kl = infinite_if_nan(kl, py != py || qy != qy);
  r.a0 += g * target * (qy - py);
  if (rest_z) *student_at_label = g * target * (py - qy);
  const Real both = g * target * weighted(qy * qr, (t.label - z.label) - (t.rest - z.rest));
  r.b0 -= both;
  r.label = both;
  return loss + target * kl;
}

// The divergence (without T^2), and the coefficients of g times its gradient.
template <class Real, Divergence D>
__device__ __forceinline__ Real conclude_divergence(TeacherRow<Real>& r, const Stats<Real>& s,
                                                    const Label<Real>& label, const float* params,
                                                    Real g, Real* student_at_label) {
  constexpr Real ln2 = Constants<Real>::ln2;
  const Real inverse_t = r.scale * ln2;
  r.a0 = r.a1 = r.a2 = r.b0 = r.b1 = r.b2 = r.label = 0;
  if constexpr (D == Divergence::ForwardKL) {
    const Real kl = kl_divergence(s.cross, s.tsum, s.zsum, inverse_t);
    r.a0 = g;
    r.a2 = -g;
    r.b0 = -g * kl;
    r.b1 = g * ln2;
    return kl;
  } else if constexpr (D == Divergence::ReverseKL) {
    const Real kl = kl_divergence(s.cross, s.zsum, s.tsum, inverse_t);
    r.a0 = -g * kl;
    r.a1 = g * ln2;
    r.b0 = g;
    r.b2 = -g;
    return kl;
  } else if constexpr (D == Divergence::JS) {
    const Real beta = params[0];
    const Real student_kl = s.zsum * ln2, teacher_kl = s.tsum * ln2;  // to the mixture
    r.a0 = -g * (1 - beta) * student_kl;
    r.a1 = g * (1 - beta) * ln2;
    r.b0 = -g * beta * teacher_kl;
    r.b1 = g * beta * ln2;
    return beta * teacher_kl + (1 - beta) * student_kl;
  } else {
    return conclude_decoupled(r, s, label, params, g, student_at_label);
  }
}

// The cross-entropy and its gradient (in h, times g).
template <class Real>
__device__ __forceinline__ Real conclude_cross_entropy(Header<Real>& h, const Stats<Real>& s,
                                                       Real logit, int classes, Real smoothing,
                                                       Real g) {
  if (s.zsum == 0) return Constants<Real>::infinity();  // all masked; no gradient exists
  h.zmax = s.zmax;
  h.zlog = log2_of(s.zsum);
  h.scale = g;
  h.uniform = g * smoothing / classes;
  h.label -= g * (1 - smoothing);
  Real loss = (1 - smoothing) * (s.zmax - logit) + log_of(s.zsum);
  if (smoothing != 0) loss -= smoothing * s.extra / classes;
  return loss;
}

}  // namespace edufast::cuda
