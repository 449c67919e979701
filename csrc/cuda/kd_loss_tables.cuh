// What the threads of a row share about it: sums, a line for each teacher, and the row's own.
#pragma once

#include "cuda/kd_loss_divergences.cuh"

namespace edufast::cuda {

// Everything per class is in log2 units relative to the row's maximum:
//   log2 p = (z - z_max) * scale - z_log_sum,  scale = log2(e) / T,  z_log_sum = log2(z_sum)
// so that one multiplication and ex2 make a probability; likewise q of the teacher's t.
template <class Real>
struct TeacherRow {
  Real scale, z_max, z_log_sum, t_max, t_log_sum;
  Real weight;
  Coefficients<Real> student, teacher;
  int cache;  // where the row is kept in shared memory, -1: nowhere

  __device__ __forceinline__ Real log_p(Real z) const { return (z - z_max) * scale - z_log_sum; }
  __device__ __forceinline__ Real log_q(Real t) const { return (t - t_max) * scale - t_log_sum; }
};

template <class Real>
struct Header {
  Real z_max, z_log_sum, own, uniform;  // cross-entropy: d/dz = own * p - uniform, plus ...
  Real label;                           // ... this at the label
  Real teachers_own;                    // staged program: the sum of the teachers' student.own
  Real loss;
  unsigned used;  // teachers that contribute, a bit each
};

// Shared memory of one group.
template <class Real>
struct Tables {
  Sums<Real>* total;    // (K + 1), of the whole group
  Sums<Real>* partial;  // (K + 1, warps), where more than one warp has the row
  Sums<Real>* block;    // (2, K + 1): of this block, in turn, for the other blocks of the cluster
  TeacherRow<Real>* teachers;
  Header<Real>* header;
  char* cache;

  static __device__ int bytes(int k, bool one_warp, int warps) {
    static_assert(sizeof(Sums<Real>) == sums_bytes(sizeof(Real)));
    static_assert(sizeof(TeacherRow<Real>) == teacher_row_bytes(sizeof(Real)));
    static_assert(sizeof(Header<Real>) == header_bytes(sizeof(Real)));
    return table_bytes(sizeof(Real), k, one_warp, warps);
  }
  static __device__ Tables carve(char* memory, int k, bool one_warp, int warps) {
    Tables t;
    t.total = reinterpret_cast<Sums<Real>*>(memory);
    t.partial = t.total + k + 1;
    t.block = t.partial + (one_warp ? 0 : (k + 1) * warps);
    t.teachers = reinterpret_cast<TeacherRow<Real>*>(t.block + (one_warp ? 0 : 2 * (k + 1)));
    t.header = reinterpret_cast<Header<Real>*>(t.teachers + k);
    t.cache = memory + bytes(k, one_warp, warps);
    return t;
  }
};

}  // namespace edufast::cuda
