// What the kernels of gradient_gram share: the plan, the memory between launches, and a warp's work
// on a row.
#pragma once

#include <algorithm>

#include "cuda/rows.cuh"
#include "min_norm.h"

namespace edufast::cuda {

constexpr int kGramThreads = 256;
constexpr int kGramWarps = kGramThreads / kWarpSize;
constexpr int kGramTile = 4;      // teachers whose gradients a lane holds
constexpr int kGramTogether = 4;  // vectors of a row that a lane loads together
constexpr int kGramStrip = kWarpSize * kVector;
constexpr int kGramPiece = kGramTogether * kGramStrip;  // classes of a piece of a longer row

struct GramPlan {
  bool doubles;  // something is in float64
  bool vectors;  // every row allows 16-byte accesses
  bool lists;    // some teacher lists its classes
  int pieces;    // of a row; 1: a warp takes a row as a whole
  int tiles;     // of kGramTile teachers
  int blocks;    // for each pair of tiles
  int pairs() const { return tiles * (tiles + 1) / 2; }
};

// Of a row and a teacher: T (p - q) is z_scale e(student, z_shift) - t_scale e(teacher, t_shift), where
// e(logit, shift) = 2^((logit - shift) exponent). Without a gradient both scales are 0.
template <class Real>
struct GramSoftmaxes {
  Real z_shift, z_scale, t_shift, t_scale, exponent;
};

// Of a piece of a row, or of a whole one.
template <class Real>
struct GramSums {
  Real most, sum;
};

template <class Real>
struct GramMemory {
  double* partials;                // (blocks, pairs, kGramTile, kGramTile)
  GramSums<Real>* pieces;          // (B, 2 K, pieces): student's and teacher's, for each teacher
  GramSoftmaxes<Real>* softmaxes;  // (B, K)
  int* positions;                  // (K, C + 1), see invert_list
};

template <class Real>
int64_t carve_gram_memory(const GradientGram& p, const GramPlan& plan, char* memory,
                          GramMemory<Real>& m) {
  int64_t at = 0;
  const auto take = [&]<class T>(T*& part, int64_t count) {
    part = reinterpret_cast<T*>(memory + at);
    at += (count * int64_t{sizeof(T)} + 31) / 32 * 32;
  };
  const int64_t split = plan.pieces > 1 ? p.rows * p.num_teachers : 0;
  take(m.partials, int64_t{plan.blocks} * plan.pairs() * kGramTile * kGramTile);
  take(m.pieces, 2 * split * plan.pieces);
  take(m.softmaxes, split);
  take(m.positions, plan.lists ? p.num_teachers * (int64_t{p.classes} + 1) : 0);
  return at;
}

inline int64_t gram_memory_bytes(const GradientGram& p, const GramPlan& plan) {
  GramMemory<float> floats;
  GramMemory<double> doubles;
  return plan.doubles ? carve_gram_memory(p, plan, nullptr, doubles)
                      : carve_gram_memory(p, plan, nullptr, floats);
}

inline GramPlan make_gram_plan(const GradientGram& p, int processors) {
  GramPlan plan = {};
  plan.doubles = p.student.dtype == DType::F64;
  plan.vectors = allows_vectors(p.student, 0, p.classes);
  for (int k = 0; k < p.num_teachers; ++k) {
    const Teacher& t = p.teachers[k];
    plan.doubles = plan.doubles || t.logits.dtype == DType::F64;
    plan.lists = plan.lists || t.columns;
    plan.vectors = plan.vectors && !t.columns &&
                   allows_vectors(t.logits, t.start, int64_t{t.start} + t.classes);
  }
  const auto shares = [](int64_t all, int64_t part) { return (all + part - 1) / part; };
  // A row that is read again at once comes from L1 or L2, if it is not too long.
  plan.pieces = p.classes <= 2 * kGramPiece ? 1 : static_cast<int>(shares(p.classes, kGramPiece));
  plan.tiles = static_cast<int>(shares(p.num_teachers, kGramTile));
  const int64_t resident = int64_t{processors} * (plan.vectors ? 2 : 1);
  plan.blocks = static_cast<int>(std::min(shares(resident, plan.pairs()),
                                          shares(p.rows * plan.pieces, kGramWarps)));
  return plan;
}

// What a kernel reads of the problem. A warp shares a row, or a piece of it.
template <class Real, bool Vectors>
struct GramProblem {
  using C = Constants<Real>;

  const GradientGram& p;
  const GramMemory<Real>& m;
  const int lane = threadIdx.x % kWarpSize;
  const Layout<Vectors> layout{lane, 8};

  __device__ GramProblem(const GradientGram& problem, const GramMemory<Real>& memory)
      : p(problem), m(memory) {}

  __device__ int64_t warp() const {
    return int64_t(blockIdx.x) * kGramWarps + threadIdx.x / kWarpSize;
  }

  // NaN where a number in the device's memory is out of range, or the teacher's list is flagged.
  __device__ Real temperature(int k) const {
    if (p.teachers[k].columns && positions(k)[p.classes]) return C::nan();
    if (!p.numbers) return p.teachers[k].temperature;
    const double t = p.numbers[k];
    return t >= 1 / kMaxNumber && t <= kMaxNumber ? Real(float(t)) : C::nan();
  }

  __device__ Real exponent(int k) const { return C::log2e / temperature(k); }

