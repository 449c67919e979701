// What the kernels of DIST share: the plan, the memory between launches, and a warp's work on a row.
#pragma once

#include <algorithm>

#include "cuda/rows.cuh"
#include "dist_loss.h"

namespace edufast::cuda {

constexpr int kDistThreads = 256;
constexpr int kDistWarps = kDistThreads / kWarpSize;
constexpr int kDistStrip = kWarpSize * kVector;  // columns of one vector of every lane
constexpr int kDistHeld = 4;                     // vectors of a row that a lane holds, at most
constexpr int kDistMerged = kWarpSize;           // columns that a block merges
constexpr int kDistMergeThreads = 1024;          // of such a block, at most

// Blocks of a multiprocessor, by what a thread holds of a row. Without 16-byte accesses a lane has
// more loads in flight itself, and more addresses to keep.
constexpr int dist_resident(bool doubles, bool vectors, int held) {
  return doubles || (held > 1 && !vectors) ? 1 : 2;
}
template <class Real, bool Vectors, int N>
constexpr int kDistResident = dist_resident(sizeof(Real) == 8, Vectors, N);

struct DistPlan {
  bool doubles;        // something is in float64
  bool vectors;        // every row allows 16-byte accesses
  int held;            // vectors of a row that a lane holds: 1 or kDistHeld
  int pieces;          // of a row, one for each warp that holds some of it
  int chunks;          // of rows, over which the columns are summed
  int64_t chunk_rows;  // where rows have several pieces; else a chunk is what a block takes
  int merge_blocks;
};

EDUFAST_HOST_DEVICE constexpr DType dist_loss_dtype(const DistLoss& p) {
  return p.student.dtype == DType::F64 ? DType::F64 : DType::F32;
}

// A warp's row and piece: pieces are so large that there are less than 2^32.
struct DistShare {
  int64_t row;
  int piece;

  __device__ DistShare(int64_t warp, int pieces)
      : row(pieces == 1 ? warp : static_cast<unsigned>(warp) / static_cast<unsigned>(pieces)),
        piece(pieces == 1 ? 0 : static_cast<unsigned>(warp) % static_cast<unsigned>(pieces)) {}
};

inline DistPlan make_dist_plan(const DistLoss& p, int processors) {
  DistPlan plan = {};
  plan.doubles = p.student.dtype == DType::F64 || p.teacher.dtype == DType::F64;
  plan.vectors = !plan.doubles && allows_vectors(p.student, 0, p.classes) &&
                 allows_vectors(p.teacher, 0, p.classes);
  plan.held = p.classes <= kDistStrip || plan.doubles ? 1 : kDistHeld;
  const auto shares = [](int64_t all, int64_t part) { return (all + part - 1) / part; };
  plan.pieces = static_cast<int>(shares(p.classes, plan.held * kDistStrip));
  if (plan.pieces == 1) {
    const int resident = dist_resident(plan.doubles, plan.vectors, plan.held);
    plan.chunks = static_cast<int>(std::min<int64_t>(int64_t{processors} * resident,
                                                     shares(p.rows, kDistWarps)));
  } else {
    const int64_t wanted = std::max<int64_t>(1, processors * 2 * kDistWarps /
                                                    shares(p.classes, kDistStrip));  // in one wave
    plan.chunk_rows = std::max<int64_t>(shares(p.rows, wanted), 8);
    plan.chunks = static_cast<int>(shares(p.rows, plan.chunk_rows));
  }
  plan.merge_blocks = static_cast<int>(std::max(shares(p.classes, kDistMerged),
                                                std::min<int64_t>(128, shares(p.rows, 2048))));
  return plan;
}

// Of a piece of a row: the normalisers, and the centred moments of the piece's own softmaxes.
template <class Real>
struct DistPieceSums {
  Real p_most, p_sum, q_most, q_sum, pp, qq, pq, classes;
};

// Both softmaxes of a row, its correlation, and that one's derivative of_teacher q + of_student p.
template <class Real>
struct DistRowNumbers {
  Real p_shift, p_inverse, q_shift, q_inverse, of_teacher, of_student, correlation, unused;
};

template <class Real>
struct DistMemory {
  double* sums;                 // (merge_blocks): parts of the loss without T^2
  DistRowNumbers<Real>* rows;   // (B)
  DistPieceSums<Real>* pieces;  // (B, pieces)
  Real* totals;                 // (B, pieces): sums of p d loss / d p
  Real* counts;                 // (chunks): of rows
  Real* partials;               // (chunks, 5, C): mean p, mean q, centred sums of pp, qq, pq
  Real* columns;                // (3, C): d loss / d p is columns[0] p + columns[1] q - columns[2]
};

template <class Real>
int64_t carve_dist_memory(const DistLoss& p, const DistPlan& plan, char* memory,
                          DistMemory<Real>& m) {
  int64_t at = 0;
  const auto take = [&]<class T>(T*& part, int64_t count) {
    part = reinterpret_cast<T*>(memory + at);
    at += (count * int64_t{sizeof(T)} + 31) / 32 * 32;
  };
  const int64_t pieces = plan.pieces > 1 ? p.rows * plan.pieces : 0;
  take(m.sums, plan.merge_blocks);
  take(m.rows, p.rows);
  take(m.pieces, pieces);
  take(m.totals, pieces);
  take(m.counts, plan.chunks);
  take(m.partials, int64_t{plan.chunks} * 5 * p.classes);
  take(m.columns, int64_t{3} * p.classes);
  return at;
}

inline int64_t dist_memory_bytes(const DistLoss& p, const DistPlan& plan) {
  DistMemory<float> floats;
  DistMemory<double> doubles;
  return plan.doubles ? carve_dist_memory(p, plan, nullptr, doubles)
                      : carve_dist_memory(p, plan, nullptr, floats);
}

// Of a row or a column: the correlation, and its derivative's factors of the centred q and p.
template <class A>
struct DistCorrelation {
  A value = 0, of_teacher = 0, of_student = 0;

