// AEKD's weights on the GPU: the Gram matrix of the teachers' gradients, and its quadratic program.
//
// The gradients need the softmaxes of their rows, so every row is read for these and then for the
// products. A warp takes a row of up to 2,048 classes as a whole: the second time it comes from the
// caches, and the matrix is one pass over memory, in two launches (gram_kernel, gram_sum_kernel).
// Longer rows are taken in pieces by several warps: two passes in four launches.
#pragma once

#include "cuda/min_norm_problem.cuh"

namespace edufast::cuda {

// --- softmaxes of rows in pieces ------------------------------------------------------------------

// A warp for each piece of a row of the student, as each teacher sees it, and of the teachers.
template <class Real, bool Vectors>
__global__ void __launch_bounds__(kGramThreads, Vectors ? 2 : 1)
    gram_pieces_kernel(const __grid_constant__ GradientGram p,
                       const __grid_constant__ GramMemory<Real> m, int pieces) {
  const GramProblem<Real, Vectors> g(p, m);
  const int piece = g.warp() % pieces;
  const int64_t source = g.warp() / pieces, row = source / (2 * p.num_teachers);
  const int k = source / 2 % p.num_teachers;
  if (row >= p.rows) return;
  const int begin = piece * kGramTogether;
  const int end = min(begin + kGramTogether, g.layout.end(p.classes));
  const bool of_teacher = source % 2;
  if (!of_teacher && k > 0 && g.as_before(k)) return;
  const GramSums<Real> s = of_teacher ? g.teacher_sums(k, row, begin, end)
                                      : g.student_sums(k, row, begin, end);
  if (g.lane == 0) m.pieces[g.warp()] = s;
}

template <class Real>
__global__ void __launch_bounds__(kGramThreads)
    gram_merge_kernel(const __grid_constant__ GradientGram p,
                      const __grid_constant__ GramMemory<Real> m, int pieces) {
  const GramProblem<Real, false> g(p, m);
  const int64_t row = g.warp() / p.num_teachers;
  const int k = g.warp() % p.num_teachers;
  if (row >= p.rows) return;
  const Real exponent = g.exponent(k);
  const auto merged = [&](int teacher, int side) {
    const GramSums<Real>* const part = m.pieces +
                                       ((row * p.num_teachers + teacher) * 2 + side) * pieces;
    GramSums<Real> all = {-Constants<Real>::infinity(), 0};
    for (int i = g.lane; i < pieces; i += kWarpSize) all.most = larger(all.most, part[i].most);
    all.most = warp_max(all.most);
    for (int i = g.lane; i < pieces; i += kWarpSize)
      all.sum += part[i].sum * fast_exp2((part[i].most - g.finite(all.most)) * exponent);
    all.sum = warp_sum(all.sum);
    return all;
  };
  int first = k;
  while (first > 0 && g.as_before(first)) --first;
  const auto s = g.softmaxes(k, merged(first, 0), merged(k, 1));
  if (g.lane == 0) m.softmaxes[row * p.num_teachers + k] = s;
}

// --- products -------------------------------------------------------------------------------------

// Teachers of two tiles, the first not after the second; pairs are numbered 00, 01, 11, 02, ...
struct GramPair {
  int i = 0, j = 0;

