// Rows of logits and of gradients, read and written eight columns per thread at a time.
#pragma once

#include "cuda/convert.cuh"
#include "cuda/primitives.cuh"
#include "logits.h"

namespace edufast::cuda {

// Which columns belong to which thread of a group: vectors v = 0, 1, ... of eight. With 16-byte
// accesses a thread's eight are neighbours, and lie inside or outside a slice together. Without,
// they are a group apart, so that scalar accesses coalesce; slices may then begin anywhere.
template <bool Vectors>
struct Layout {
  int rank;       // of the thread in its group
  int log2_span;  // columns the group handles together: 8 * threads, a power of two

  __device__ int threads() const { return 1 << (log2_span - 3); }
  __device__ int step() const { return Vectors ? 1 : threads(); }
  __device__ int column(int v) const { return (v << log2_span) + rank * (Vectors ? kVector : 1); }
  __device__ int last_column(int v) const { return column(v) + (kVector - 1) * step(); }
  __device__ int begin(int low) const { return low >> log2_span; }
  __device__ int end(int high) const { return ((high - 1) >> log2_span) + 1; }
};

// One row, addressed by class. A teacher that lists its classes is reached through the inverse of
// its list.
struct Row {
  void* data;
  int64_t stride;  // in elements
  DType dtype;
  int low, high;         // the classes it may hold
  const int* positions;  // column of each class, -1 where absent; null: column = class - low

  // Column of class c, -1 where the row does not hold it.
  __device__ int column(int c) const {
    if (c < low || c >= high) return -1;
    return positions ? positions[c] : c - low;
  }
  __device__ bool holds(int c) const { return column(c) >= 0; }
};

// A block turns a teacher's list of classes into positions: of each class its column, -1 where there
// is none, and at last a flag, which is raised when a class is out of range or named twice.
__device__ inline void invert_list(const Teacher& t, int classes, int* positions) {
  for (int c = threadIdx.x; c <= classes; c += blockDim.x) positions[c] = c < classes ? -1 : 0;
  __syncthreads();
  for (int j = threadIdx.x; j < t.classes; j += blockDim.x)
    if (t.columns[j] >= 0 && t.columns[j] < classes) positions[t.columns[j]] = j;
  __syncthreads();
  for (int j = threadIdx.x; j < t.classes; j += blockDim.x)
    if (t.columns[j] < 0 || t.columns[j] >= classes || positions[t.columns[j]] != j)
      positions[classes] = 1;
}

__device__ __forceinline__ float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ __forceinline__ float to_float(__half x) { return __half2float(x); }
__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ double to_float(double x) { return x; }

// Hides from the compiler that an index advances with a loop. It would otherwise keep a 64-bit
// pointer per column and storage type alive across iterations, and spill them.
__device__ __forceinline__ int opaque(int index) {
#ifdef __CUDA_ARCH__
  asm volatile("" : "+r"(index));
#endif
  return index;
}

template <class Stored>
__device__ __forceinline__ void load_vector(const Stored* from, Stored (&to)[kVector]) {
  static_assert(sizeof(Stored) * kVector % 16 == 0);
  uint4 raw[sizeof(Stored) * kVector / 16];
#pragma unroll
  for (int i = 0; i < int(sizeof(raw) / 16); ++i) raw[i] = reinterpret_cast<const uint4*>(from)[i];
  memcpy(to, raw, sizeof(raw));
}

// Every load is executed, of the row's first columns where there is nothing to load: a register
// that is written under a condition only stays occupied through all loops around it.
template <class Stored, bool Vectors, class Real, int N>
__device__ __forceinline__ void load_as(const Row& row, const Layout<Vectors>& layout, int v,
                                        Real (&x)[N][kVector]) {
  const auto* data = static_cast<const Stored*>(row.data);
  Stored stored[N][kVector];
  bool held[N][kVector];
#pragma unroll
  for (int u = 0; u < N; ++u) {
    const int first = opaque(layout.column(v + u));
    if constexpr (Vectors) {
      const bool inside = first >= row.low && first < row.high;
      load_vector(data + (inside ? first - row.low : 0), stored[u]);
#pragma unroll
      for (int i = 0; i < kVector; ++i) held[u][i] = inside;
    } else {
#pragma unroll
      for (int i = 0; i < kVector; ++i) {
        const int at = row.column(first + i * layout.step());
        held[u][i] = at >= 0;
        stored[u][i] = data[(at >= 0 ? at : 0) * row.stride];
      }
    }
  }
#pragma unroll
  for (int u = 0; u < N; ++u)
#pragma unroll
    for (int i = 0; i < kVector; ++i)
      x[u][i] = held[u][i] ? Real(to_float(stored[u][i])) : -Constants<Real>::infinity();
}

// Vectors v to v + N - 1, all in flight at once; classes that the row does not hold are masked.
template <bool Vectors, class Real, int N>
__device__ __forceinline__ void load(const Row& row, const Layout<Vectors>& layout, int v,
                                     Real (&x)[N][kVector]) {
  if constexpr (std::is_same_v<Real, double>)  // anything in float64 makes the program double
    if (row.dtype == DType::F64) return load_as<double>(row, layout, v, x);
  switch (row.dtype) {
    case DType::BF16: return load_as<__nv_bfloat16>(row, layout, v, x);
    case DType::F16: return load_as<__half>(row, layout, v, x);
    default: return load_as<float>(row, layout, v, x);
  }
}

template <class Real>
__device__ __forceinline__ Real logit_at(const Row& row, int c) {
  const int64_t at = row.column(c) * row.stride;
  switch (row.dtype) {
    case DType::F32: return static_cast<const float*>(row.data)[at];
    case DType::BF16: return to_float(static_cast<const __nv_bfloat16*>(row.data)[at]);
    case DType::F16: return to_float(static_cast<const __half*>(row.data)[at]);
    default: return static_cast<const double*>(row.data)[at];
  }
}

template <class Stored, bool Vectors, class Real>
__device__ __forceinline__ void store_as(const Row& row, const Layout<Vectors>& layout, int v,
                                         const Real (&x)[kVector]) {
  auto* data = static_cast<Stored*>(row.data);
  const int first = opaque(layout.column(v));
  if constexpr (Vectors) {
    if (first < row.low || first >= row.high) return;
    Stored stored[kVector];
#pragma unroll
    for (int i = 0; i < kVector; ++i) stored[i] = rounded<Stored>(x[i]);
    uint4 raw[sizeof(stored) / 16];
    memcpy(raw, stored, sizeof(raw));
#pragma unroll
    for (int i = 0; i < int(sizeof(raw) / 16); ++i)
      reinterpret_cast<uint4*>(data + first - row.low)[i] = raw[i];
  } else {
#pragma unroll
    for (int i = 0; i < kVector; ++i) {
      const int at = row.column(first + i * layout.step());
      if (at >= 0) data[at] = rounded<Stored>(x[i]);
    }
  }
}

// One vector of a contiguous row of gradients, which are float32, bfloat16 or float64.
template <bool Vectors, class Real>
__device__ __forceinline__ void store(const Row& row, const Layout<Vectors>& layout, int v,
                                      const Real (&x)[kVector]) {
  if constexpr (std::is_same_v<Real, double>)
    if (row.dtype == DType::F64) return store_as<double>(row, layout, v, x);
  if (row.dtype == DType::BF16) return store_as<__nv_bfloat16>(row, layout, v, x);
  store_as<float>(row, layout, v, x);
}

// Shared memory that keeps rows between the passes over them: every thread reads back what it
// wrote itself, so no barrier is needed. A row's slot is a byte offset, -1 where it did not fit.
template <class Real, bool Vectors>
struct RowCache {
  static constexpr int kChunks = sizeof(Real) * kVector / 16;  // 16-byte accesses