  __device__ const int* positions(int k) const {
    return m.positions + k * (int64_t(p.classes) + 1);
  }

  // Whether the student's softmax is the same for teacher k and for the one before it.
  __device__ bool as_before(int k) const {
    const Teacher &a = p.teachers[k], &b = p.teachers[k - 1];
    return a.start == b.start && a.classes == b.classes && a.columns == b.columns &&
           temperature(k) == temperature(k - 1);
  }

  static __device__ char* row_of(const Logits& x, int64_t row, int64_t column) {
    char* const data = static_cast<char*>(const_cast<void*>(x.data));
    return data + (row * x.row_stride + column * x.col_stride) * bytes_of(x.dtype);
  }

  __device__ Row teacher_row(int k, int64_t row) const {
    const Teacher& t = p.teachers[k];
    const Logits& x = t.logits;
    if (!Vectors && t.columns)
      return {row_of(x, row, 0), x.col_stride, x.dtype, 0, p.classes, positions(k)};
    return {row_of(x, row, 0), x.col_stride, x.dtype, t.start, t.start + t.classes, nullptr};
  }

  // The student's vectors v, v + 1, ... with classes that teacher k does not know masked.
  template <int N>
  __device__ void load_student(int k, int64_t row, int v, Real (&x)[N][kVector]) const {
    const Teacher& t = p.teachers[k];
    const Logits& z = p.student;
    const bool listed = !Vectors && t.columns;
    const int low = listed ? 0 : t.start, high = listed ? p.classes : t.start + t.classes;
    load(Row{row_of(z, row, low), z.col_stride, z.dtype, low, high, nullptr}, layout, v, x);
#pragma unroll
    for (int u = 0; u < N; ++u)
#pragma unroll
      for (int i = 0; i < kVector; ++i) {
        const int c = layout.column(v + u) + i * layout.step();
        if (listed && c < p.classes && positions(k)[c] < 0) x[u][i] = -C::infinity();
      }
  }

  static __device__ Real finite(Real most) { return is_masked(most) ? Real(0) : most; }

  // The largest logit and the sum of exponentials over vectors [begin, end); `load` fills some.
  template <class Load>
  __device__ GramSums<Real> sums(int begin, int end, Real exponent, const Load& load_some) const {
    constexpr int kTogether = Vectors ? kGramTogether : 2;
    GramSums<Real> s = {-C::infinity(), 0};
    for (int v = begin; v < end; v += kTogether) {
      Real x[kTogether][kVector], most = s.most;
      load_some(v, x);
#pragma unroll
      for (int u = 0; u < kTogether; ++u)
#pragma unroll
        for (int i = 0; i < kVector; ++i) {
          if (u > 0 && v + u >= end) x[u][i] = -C::infinity();  // of the next piece
          most = larger(most, x[u][i]);
        }
      const Real shift = finite(most);
      s.sum *= fast_exp2((s.most - shift) * exponent);
      s.most = most;
#pragma unroll
      for (int u = 0; u < kTogether; ++u)
#pragma unroll
        for (int i = 0; i < kVector; ++i) s.sum += fast_exp2((x[u][i] - shift) * exponent);
    }
    return merged(s, exponent);
  }

  // Over the lanes.
  __device__ GramSums<Real> merged(GramSums<Real> s, Real exponent) const {
    const Real most = warp_max(s.most);
    return {most, warp_sum(s.sum * fast_exp2((s.most - finite(most)) * exponent))};
  }

  __device__ GramSums<Real> student_sums(int k, int64_t row, int begin, int end) const {
    return sums(begin, end, exponent(k), [&](int v, auto& x) { load_student(k, row, v, x); });
  }

  __device__ GramSums<Real> teacher_sums(int k, int64_t row, int begin, int end) const {
    const Row teacher = teacher_row(k, row);
    return sums(begin, end, exponent(k), [&](int v, auto& x) { load(teacher, layout, v, x); });
  }

  __device__ GramSoftmaxes<Real> softmaxes(int k, GramSums<Real> z, GramSums<Real> t) const {
    const bool empty = z.sum == 0 || t.sum == 0;
    const Real scale = empty ? Real(0) : temperature(k);
    return {finite(z.most), empty ? Real(0) : scale / z.sum, finite(t.most),
            empty ? Real(0) : scale / t.sum, exponent(k)};
  }

  // Teacher k's gradient for vector v of a row, 0 for classes that it does not know. `e` keeps the
  // student's exponentials for the next teacher.
  __device__ void gradient(int k, bool as_before, const GramSoftmaxes<Real>& s, int64_t row, int v,
                           Real (&e)[1][kVector], Real (&g)[kVector]) const {
    if (!as_before) {
      load_student(k, row, v, e);
#pragma unroll
      for (int i = 0; i < kVector; ++i) e[0][i] = fast_exp2((e[0][i] - s.z_shift) * s.exponent);
    }
    Real f[1][kVector];
    load(teacher_row(k, row), layout, v, f);
    const bool none = s.z_scale == 0 && s.t_scale == 0;
#pragma unroll
    for (int i = 0; i < kVector; ++i) {
      const Real difference = e[0][i] * s.z_scale -
                              fast_exp2((f[0][i] - s.t_shift) * s.exponent) * s.t_scale;
      g[i] = none ? Real(0) : difference;
    }
  }
};

}  // namespace edufast::cuda