  __device__ DistCorrelation(A n, A p_mean, A q_mean, A pp, A qq, A pq, A scale) {
    const auto flat = [&](A mean, A squares) {
      return squares <= n * (A(kDistFlat) * mean) * (A(kDistFlat) * mean);
    };
    const bool broken = pp != pp || qq != qq;  // by NaN, which a flat side must not hide
    if (!broken && (flat(p_mean, pp) || flat(q_mean, qq))) return;
    const A p_norm = sqrt(pp), q_norm = sqrt(qq);
    const A inverse = 1 / (p_norm * q_norm + A(kDistEpsilon));
    value = pq * inverse;
    of_teacher = scale * inverse;
    of_student = -scale * value * inverse * (q_norm / p_norm);
  }
};

// A column over some rows: sums of differences to a value that it has there, so that nothing
// cancels.
template <class Real>
struct DistColumn {
  Real p = 0, q = 0, pp = 0, qq = 0, pq = 0;

  __device__ void add(Real dp, Real dq) {
    p += dp;
    q += dq;
    pp += dp * dp;
    qq += dq * dq;
    pq += dp * dq;
  }

  __device__ void store(Real* partials, int64_t classes, Real p_shift, Real q_shift,
                        int64_t n) const {
    const Real inverse = Real(1) / n;
    partials[0] = p_shift + p * inverse;
    partials[classes] = q_shift + q * inverse;
    partials[2 * classes] = pp - p * p * inverse;
    partials[3 * classes] = qq - q * q * inverse;
    partials[4 * classes] = pq - p * q * inverse;
  }
};

// What a kernel reads of the problem. A warp shares a row, or a piece of it.
template <class Real, bool Vectors>
struct Dist {
  using C = Constants<Real>;

  const DistLoss& p;
  const DistMemory<Real>& m;
  const int lane = threadIdx.x % kWarpSize;
  const Layout<Vectors> layout{lane, 8};
  const Real scale;  // of the exponents of two

  __device__ Dist(const DistLoss& problem, const DistMemory<Real>& memory)
      : p(problem), m(memory), scale(C::log2e / Real(temperature())) {}

