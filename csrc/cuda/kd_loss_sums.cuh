// What the sweeps over a row learn: maxima, and sums of exponentials relative to them.
#pragma once

#include "cuda/primitives.cuh"
#include "kd_loss.h"

namespace edufast::cuda {

// Of one teacher and the student over its slice. The student's own sweep (source 0), over all
// classes, uses z_max and z_sum, counts its classes in t_sum, and fills `extra`.
template <class Real>
struct Sums {
  Real z_max = Constants<Real>::lowest, z_sum = 0;  // student: sum of exp((z - z_max) / T)
  Real t_max = Constants<Real>::lowest, t_sum = 0;  // teacher
  // Exponentials of the divergence's first argument times log ratio, both sides relative to their
  // maxima; T times as large.
  Real cross = 0;
  Real unit = 0, unit_weighted = 0;  // teacher at T = 1: of e = exp(t - t_max), of e (t - t_max)
  Real extra = 0;                    // student's own sweep: sum of (z - z_max)
};

template <class Real>
__device__ __forceinline__ Real weighted(Real probability, Real x) {
  return probability == 0 ? Real(0) : probability * x;
}

// Moves the sums to other maxima.
template <class Real, Divergence D>
__device__ __forceinline__ void rescale(Sums<Real>& s, Real z_max, Real t_max, Real scale) {
  const Real fz = fast_exp2((s.z_max - z_max) * scale), ft = fast_exp2((s.t_max - t_max) * scale);
  const Real shift = s.t_max - t_max, f1 = fast_exp2(shift * Constants<Real>::log2e);
  const Real drift = (s.t_max - t_max) - (s.z_max - z_max);
  s.cross = traits_of(D).student_first ? fz * (s.cross - weighted(s.z_sum, drift))
                                       : ft * (s.cross + weighted(s.t_sum, drift));
  s.extra += weighted(s.t_sum, s.z_max - z_max);
  s.z_sum *= fz;
  s.t_sum *= ft;
  s.unit_weighted = f1 * (s.unit_weighted + weighted(s.unit, shift));
  s.unit *= f1;
  s.z_max = z_max;
  s.t_max = t_max;
}

template <class Real, Divergence D>
__device__ __forceinline__ Sums<Real> warp_reduce(Sums<Real> s, Real scale) {
  rescale<Real, D>(s, warp_max(s.z_max), warp_max(s.t_max), scale);
  s.z_sum = warp_sum(s.z_sum);
  s.t_sum = warp_sum(s.t_sum);
  s.cross = warp_sum(s.cross);
  s.unit = warp_sum(s.unit);
  s.unit_weighted = warp_sum(s.unit_weighted);
  s.extra = warp_sum(s.extra);
  return s;
}

// One class of the student's own sweep, if it is one; s holds the maximum already.
template <class Real>
__device__ __forceinline__ void accumulate_student(Sums<Real>& s, Real z, bool held) {
  s.z_sum += fast_exp2((z - s.z_max) * Constants<Real>::log2e);
  s.extra += held ? z - s.z_max : Real(0);
  s.t_sum += held ? Real(1) : Real(0);
}

// The teacher at T = 1, which the weightings by entropy and by confidence look at.
template <class Real>
__device__ __forceinline__ void accumulate_unit(Sums<Real>& s, Real t) {
  const Real lead = t - s.t_max, e = fast_exp2(lead * Constants<Real>::log2e);
  s.unit += e;
  s.unit_weighted += weighted(e, lead);
}

// Entropy of a teacher at T = 1; 0 where every class is masked.
template <class Real>
__device__ __forceinline__ Real entropy(const Sums<Real>& s) {
  const Real entropy = s.unit == 0 ? Real(0) : log_of(s.unit) - s.unit_weighted / s.unit;
  return entropy < Real(kLeastEntropy) ? Real(0) : entropy;
}

// Cross-entropy of a teacher whose logit of the label is `logit`; finite, for a softmax over it.
template <class Real>
__device__ __forceinline__ Real bounded_cross_entropy(const Sums<Real>& s, Real logit) {
  const Real x = s.unit == 0 ? Real(1e30) : log_of(s.unit) + (s.t_max - logit);
  return x > Real(1e30) ? Real(1e30) : x;  // keeps NaN
}

}  // namespace edufast::cuda