  char* memory;
  int threads, thread;
  Layout<Vectors> layout;

  __device__ int bytes_for(int low, int high) const {
    constexpr int64_t kNever = 1 << 25;  // too large for any, and 33 of them still fit in an int
    return min(int64_t(layout.end(high) - layout.begin(low)) * threads * kChunks * 16, kNever);
  }

  __device__ uint4* place(const Row& row, int slot, int v) const {
    return reinterpret_cast<uint4*>(memory + slot) +
           (v - layout.begin(row.low)) * kChunks * threads + thread;
  }

  __device__ void keep(const Row& row, int slot, int v, const Real (&x)[kVector]) const {
    if (slot < 0) return;
    uint4 raw[kChunks];
    memcpy(raw, x, sizeof(raw));
#pragma unroll
    for (int i = 0; i < kChunks; ++i) place(row, slot, v)[i * threads] = raw[i];
  }

  // From the slot, or once more from memory (L2, if the row is not too long).
  __device__ void fetch(const Row& row, int slot, int v, Real (&x)[kVector]) const {
    if (slot < 0) {
      Real loaded[1][kVector];
      load(row, layout, v, loaded);
      memcpy(x, loaded, sizeof(x));
      return;
    }
    uint4 raw[kChunks];
#pragma unroll
    for (int i = 0; i < kChunks; ++i) raw[i] = place(row, slot, v)[i * threads];
    memcpy(x, raw, sizeof(raw));
  }
};

}  // namespace edufast::cuda