  // NaN where a number in the device's memory is out of range.
  __device__ double temperature() const {
    const auto within = [](double x, double low) { return x >= low && x <= kMaxNumber; };
    if (!p.numbers) return p.temperature;
    const double* const n = p.numbers;
    return within(n[0], 1 / kMaxNumber) && within(n[1], 0) && within(n[2], 0) ? n[0] : C::nan();
  }
  __device__ double beta() const { return p.numbers ? p.numbers[1] : p.beta; }
  __device__ double gamma() const { return p.numbers ? p.numbers[2] : p.gamma; }

  __device__ int64_t warp() const {
    return int64_t(blockIdx.x) * kDistWarps + threadIdx.x / kWarpSize;
  }

  __device__ Row row_of(const Logits& x, int64_t row) const {
    char* data = static_cast<char*>(const_cast<void*>(x.data));
    return {data + row * x.row_stride * bytes_of(x.dtype),
            x.col_stride,
            x.dtype,
            0,
            p.classes,
            nullptr};
  }
  __device__ Row column_numbers(int which) const {
    constexpr DType dtype = sizeof(Real) == 8 ? DType::F64 : DType::F32;
    return {m.columns + int64_t(which) * p.classes, 1, dtype, 0, p.classes, nullptr};
  }

  __device__ int column(int v, int i) const { return layout.column(v) + i * layout.step(); }
  __device__ bool inside(int v, int i) const {
    return (Vectors ? layout.column(v) : column(v, i)) < p.classes;
  }

  static __device__ Real finite(Real most) { return is_masked(most) ? Real(0) : most; }
  static __device__ Real inverse_of(Real sum) { return sum == 0 ? Real(0) : 1 / sum; }

  // Scalar loads one vector after the other: all at once would need too many registers for addresses.
  template <int N>
  __device__ void load_all(const Row& row, int first, Real (&x)[N][kVector]) const {
    constexpr int kTogether = Vectors ? N : 1;
#pragma unroll
    for (int v = 0; v < N; v += kTogether)
      load(row, layout, first + v, reinterpret_cast<Real(&)[kTogether][kVector]>(x[v]));
  }

  // Logits to their softmax over the classes held; all zeros where none has a finite logit.
  template <int N>
  __device__ void soften(Real (&x)[N][kVector], Real& most, Real& sum) const {
    most = -C::infinity();
    for_each(x, [&](Real& logit) { most = larger(most, logit); });
    most = warp_max(most);
    const Real shift = finite(most);
    sum = 0;
    for_each(x, [&](Real& logit) {
      logit = fast_exp2((logit - shift) * scale);
      sum += logit;
    });
    sum = warp_sum(sum);
    const Real inverse = inverse_of(sum);
    for_each(x, [&](Real& e) { e *= inverse; });
  }

  template <int N, class F>
  static __device__ __forceinline__ void for_each(Real (&x)[N][kVector], F f) {
#pragma unroll
    for (int v = 0; v < N; ++v)
#pragma unroll
      for (int i = 0; i < kVector; ++i) f(x[v][i]);
  }

  // A warp's vectors in shared memory, read back by the lane that wrote them.
  template <int N>
  static __device__ Real* kept_by_warp() {
    return reinterpret_cast<Real*>(dynamic_shared()) + threadIdx.x / kWarpSize * N * kDistStrip;
  }

  template <int N>
  __device__ void keep(Real* to, const Real (&x)[N][kVector]) const {
#pragma unroll
    for (int v = 0; v < N; ++v) {
      Real* const at = to + layout.column(v);
      if constexpr (Vectors) {
        uint4 raw[sizeof(x[v]) / 16];
        memcpy(raw, x[v], sizeof(raw));
#pragma unroll
        for (int i = 0; i < int(sizeof(raw) / 16); ++i) reinterpret_cast<uint4*>(at)[i] = raw[i];
      } else {
#pragma unroll
        for (int i = 0; i < kVector; ++i) at[i * layout.step()] = x[v][i];
      }
    }
  }

  __device__ void fetch(const Real* from, int v, Real (&x)[kVector]) const {
    const Real* const at = from + layout.column(v);
    if constexpr (Vectors) {
      load_vector(at, x);
    } else {
#pragma unroll
      for (int i = 0; i < kVector; ++i) x[i] = at[i * layout.step()];
    }
  }

