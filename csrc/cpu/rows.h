// Rows of logits and of gradients, read and written a block at a time, and loops over one block
// that all losses need.
#pragma once

#include "cpu/simd.h"
#include "logits.h"

namespace edufast::EDUFAST_ISA {
namespace {

template <class A> constexpr DType kDType = sizeof(A) == 4 ? DType::F32 : DType::F64;

// Columns [j, j + n) of a slice of one row: in place where the memory is what the loops read, else
// widened (and gathered) into `buffer`.
template <class A>
const A* read(const Logits& logits, int64_t row, int64_t start, const int64_t* columns, int64_t j,
              int64_t n, A* buffer) {
  const int64_t stride = logits.col_stride;
  if (!columns && stride == 1 && logits.dtype == kDType<A>)
    return static_cast<const A*>(logits.data) + row * logits.row_stride + start + j;
  with_dtype(logits.dtype, [&](auto* type) {
    const auto* x = static_cast<decltype(type)>(const_cast<void*>(logits.data)) +
                    row * logits.row_stride;
    if (columns) {
      for (int64_t i = 0; i < n; ++i) buffer[i] = A(widen(x[columns[j + i] * stride]));
    } else if (stride == 1) {
      for (int64_t i = 0; i < n; ++i) buffer[i] = A(widen(x[start + j + i]));
    } else {
      for (int64_t i = 0; i < n; ++i) buffer[i] = A(widen(x[(start + j + i) * stride]));
    }
  });
  return buffer;
}

template <class A> void write(const A* x, int64_t n, DType dtype, void* y, int64_t offset) {
  with_dtype(dtype, [&](auto* type) {
    auto* out = static_cast<decltype(type)>(y) + offset;
    for (int64_t i = 0; i < n; ++i) narrow(x[i], out + i);
  });
}

template <class A> A maximum(const A* x, int64_t n) {
  Vec<A> best = splat(-kInf<A>), more[3] = {best, best, best};
  int64_t i = 0;
  for (; i + 4 * kLanes<A> <= n; i += 4 * kLanes<A>) {  // four chains hide the latency
    const Vec<A> x0 = load(x + i, Whole{});
    best = x0 > best ? x0 : best;
    for (int j = 0; j < 3; ++j) {
      const Vec<A> xj = load(x + i + (j + 1) * kLanes<A>, Whole{});
      more[j] = xj > more[j] ? xj : more[j];
    }
  }
  for (int j = 0; j < 3; ++j) best = more[j] > best ? more[j] : best;
  for_vectors<A>(n - i, [&](int64_t j, auto lanes) {
    const Vec<A> xj = load(x + i + j, lanes, -kInf<A>);
    best = xj > best ? xj : best;
  });
  const A result = max_lanes<A>(best);
  // Comparisons skip NaN. One among finite numbers spoils the sums; one among -inf is found here.
  if (result == -kInf<A>)
    for (i = 0; i < n; ++i)
      if (x[i] != x[i]) return x[i];
  return result;
}

template <class A> A dot(const A* x, const A* y, int64_t n) {
  Vec<A> sum{};
  for_vectors<A>(n, [&](int64_t i, auto lanes) { sum += load(x + i, lanes) * load(y + i, lanes); });
  return sum_lanes<A>(sum);
}

}  // namespace
}  // namespace edufast::EDUFAST_ISA
