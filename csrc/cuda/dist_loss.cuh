// DIST on the GPU. What a launch leaves for the next is a few numbers per row and per column.
//
// The columns' correlations need every row's softmax, and the gradient needs every column's
// correlation: two passes over the logits are the least. Where a warp can hold a row (up to 1,024
// classes) there are two, in three launches: dist_rows_kernel (softmaxes and moments of rows, and,
// through shared memory, moments of columns), dist_merge_columns_kernel, dist_gradient_kernel.
// Longer rows are taken in pieces by several warps, which meet between launches: four passes in six
// launches, the later ones in part from L2.
#pragma once

#include "cuda/dist_loss_problem.cuh"

namespace edufast::cuda {

// --- rows that a warp holds -----------------------------------------------------------------------

// A block takes as many rows as it has warps. Then each of its threads sums columns over them.
template <class Real, bool Vectors, int N>
__global__ void __launch_bounds__(kDistThreads, kDistResident<Real, Vectors, N>)
    dist_rows_kernel(const __grid_constant__ DistLoss p,
                     const __grid_constant__ DistMemory<Real> m) {
  constexpr int kWidth = N * kDistStrip, kColumns = kWidth / kDistThreads;
  const Dist<Real, Vectors> dist(p, m);
  Real* const tile = reinterpret_cast<Real*>(dynamic_shared());  // (rows, 2, kWidth)
  Real* const partials = m.partials + int64_t(blockIdx.x) * 5 * p.classes;
  const int warp = threadIdx.x / kWarpSize;
  DistColumn<Real> columns[kColumns];
  int count = 0;
  for (int64_t first = int64_t(blockIdx.x) * kDistWarps; first < p.rows;
       first += int64_t(gridDim.x) * kDistWarps) {
    const int rows = min(int64_t(kDistWarps), p.rows - first);
    if (warp < rows) {
      Real* const kept = tile + 2 * warp * kWidth;
      Real q[N][kVector];
      const auto s = dist.hold(first + warp, 0, kept, q);
      dist.keep(kept + kWidth, q);
      dist.conclude_row(first + warp, s.p_most, dist.inverse_of(s.p_sum), s.q_most,
                        dist.inverse_of(s.q_sum), s.pp, s.qq, s.pq);
    }
    __syncthreads();
#pragma unroll
    for (int k = 0; k < kColumns; ++k) {
      const int c = k * kDistThreads + threadIdx.x;
      if (c >= p.classes) continue;
      const Real* const from = tile + c;
      // Of the first tile; memory has room for them, a thread has not.
      Real* const shifts = partials + c;
      if (count == 0) {
        shifts[0] = from[0];
        shifts[p.classes] = from[kWidth];
      }
      const Real p_shift = shifts[0], q_shift = shifts[p.classes];
#pragma unroll 4
      for (int r = 0; r < rows; ++r)
        columns[k].add(from[2 * r * kWidth] - p_shift, from[(2 * r + 1) * kWidth] - q_shift);
    }
    count += rows;
    __syncthreads();
  }
  if (threadIdx.x == 0) m.counts[blockIdx.x] = count;
#pragma unroll
  for (int k = 0; k < kColumns; ++k) {
    const int c = k * kDistThreads + threadIdx.x;
    if (c >= p.classes) continue;
    Real* const out = partials + c;
    columns[k].store(out, p.classes, out[0], out[p.classes], count);
  }
}

// --- longer rows ----------------------------------------------------------------------------------

template <class Real, bool Vectors, int N>
__global__ void __launch_bounds__(kDistThreads, kDistResident<Real, Vectors, N>)
    dist_pieces_kernel(const __grid_constant__ DistLoss p,
                       const __grid_constant__ DistMemory<Real> m, int pieces) {
  const Dist<Real, Vectors> dist(p, m);
  const auto [row, piece] = DistShare(dist.warp(), pieces);
  if (row >= p.rows) return;
  Real q[N][kVector];
  const auto s = dist.hold(row, piece * N, dist.template kept_by_warp<N>(), q);
  if (dist.lane == 0) m.pieces[row * pieces + piece] = s;
}

// A warp adds up a row's pieces. The share a of a piece's n classes turns its moments about 1 / n
// into those about 1 / C.
template <class Real>
__global__ void __launch_bounds__(kDistThreads)
    dist_merge_rows_kernel(const __grid_constant__ DistLoss p,
                           const __grid_constant__ DistMemory<Real> m, int pieces) {
  const Dist<Real, false> dist(p, m);
  const int64_t row = dist.warp();
  if (row >= p.rows) return;
  const DistPieceSums<Real>* const part = m.pieces + row * pieces;
  Real p_most = -Constants<Real>::infinity(), q_most = p_most;
  for (int i = dist.lane; i < pieces; i += kWarpSize) {
    p_most = larger(p_most, part[i].p_most);
    q_most = larger(q_most, part[i].q_most);
  }
  p_most = warp_max(p_most);
  q_most = warp_max(q_most);
  const auto weight = [&](Real most, Real all, Real sum) {
    return fast_exp2((most - dist.finite(all)) * dist.scale) * sum;
  };
  Real p_sum = 0, q_sum = 0;
  for (int i = dist.lane; i < pieces; i += kWarpSize) {
    p_sum += weight(part[i].p_most, p_most, part[i].p_sum);
    q_sum += weight(part[i].q_most, q_most, part[i].q_sum);
  }
  const Real p_inverse = dist.inverse_of(warp_sum(p_sum));
  const Real q_inverse = dist.inverse_of(warp_sum(q_sum));
  const Real mean = Real(1) / p.classes;
  Real pp = 0, qq = 0, pq = 0;
  for (int i = dist.lane; i < pieces; i += kWarpSize) {
    const DistPieceSums<Real> s = part[i];
    const Real a = weight(s.p_most, p_most, s.p_sum) * p_inverse;
    const Real b = weight(s.q_most, q_most, s.q_sum) * q_inverse;
    const Real dp = a / s.classes - mean, dq = b / s.classes - mean;
    pp += a * a * s.pp + s.classes * dp * dp;
    qq += b * b * s.qq + s.classes * dq * dq;
    pq += a * b * s.pq + s.classes * dp * dq;
  }
  dist.conclude_row(row, p_most, p_inverse, q_most, q_inverse, warp_sum(pp), warp_sum(qq),
                    warp_sum(pq));
}

template <class F>
__device__ void with_stored(DType dtype, F f) {
  switch (dtype) {
    case DType::BF16: return f.template operator()<__nv_bfloat16>();
    case DType::F16: return f.template operator()<__half>();
    case DType::F32: return f.template operator()<float>();
    default: return f.template operator()<double>();
  }
}

// A warp sums a strip of columns over a chunk of rows.
template <class Real, bool Vectors>
__global__ void __launch_bounds__(kDistThreads, kDistResident<Real, Vectors, kDistHeld>)
    dist_columns_kernel(const __grid_constant__ DistLoss p,
                        const __grid_constant__ DistMemory<Real> m, int chunks,
                        int64_t chunk_rows) {
  const Dist<Real, Vectors> dist(p, m);
  const int strips = dist.layout.end(p.classes), strip = dist.warp() % strips;
  const int64_t chunk = dist.warp() / strips;
  if (chunk >= chunks) return;
  const int64_t begin = chunk * chunk_rows, end = min(begin + chunk_rows, p.rows);
  constexpr int kBatch = Vectors ? 2 : 1;  // of rows
  DistColumn<Real> columns[kVector];
  Real p_shift[kVector], q_shift[kVector];
  // With the types known, the loads of several rows are in flight together.
  const auto sum = [&]<class Student, class Teacher>() {
    for (int64_t first = begin; first < end; first += kBatch) {
      const bool whole = first + kBatch <= end;
      Real x[kBatch][1][kVector], y[kBatch][1][kVector];
#pragma unroll
      for (int u = 0; u < kBatch; ++u) {
        const int64_t row = whole ? first + u : first;
        load_as<Student>(dist.row_of(p.student, row), dist.layout, strip, x[u]);
        load_as<Teacher>(dist.row_of(p.teacher, row), dist.layout, strip, y[u]);
      }
#pragma unroll
      for (int u = 0; u < kBatch; ++u) {
        const DistRowNumbers<Real> n = m.rows[whole ? first + u : first];
#pragma unroll
        for (int i = 0; i < kVector; ++i) {
          x[u][0][i] = dist.probability(x[u][0][i], n.p_shift, n.p_inverse);
          y[u][0][i] = dist.probability(y[u][0][i], n.q_shift, n.q_inverse);
        }
      }
#pragma unroll
      for (int i = 0; i < kVector; ++i) {
        if (first == begin) {
          p_shift[i] = x[0][0][i];
          q_shift[i] = y[0][0][i];
        }
#pragma unroll
        for (int u = 0; u < kBatch; ++u)
          if (u == 0 || whole) columns[i].add(x[u][0][i] - p_shift[i], y[u][0][i] - q_shift[i]);
      }
    }
  };
  with_stored(p.student.dtype, [&]<class Student>() {
    with_stored(p.teacher.dtype, [&]<class Teacher>() {
      if constexpr (sizeof(Real) == 8 || (sizeof(Student) < 8 && sizeof(Teacher) < 8))
        sum.template operator()<Student, Teacher>();
    });
  });
  if (dist.lane == 0 && strip == 0) m.counts[chunk] = end - begin;
#pragma unroll
  for (int i = 0; i < kVector; ++i)
    if (dist.inside(strip, i))
      columns[i].store(m.partials + chunk * 5 * p.classes + dist.column(strip, i), p.classes,
                       p_shift[i], q_shift[i], end - begin);
}

template <class Real, bool Vectors, int N>
__global__ void __launch_bounds__(kDistThreads, kDistResident<Real, Vectors, N>)
    dist_totals_kernel(const __grid_constant__ DistLoss p,
                       const __grid_constant__ DistMemory<Real> m, int pieces) {
  const Dist<Real, Vectors> dist(p, m);
  const auto [row, piece] = DistShare(dist.warp(), pieces);
  if (row >= p.rows) return;
  Real x[N][kVector];
  const Real total = dist.load_slopes(row, piece * N, dist.template kept_by_warp<N>(), x);
  if (dist.lane == 0) m.totals[row * pieces + piece] = total;
}

// --- for all --------------------------------------------------------------------------------------

// A block merges the chunks of a few columns, in float64, each warp some of the chunks; and adds up
// a share of the rows' correlations.
template <class Real>
__global__ void __launch_bounds__(kDistMergeThreads)
    dist_merge_columns_kernel(const __grid_constant__ DistLoss p,
                              const __grid_constant__ DistMemory<Real> m, int chunks) {
  const Dist<Real, false> dist(p, m);
  const int warps = blockDim.x / kWarpSize, warp = threadIdx.x / kWarpSize;
  const int column = blockIdx.x * kDistMerged + dist.lane;
  const bool exists = column < p.classes;
  double* const shared = reinterpret_cast<double*>(dynamic_shared());  // (warps, kDistMerged)
  const auto all_warps = [&](double x) {
    shared[threadIdx.x] = x;
    __syncthreads();
    double total = 0;
    for (int w = 0; w < warps; ++w) total += shared[w * kDistMerged + dist.lane];
    __syncthreads();
    return total;
  };
  const auto partial = [&](int chunk, int which) -> double {
    return m.partials[(int64_t(chunk) * 5 + which) * p.classes + column];
  };
  double p_mean = 0, q_mean = 0, pp = 0, qq = 0, pq = 0;
#pragma unroll 4
  for (int k = warp; exists && k < chunks; k += warps) {
    p_mean += m.counts[k] * partial(k, 0);
    q_mean += m.counts[k] * partial(k, 1);
  }
  p_mean = all_warps(p_mean) / double(p.rows);
  q_mean = all_warps(q_mean) / double(p.rows);
#pragma unroll 4
  for (int k = warp; exists && k < chunks; k += warps) {
    const double n = m.counts[k], dp = partial(k, 0) - p_mean, dq = partial(k, 1) - q_mean;
    pp += partial(k, 2) + n * dp * dp;
    qq += partial(k, 3) + n * dq * dq;
    pq += partial(k, 4) + n * dp * dq;
  }
  pp = all_warps(pp);
  qq = all_warps(qq);
  pq = all_warps(pq);
  double sum = 0;
  if (exists && warp == 0) {
    const DistCorrelation<double> r(double(p.rows), p_mean, q_mean, pp, qq, pq,
                                    -dist.temperature() * dist.gamma() / p.classes);
    m.columns[column] = Real(r.of_student);
    m.columns[int64_t(p.classes) + column] = Real(r.of_teacher);
    m.columns[int64_t(2) * p.classes + column] = Real(r.of_student * p_mean +
                                                      r.of_teacher * q_mean);
    sum = dist.gamma() * (1 - r.value) / p.classes;
  }
  for (int64_t row = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; row < p.rows;
       row += int64_t(gridDim.x) * blockDim.x)
    sum += dist.beta() * (1 - double(m.rows[row].correlation)) / double(p.rows);
  sum = block_sum(sum, dynamic_shared());
  if (threadIdx.x == 0) m.sums[blockIdx.x] = sum;
}

template <class Real, bool Vectors>
__device__ void finish_loss(const Dist<Real, Vectors>& dist, int merge_blocks) {
  double sum = 0;
  for (int b = threadIdx.x; b < merge_blocks; b += blockDim.x) sum += dist.m.sums[b];
  const double loss = dist.temperature() * dist.temperature() * block_sum(sum, dynamic_shared());
  if (threadIdx.x != 0) return;
  if (dist_loss_dtype(dist.p) == DType::F64) *static_cast<double*>(dist.p.loss) = loss;
  else *static_cast<float*>(dist.p.loss) = static_cast<float>(loss);
}

// p (x - sum p x), where x = d loss / d p; a warp for a row or a piece of it. The first block also
// finishes the loss.
template <class Real, bool Vectors, int N>
__global__ void __launch_bounds__(kDistThreads, kDistResident<Real, Vectors, N>)
    dist_gradient_kernel(const __grid_constant__ DistLoss p,
                         const __grid_constant__ DistMemory<Real> m, int pieces, int merge_blocks) {
  const Dist<Real, Vectors> dist(p, m);
  if (blockIdx.x == 0) finish_loss(dist, merge_blocks);
  const auto [row, piece] = DistShare(dist.warp(), pieces);
  if (row >= p.rows) return;
  Real* const kept = dist.template kept_by_warp<N>();
  Real x[N][kVector];
  Real total = dist.load_slopes(row, piece * N, kept, x);
  if (pieces > 1) {
    total = 0;
    for (int k = dist.lane; k < pieces; k += kWarpSize) total += m.totals[row * pieces + k];
    total = warp_sum(total);
  }
  const Row grad = dist.row_of({p.grad, p.classes, 1, p.grad_dtype}, row);
#pragma unroll
  for (int v = 0; v < N; ++v) {
    Real p_of[kVector];
    dist.fetch(kept, v, p_of);
#pragma unroll
    for (int k = 0; k < kVector; ++k) x[v][k] = p_of[k] * (x[v][k] - total);
    store(grad, dist.layout, piece * N + v, x[v]);
  }
}

// --- launches -------------------------------------------------------------------------------------

struct DistLaunch {
  unsigned blocks, threads;
  int shared;  // bytes
};

// `start` is called with each kernel, its DistLaunch and its arguments.
template <class Real, bool Vectors, int N, class Start>
void launch_dist(const DistLoss& p, const DistPlan& plan, char* workspace, const Start& start) {
  DistMemory<Real> m;
  carve_dist_memory(p, plan, workspace, m);
  const auto by_warp = [](int64_t warps, int shared = 0) {
    const int64_t blocks = (warps + kDistWarps - 1) / kDistWarps;
    return DistLaunch{static_cast<unsigned>(blocks), kDistThreads, shared};
  };
  const int64_t pieces = p.rows * plan.pieces;
  constexpr int kHeldBytes = kDistWarps * N * kDistStrip * sizeof(Real);
  if (plan.pieces > 1) {
    const int64_t strips = (p.classes + kDistStrip - 1) / kDistStrip;
    start(dist_pieces_kernel<Real, Vectors, N>, by_warp(pieces, kHeldBytes), p, m, plan.pieces);
    start(dist_merge_rows_kernel<Real>, by_warp(p.rows), p, m, plan.pieces);
    start(dist_columns_kernel<Real, Vectors>, by_warp(strips * plan.chunks), p, m, plan.chunks,
          plan.chunk_rows);
  }
  if (plan.pieces == 1) {
    start(dist_rows_kernel<Real, Vectors, N>,
          DistLaunch{static_cast<unsigned>(plan.chunks), kDistThreads, 2 * kHeldBytes}, p, m);
  }
  const unsigned merging = std::clamp(plan.chunks / 4 * kWarpSize, 128, kDistMergeThreads);
  start(dist_merge_columns_kernel<Real>,
        DistLaunch{static_cast<unsigned>(plan.merge_blocks), merging,
                   static_cast<int>(merging * sizeof(double))},
        p, m, plan.chunks);
  if (plan.pieces > 1)
    start(dist_totals_kernel<Real, Vectors, N>, by_warp(pieces, kHeldBytes), p, m, plan.pieces);
  start(dist_gradient_kernel<Real, Vectors, N>, by_warp(pieces, kHeldBytes), p, m, plan.pieces,
        plan.merge_blocks);
}

template <class Start>
void launch_dist(const DistLoss& p, const DistPlan& plan, char* workspace, const Start& start) {
  if (plan.doubles) return launch_dist<double, false, 1>(p, plan, workspace, start);
  if (plan.held == 1 && plan.vectors) return launch_dist<float, true, 1>(p, plan, workspace, start);
  if (plan.held == 1) return launch_dist<float, false, 1>(p, plan, workspace, start);
  if (plan.vectors) return launch_dist<float, true, kDistHeld>(p, plan, workspace, start);
  launch_dist<float, false, kDistHeld>(p, plan, workspace, start);
}

}  // namespace edufast::cuda