  // Vectors first to first + N - 1 of a row: the softmaxes of these classes alone, the student's in
  // shared memory, the teacher's in q. With both in registers there would be room for few warps.
  template <int N>
  __device__ DistPieceSums<Real> hold(int64_t row, int first, Real* kept,
                                      Real (&q)[N][kVector]) const {
    DistPieceSums<Real> s;
    load_all(row_of(p.student, row), first, q);
    soften(q, s.p_most, s.p_sum);
    keep(kept, q);
    load_all(row_of(p.teacher, row), first, q);
    soften(q, s.q_most, s.q_sum);
    s.classes = min(N * kDistStrip, p.classes - first * kDistStrip);
    const Real mean = 1 / s.classes;
    Real pp = 0, qq = 0, pq = 0;
#pragma unroll
    for (int v = 0; v < N; ++v) {
      Real p_of[kVector];
      fetch(kept, v, p_of);
#pragma unroll
      for (int i = 0; i < kVector; ++i) {
        if (!inside(first + v, i)) continue;
        const Real dp = p_of[i] - mean, dq = q[v][i] - mean;
        pp += dp * dp;
        qq += dq * dq;
        pq += dp * dq;
      }
    }
    s.pp = warp_sum(pp);
    s.qq = warp_sum(qq);
    s.pq = warp_sum(pq);
    return s;
  }

  __device__ void conclude_row(int64_t row, Real p_most, Real p_inverse, Real q_most,
                               Real q_inverse, Real pp, Real qq, Real pq) const {
    const Real n = p.classes, mean = 1 / n;
    if (p_inverse == 0 || q_inverse == 0) pp = 0;  // a row without classes has no correlation
    const DistCorrelation<Real> r(n, mean, mean, pp, qq, pq,
                                  -Real(temperature()) * Real(beta()) / Real(p.rows));
    if (lane == 0)
      m.rows[row] = {finite(p_most), p_inverse,    finite(q_most), q_inverse,
                     r.of_teacher,   r.of_student, r.value,        0};
  }

  __device__ Real probability(Real logit, Real shift, Real inverse) const {
    return fast_exp2((logit - shift) * scale) * inverse;
  }

  // Vectors first to first + N - 1 of a row: the student's probabilities p in shared memory, and
  // d loss / d p in x, 0 beyond the row. Returns the sum of p d loss / d p.
  template <int N>
  __device__ Real load_slopes(int64_t row, int first, Real* kept, Real (&x)[N][kVector]) const {
    const DistRowNumbers<Real> r = m.rows[row];
    load_all(row_of(p.student, row), first, x);
    for_each(x, [&](Real& z) { z = probability(z, r.p_shift, r.p_inverse); });
    keep(kept, x);
    load_all(row_of(p.teacher, row), first, x);
    const Real mean = Real(1) / p.classes;
    Real total = 0;
#pragma unroll
    for (int v = 0; v < N; ++v) {
      if (!Vectors) __syncwarp();  // nor are these loads to be in flight all at once
      Real p_of[kVector], of_student[1][kVector], of_teacher[1][kVector], offset[1][kVector];
      load(column_numbers(0), layout, first + v, of_student);
      load(column_numbers(1), layout, first + v, of_teacher);
      load(column_numbers(2), layout, first + v, offset);
      fetch(kept, v, p_of);
#pragma unroll
      for (int i = 0; i < kVector; ++i) {
        const Real q = probability(x[v][i], r.q_shift, r.q_inverse);
        // A row's derivatives are large where it hardly varies: deviations keep the digits.
        const Real of_row = (p_of[i] - mean) * r.of_student + (q - mean) * r.of_teacher;
        const Real slope = of_row +
                           (p_of[i] * of_student[0][i] + (q * of_teacher[0][i] - offset[0][i]));
        x[v][i] = inside(first + v, i) ? slope : Real(0);
        total += p_of[i] * x[v][i];
      }
    }
    return warp_sum(total);
  }
};

}  // namespace edufast::cuda
