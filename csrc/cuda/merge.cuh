// merge_ on the GPU: a table that travels inside the kernel's parameters, and the work on its
// tiles. Compiled without fused multiply-adds: every backend gives the same bits. No torch header
// here, and nothing that only a GPU can compile: tests/ops/cuda_emulation runs it on a CPU.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "cuda/convert.cuh"
#include "merge.h"

namespace edufast::cuda {

constexpr int kMergeThreads = 256;
// Blocks of a processor at a time. With four, too few registers are left for all loads of a thread
// to be under way before the first is used.
constexpr int kMergeBlocks = 3;
constexpr int kMergeHeld = 16;   // elements that a thread loads at once: 32 bytes of a half type
constexpr int kMergeVector = 8;  // of them lie side by side: 16 bytes of a half type
constexpr int64_t kMergeChunk = kMergeThreads * kMergeHeld;
constexpr int64_t kMergeTile = 2 * kMergeChunk;

// --- the table ----------------------------------------------------------------------------------

// One MergeItem; Moments take two entries in a row, mean and variance, of which only the first has
// tiles.
struct MergeEntry {
  char* data;
  int64_t size;
  int32_t first_tile;
  Rule rule;
  DType type;
  bool copy, vectors;  // 16-byte accesses are aligned
};

union MergeSlot {
  const char* source;
  double fill;
};

struct MergeHeader {
  int32_t num_entries, num_tiles, num_sources;
  double keep;
  double weights[kMaxCudaSources], moment_weights[kMaxCudaSources];
};

// Kernel parameters hold 32764 bytes (CUDA 12.1, Volta); a short list does not pay for the copy.
// No device buffer, no asynchronous copy: a launch may be captured in a CUDA graph, with the
// pointers and weights of that moment.
template <int Bytes>
struct MergeTable {
  static constexpr int kBytes = (Bytes - int(sizeof(MergeHeader))) / 8 * 8;
  MergeHeader header;
  alignas(8) char bytes[kBytes];  // entries, then N slots for each, then N types for each
};
using SmallMergeTable = MergeTable<4096>;
using LargeMergeTable = MergeTable<32764>;
static_assert(sizeof(SmallMergeTable) <= 4096 && sizeof(LargeMergeTable) <= 32764);

struct MergeRows {
  const MergeHeader& header;
  const char* bytes;

  __host__ __device__ const MergeEntry& entry(int i) const {
    return reinterpret_cast<const MergeEntry*>(bytes)[i];
  }
  __host__ __device__ const MergeSlot& slot(int i, int n) const {
    const char* slots = bytes + header.num_entries * sizeof(MergeEntry);
    return reinterpret_cast<const MergeSlot*>(slots)[i * header.num_sources + n];
  }
  __host__ __device__ DType type(int i, int n) const {
    const char* types = bytes + header.num_entries *
                                    (sizeof(MergeEntry) + header.num_sources * sizeof(MergeSlot));
    return reinterpret_cast<const DType*>(types)[i * header.num_sources + n];
  }
};

// --- elements -----------------------------------------------------------------------------------

// Types are found out once for all that a thread holds, not for every element.
template <class T>
struct Type {
  using Real = T;
};

// Nothing is float64 where float32 is accumulated in.
template <class A, class Visit>
__device__ __forceinline__ void with_type(DType type, Visit visit) {
  switch (type) {
    case DType::F32: return visit(Type<float>{});
    case DType::BF16: return visit(Type<__nv_bfloat16>{});
    case DType::F16: return visit(Type<__half>{});
    default:
      if constexpr (std::is_same_v<A, double>) visit(Type<double>{});
  }
}

// Which elements of the chunk at `begin` a thread has, and how it gets at them: vectors of an
// aligned, whole chunk ...
struct Vectors {
  template <class T, int N>
  static __device__ __forceinline__ void load(const char* data, int64_t begin, int64_t, T (&x)[N]) {
    constexpr int kWords = kMergeVector * sizeof(T) / 16;
    uint4 raw[sizeof(x) / 16];
#pragma unroll
    for (int k = 0; k < int(sizeof(x) / 16); ++k) raw[k] = at(data, begin, sizeof(T), k, kWords);
    memcpy(x, raw, sizeof(x));
  }
  template <class T, int N>
  static __device__ __forceinline__ void store(const T (&x)[N], char* data, int64_t begin,
                                               int64_t) {
    constexpr int kWords = kMergeVector * sizeof(T) / 16;
    uint4 raw[sizeof(x) / 16];
    memcpy(raw, x, sizeof(x));
#pragma unroll
    for (int k = 0; k < int(sizeof(x) / 16); ++k) at(data, begin, sizeof(T), k, kWords) = raw[k];
  }