  __device__ explicit GramPair(int number) {
    for (; number > j; number -= ++j) {}
    i = number;
  }
};

constexpr int kGramProducts = kGramTile * kGramTile;
template <class Real>
constexpr int kGramShared = kGramWarps * (kMaxTeachers * int{sizeof(GramSoftmaxes<Real>)} +
                                          kGramProducts * int{sizeof(double)});

// Blocks of a pair of tiles share the rows, or the pieces of rows.
template <class Real, bool Vectors>
__global__ void __launch_bounds__(kGramThreads, Vectors ? 2 : 1)
    gram_kernel(const __grid_constant__ GradientGram p, const __grid_constant__ GramMemory<Real> m,
                int pieces, int pairs) {
  const GramProblem<Real, Vectors> problem(p, m);
  const int warp = threadIdx.x / kWarpSize, lane = problem.lane;
  double* const totals = reinterpret_cast<double*>(dynamic_shared());
  auto* const softmaxes = reinterpret_cast<GramSoftmaxes<Real>*>(totals +
                                                                 kGramWarps * kGramProducts) +
                          warp * kMaxTeachers;
  const GramPair tiles(blockIdx.x % pairs);
  const int first_i = tiles.i * kGramTile, first_j = tiles.j * kGramTile;
  unsigned as_before = 0;
  for (int k = 1; k < p.num_teachers; ++k)
    as_before |= unsigned(k % kGramTile > 0 && problem.as_before(k)) << k;
  const int all = problem.layout.end(p.classes);

  const auto settle = [&](int64_t row, int first) {  // the softmaxes of a tile's teachers
    GramSums<Real> z = {};
    for (int k = first; k < min(first + kGramTile, p.num_teachers); ++k) {
      GramSoftmaxes<Real> s;
      if (pieces > 1) {
        s = m.softmaxes[row * p.num_teachers + k];
      } else {
        if (!(as_before >> k & 1)) z = problem.student_sums(k, row, 0, all);
        s = problem.softmaxes(k, z, problem.teacher_sums(k, row, 0, all));
      }
      if (lane == 0) softmaxes[k] = s;
    }
  };

  double total[kGramTile][kGramTile] = {};
  const int64_t step = int64_t(gridDim.x / pairs) * kGramWarps;
  for (int64_t item = int64_t(blockIdx.x / pairs) * kGramWarps + warp; item < p.rows * pieces;
       item += step) {
    const int64_t row = item / pieces;
    const int begin = pieces == 1 ? 0 : int(item % pieces) * kGramTogether;
    const int end = pieces == 1 ? all : min(begin + kGramTogether, all);
    settle(row, first_i);
    if (tiles.i != tiles.j) settle(row, first_j);
    __syncwarp();
    Real products[kGramTile][kGramTile] = {};
    for (int v = begin; v < end; ++v) {
      Real e[1][kVector], g[kGramTile][kVector];
      const auto gradient = [&](int k, Real(&to)[kVector]) {
        if (k < p.num_teachers)
          return problem.gradient(k, as_before >> k & 1, softmaxes[k], row, v, e, to);
#pragma unroll
        for (int c = 0; c < kVector; ++c) to[c] = 0;
      };
#pragma unroll
      for (int i = 0; i < kGramTile; ++i) gradient(first_i + i, g[i]);
#pragma unroll
      for (int j = 0; j < kGramTile; ++j) {
        Real h[kVector];
        if (tiles.i == tiles.j) {
#pragma unroll
          for (int c = 0; c < kVector; ++c) h[c] = g[j][c];
        } else {
          gradient(first_j + j, h);
        }
#pragma unroll
        for (int i = 0; i < kGramTile; ++i)
#pragma unroll
          for (int c = 0; c < kVector; ++c) products[i][j] += g[i][c] * h[c];
      }
    }
    __syncwarp();  // before the next row's softmaxes
#pragma unroll
    for (int i = 0; i < kGramTile; ++i)
#pragma unroll
      for (int j = 0; j < kGramTile; ++j) total[i][j] += products[i][j];
  }

#pragma unroll
  for (int i = 0; i < kGramTile; ++i)
#pragma unroll
    for (int j = 0; j < kGramTile; ++j) {
      const double sum = warp_sum(total[i][j]);
      if (lane == 0) totals[warp * kGramProducts + i * kGramTile + j] = sum;
    }
  __syncthreads();
  if (threadIdx.x >= kGramProducts) return;
  double sum = 0;
  for (int w = 0; w < kGramWarps; ++w) sum += totals[w * kGramProducts + threadIdx.x];
  m.partials[int64_t(blockIdx.x) * kGramProducts + threadIdx.x] = sum;
}

// A warp for each pair of teachers.
template <class Real>
__global__ void __launch_bounds__(kGramThreads)
    gram_sum_kernel(const __grid_constant__ GradientGram p,
                    const __grid_constant__ GramMemory<Real> m, int blocks, int pairs) {
  const GramProblem<Real, false> g(p, m);
  const GramPair teachers(g.warp());
  if (teachers.j >= p.num_teachers) return;
  const int a = teachers.i / kGramTile, b = teachers.j / kGramTile, pair = b * (b + 1) / 2 + a;
  const int at = teachers.i % kGramTile * kGramTile + teachers.j % kGramTile;
  double sum = 0;
  for (int block = g.lane; block < blocks; block += kWarpSize)
    sum += m.partials[(int64_t(block) * pairs + pair) * kGramProducts + at];
  sum = warp_sum(sum);
  if (g.lane != 0) return;
  p.gram[teachers.i * p.num_teachers + teachers.j] = sum;
  p.gram[teachers.j * p.num_teachers + teachers.i] = sum;
}

__global__ void __launch_bounds__(kGramThreads)
    gram_lists_kernel(const __grid_constant__ GradientGram p, int* positions) {
  const Teacher& t = p.teachers[blockIdx.x];
  if (t.columns) invert_list(t, p.classes, positions + blockIdx.x * (int64_t(p.classes) + 1));
}

// --- launches -------------------------------------------------------------------------------------

struct GramLaunch {
  unsigned blocks;
  int shared;  // bytes
};

// `start` is called with each kernel, its GramLaunch and its arguments.
template <class Real, bool Vectors, class Start>
void launch_gram(const GradientGram& p, const GramPlan& plan, char* workspace, const Start& start) {
  GramMemory<Real> m;
  carve_gram_memory(p, plan, workspace, m);
  const auto by_warp = [](int64_t warps) {
    return GramLaunch{static_cast<unsigned>((warps + kGramWarps - 1) / kGramWarps), 0};
  };
  const int64_t teachers = p.num_teachers;
  if (plan.lists)
    start(gram_lists_kernel, GramLaunch{static_cast<unsigned>(teachers), 0}, p, m.positions);
  if (plan.pieces > 1) {
    start(gram_pieces_kernel<Real, Vectors>, by_warp(p.rows * 2 * teachers * plan.pieces), p, m,
          plan.pieces);
    start(gram_merge_kernel<Real>, by_warp(p.rows * teachers), p, m, plan.pieces);
  }
  start(gram_kernel<Real, Vectors>,
        GramLaunch{static_cast<unsigned>(plan.blocks * plan.pairs()), kGramShared<Real>}, p, m,
        plan.pieces, plan.pairs());
  start(gram_sum_kernel<Real>, by_warp(teachers * (teachers + 1) / 2), p, m, plan.blocks,
        plan.pairs());
}

template <class Start>
void launch_gram(const GradientGram& p, const GramPlan& plan, char* workspace, const Start& start) {
  if (plan.doubles) return launch_gram<double, false>(p, plan, workspace, start);
  if (plan.vectors) return launch_gram<float, true>(p, plan, workspace, start);
  launch_gram<float, false>(p, plan, workspace, start);
}

}  // namespace edufast::cuda