 private:
  // The k-th 16 bytes of a thread.
  template <class Bytes>
  static __device__ __forceinline__ auto& at(Bytes* data, int64_t begin, int bytes, int k,
                                             int words) {
    using Word = std::conditional_t<std::is_const_v<Bytes>, const uint4, uint4>;
    const int64_t element = begin + (k / words * kMergeThreads + threadIdx.x) * kMergeVector;
    return reinterpret_cast<Word*>(data + element * bytes)[k % words];
  }
};

// ... or single elements of any other, up to `end`.
struct Singles {
  template <class T, int N>
  static __device__ __forceinline__ void load(const char* data, int64_t begin, int64_t end,
                                              T (&x)[N]) {
    const T* first = reinterpret_cast<const T*>(data) + begin + threadIdx.x;
    const int left = static_cast<int>(end - begin) - static_cast<int>(threadIdx.x);
#pragma unroll
    for (int k = 0; k < N; ++k)
      x[k] = k * kMergeThreads < left ? first[k * kMergeThreads] : T(0.0f);
  }
  template <class T, int N>
  static __device__ __forceinline__ void store(const T (&x)[N], char* data, int64_t begin,
                                               int64_t end) {
    T* first = reinterpret_cast<T*>(data) + begin + threadIdx.x;
    const int left = static_cast<int>(end - begin) - static_cast<int>(threadIdx.x);
#pragma unroll
    for (int k = 0; k < N; ++k)
      if (k * kMergeThreads < left) first[k * kMergeThreads] = x[k];
  }
};

// --- the rules, on elements [begin, end) of entry e ---------------------------------------------

// keep * target + sum w * source, in this order.
template <class A, class Access, int N>
__device__ __forceinline__ void average_chunk(const MergeRows& rows, int e, int64_t begin,
                                              int64_t end) {
  const MergeHeader& h = rows.header;
  const MergeEntry& entry = rows.entry(e);
  A sum[N];
#pragma unroll
  for (int k = 0; k < N; ++k) sum[k] = A(-0.0);  // added to, it changes nothing, not even 0
  // A target that is not kept is not read: it may be uninitialised memory, NaN for instance.
#pragma unroll 1
  for (int n = h.keep != 0 ? -1 : 0; n < h.num_sources; ++n) {
    const char* data = n < 0 ? entry.data : rows.slot(e, n).source;
    const A weight = static_cast<A>(n < 0 ? h.keep : h.weights[n]);
    with_type<A>(n < 0 ? entry.type : rows.type(e, n), [&](auto type) {
      typename decltype(type)::Real x[N];
      Access::load(data, begin, end, x);
#pragma unroll
      for (int k = 0; k < N; ++k) sum[k] += weight * widened<A>(x[k]);
    });
  }
  with_type<A>(entry.type, [&](auto type) {
    using T = typename decltype(type)::Real;
    T x[N];
#pragma unroll
    for (int k = 0; k < N; ++k) x[k] = rounded<T>(sum[k]);
    Access::store(x, entry.data, begin, end);
  });
}

__device__ inline void average_tile(const MergeRows& rows, int e, int64_t begin, int64_t end) {
  const MergeEntry& entry = rows.entry(e);
  bool in_double = entry.type == DType::F64;
#pragma unroll 1
  for (int n = 0; n < rows.header.num_sources; ++n) in_double |= rows.type(e, n) == DType::F64;
  if (entry.vectors && !in_double) {
#pragma unroll 1
    for (; begin + kMergeChunk <= end; begin += kMergeChunk)
      average_chunk<float, Vectors, kMergeHeld>(rows, e, begin, end);
  }
  constexpr int kSingles = 8;  // as many as registers hold without spilling
#pragma unroll 1
  for (; begin < end; begin += kMergeThreads * kSingles) {
    if (in_double) average_chunk<double, Singles, kSingles>(rows, e, begin, end);
    else average_chunk<float, Singles, kSingles>(rows, e, begin, end);
  }
}

// Four loads of a thread are under way before the first store.
template <class T>
__device__ void copy_line(const char* source, char* target, int64_t begin, int64_t end) {
  constexpr int kLoads = 4;
  const T* from = reinterpret_cast<const T*>(source);
  T* to = reinterpret_cast<T*>(target);
#pragma unroll 1
  for (int64_t i = begin + threadIdx.x; i < end; i += kLoads * kMergeThreads) {
    T x[kLoads];
#pragma unroll
    for (int k = 0; k < kLoads; ++k)
      if (i + k * kMergeThreads < end) x[k] = from[i + k * kMergeThreads];
#pragma unroll
    for (int k = 0; k < kLoads; ++k)
      if (i + k * kMergeThreads < end) to[i + k * kMergeThreads] = x[k];
  }
}

// What is left of a tile whose whole vectors are copied: less than 16 bytes, or all of it.
template <class T>
__device__ void copy_rest(const char* source, const MergeEntry& entry, int64_t begin, int64_t end) {
  constexpr int64_t kVector = 16 / sizeof(T);
  copy_line<T>(source, entry.data, entry.vectors ? end / kVector * kVector : begin, end);
}

__device__ inline void copy_tile(const MergeRows& rows, int e, int64_t begin, int64_t end) {
  const MergeEntry& entry = rows.entry(e);
  const char* source = rows.slot(e, 0).source;
  const int bytes = static_cast<int>(bytes_of(entry.type));
  if (entry.vectors) copy_line<uint4>(source, entry.data, begin * bytes / 16, end * bytes / 16);
  switch (bytes) {
    case 8: return copy_rest<uint64_t>(source, entry, begin, end);
    case 4: return copy_rest<uint32_t>(source, entry, begin, end);
    case 2: return copy_rest<uint16_t>(source, entry, begin, end);
    default: return copy_rest<uint8_t>(source, entry, begin, end);
  }
}

template <class T>
__device__ void largest_line(const MergeRows& rows, int e, int64_t begin, int64_t end) {
#pragma unroll 1
  for (int64_t i = begin + threadIdx.x; i < end; i += kMergeThreads) {
    T best = reinterpret_cast<const T*>(rows.slot(e, 0).source)[i];
#pragma unroll 1
    for (int n = 1; n < rows.header.num_sources; ++n) {
      const T x = reinterpret_cast<const T*>(rows.slot(e, n).source)[i];
      best = x > best ? x : best;
    }
    reinterpret_cast<T*>(rows.entry(e).data)[i] = best;
  }
}

__device__ inline void largest_tile(const MergeRows& rows, int e, int64_t begin, int64_t end) {
  switch (rows.entry(e).type) {
    case DType::I64: return largest_line<int64_t>(rows, e, begin, end);
    case DType::I32: return largest_line<int32_t>(rows, e, begin, end);
    case DType::I16: return largest_line<int16_t>(rows, e, begin, end);
    case DType::I8: return largest_line<int8_t>(rows, e, begin, end);
    default: return largest_line<uint8_t>(rows, e, begin, end);
  }
}

template <class T>
__device__ void fill_line(char* data, T value, int64_t begin, int64_t end) {
#pragma unroll 1
  for (int64_t i = begin + threadIdx.x; i < end; i += kMergeThreads)
    reinterpret_cast<T*>(data)[i] = value;
}

__device__ inline void fill_tile(const MergeRows& rows, int e, int64_t begin, int64_t end) {
  const MergeEntry& entry = rows.entry(e);
  const double value = rows.slot(e, 0).fill;
  switch (entry.type) {
    case DType::I64: return fill_line(entry.data, static_cast<int64_t>(value), begin, end);
    case DType::I32: return fill_line(entry.data, static_cast<int32_t>(value), begin, end);
    case DType::I16: return fill_line(entry.data, static_cast<int16_t>(value), begin, end);
    case DType::I8: return fill_line(entry.data, static_cast<int8_t>(value), begin, end);
    case DType::U8: return fill_line(entry.data, static_cast<uint8_t>(value), begin, end);
    default:
      return with_type<double>(entry.type, [&](auto type) {
        fill_line(entry.data, rounded<typename decltype(type)::Real>(value), begin, end);
      });
  }
}

// One element: of statistics, a thread rarely has a second.
__device__ inline double load_element(const char* data, DType type, int64_t i) {
  double x = 0;
  with_type<double>(type, [&](auto t) {
    x = widened<double>(reinterpret_cast<const typename decltype(t)::Real*>(data)[i]);
  });
  return x;
}

__device__ inline void store_element(double x, char* data, DType type, int64_t i) {
  with_type<double>(type, [&](auto t) {
    using T = typename decltype(t)::Real;
    reinterpret_cast<T*>(data)[i] = rounded<T>(x);
  });
}

// E[x] = sum w_n m_n and Var[x] = sum w_n (v_n + (m_n - E[x])^2): no difference of large numbers.
__device__ inline void moments_tile(const MergeRows& rows, int e, int64_t begin, int64_t end) {
  const MergeHeader& h = rows.header;
  const MergeEntry &means = rows.entry(e), &variances = rows.entry(e + 1);
#pragma unroll 1
  for (int64_t i = begin + threadIdx.x; i < end; i += kMergeThreads) {
    const bool kept = h.keep != 0;
    const double old_mean = kept ? load_element(means.data, means.type, i) : 0;
    const double old_variance = kept ? load_element(variances.data, variances.type, i) : 0;
    double mean = kept ? h.keep * old_mean : 0, variance = 0;
#pragma unroll 1
    for (int n = 0; n < h.num_sources; ++n)
      mean += h.moment_weights[n] * load_element(rows.slot(e, n).source, rows.type(e, n), i);
    const auto add = [&](double m, double v, double weight) {
      const double away = m - mean;
      variance += weight * (away * away);
      variance += weight * v;
    };
    if (kept) add(old_mean, old_variance, h.keep);
#pragma unroll 1
    for (int n = 0; n < h.num_sources; ++n)
      add(load_element(rows.slot(e, n).source, rows.type(e, n), i),
          load_element(rows.slot(e + 1, n).source, rows.type(e + 1, n), i), h.moment_weights[n]);
    store_element(mean, means.data, means.type, i);
    store_element(variance, variances.data, variances.type, i);
  }
}

// --- the kernel ---------------------------------------------------------------------------------

// Tiles of all tensors make one range, which the blocks share evenly.
__device__ inline void merge_tiles(const MergeRows& rows) {
  for (int tile = blockIdx.x; tile < rows.header.num_tiles; tile += gridDim.x) {
    int e = 0, above = rows.header.num_entries;  // the last entry that begins at or before `tile`
    while (above - e > 1) {
      const int middle = (e + above) / 2;
      if (rows.entry(middle).first_tile <= tile) e = middle;
      else above = middle;
    }
    const MergeEntry& entry = rows.entry(e);
    const int64_t begin = (tile - entry.first_tile) * kMergeTile;
    const int64_t end = begin + kMergeTile < entry.size ? begin + kMergeTile : entry.size;
    if (entry.copy) copy_tile(rows, e, begin, end);
    else if (entry.rule == Rule::Average) average_tile(rows, e, begin, end);
    else if (entry.rule == Rule::Largest) largest_tile(rows, e, begin, end);
    else if (entry.rule == Rule::Moments) moments_tile(rows, e, begin, end);
    else fill_tile(rows, e, begin, end);
  }
}

}  // namespace edufast::cuda
