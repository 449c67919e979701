// merge_ on the GPU: a table that travels inside the kernel's parameters, and the work on its
// tiles. Compiled without fused multiply-adds: every backend gives the same bits. No torch header
// here, and nothing that only a GPU can compile: tests/ops/cuda_emulation runs it on a CPU.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <cstring>

#include "merge.h"

namespace edufast::cuda {

constexpr int kMergeThreads = 256;
constexpr int kMergeVector = 8;  // elements of a thread: 16 bytes of a half type
constexpr int64_t kMergeTile = 4 * kMergeThreads * kMergeVector;

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

template <class A>
__device__ __forceinline__ A load_element(const char* data, DType type, int64_t i) {
  switch (type) {
    case DType::F32: return reinterpret_cast<const float*>(data)[i];
    case DType::BF16: return __bfloat162float(reinterpret_cast<const __nv_bfloat16*>(data)[i]);
    case DType::F16: return __half2float(reinterpret_cast<const __half*>(data)[i]);
    default: return static_cast<A>(reinterpret_cast<const double*>(data)[i]);
  }
}

template <class A>
__device__ __forceinline__ void store_element(A x, char* data, DType type, int64_t i) {
  switch (type) {
    case DType::F32: reinterpret_cast<float*>(data)[i] = static_cast<float>(x); break;
    case DType::BF16:
      reinterpret_cast<__nv_bfloat16*>(data)[i] = __float2bfloat16_rn(static_cast<float>(x));
      break;
    case DType::F16:
      reinterpret_cast<__half*>(data)[i] = __float2half_rn(static_cast<float>(x));
      break;
    default: reinterpret_cast<double*>(data)[i] = x;
  }
}

template <class T>
__device__ __forceinline__ void load_raw(const char* data, int64_t i, T (&x)[kMergeVector]) {
  uint4 raw[sizeof(x) / 16];
#pragma unroll
  for (int k = 0; k < int(sizeof(x) / 16); ++k)
    raw[k] = reinterpret_cast<const uint4*>(data + i * sizeof(T))[k];
  memcpy(x, raw, sizeof(x));
}

template <class T>
__device__ __forceinline__ void store_raw(const T (&x)[kMergeVector], char* data, int64_t i) {
  uint4 raw[sizeof(x) / 16];
  memcpy(raw, x, sizeof(x));
#pragma unroll
  for (int k = 0; k < int(sizeof(x) / 16); ++k)
    reinterpret_cast<uint4*>(data + i * sizeof(T))[k] = raw[k];
}

__device__ __forceinline__ void load_vector(const char* data, DType type, int64_t i,
                                            float (&x)[kMergeVector]) {
  if (type == DType::F32) return load_raw(data, i, x);
  uint16_t bits[kMergeVector];
  load_raw(data, i, bits);
#pragma unroll
  for (int k = 0; k < kMergeVector; ++k)
    x[k] = load_element<float>(reinterpret_cast<const char*>(bits), type, k);
}

__device__ __forceinline__ void store_vector(const float (&x)[kMergeVector], char* data, DType type,
                                             int64_t i) {
  if (type == DType::F32) return store_raw(x, data, i);
  uint16_t bits[kMergeVector];
#pragma unroll
  for (int k = 0; k < kMergeVector; ++k)
    store_element(x[k], reinterpret_cast<char*>(bits), type, k);
  store_raw(bits, data, i);
}

// --- the rules, on elements [begin, end) of entry e ---------------------------------------------

// keep * target + sum w * source, in this order; Width elements from `i` on.
template <class A, int Width, class Load>
__device__ __forceinline__ void average(const MergeRows& rows, int e, A (&acc)[Width], Load load) {
  const MergeHeader& h = rows.header;
  const MergeEntry& entry = rows.entry(e);
  A x[Width];
  // A target that is not kept is not read: it may be uninitialised memory, NaN for instance.
  const bool kept = h.keep != 0;
  const A first = static_cast<A>(kept ? h.keep : h.weights[0]);
  load(kept ? entry.data : rows.slot(e, 0).source, kept ? entry.type : rows.type(e, 0), x);
#pragma unroll
  for (int k = 0; k < Width; ++k) acc[k] = first * x[k];
#pragma unroll 1
  for (int n = kept ? 0 : 1; n < h.num_sources; ++n) {
    load(rows.slot(e, n).source, rows.type(e, n), x);
    const A weight = static_cast<A>(h.weights[n]);
#pragma unroll
    for (int k = 0; k < Width; ++k) acc[k] += weight * x[k];
  }
}

template <class A>
__device__ void average_elements(const MergeRows& rows, int e, int64_t begin, int64_t end) {
  const MergeEntry& entry = rows.entry(e);
#pragma unroll 1
  for (int64_t i = begin + threadIdx.x; i < end; i += kMergeThreads) {
    A acc[1];
    average(rows, e, acc,
            [i](const char* data, DType type, A(&x)[1]) { x[0] = load_element<A>(data, type, i); });
    store_element(acc[0], entry.data, entry.type, i);
  }
}

__device__ inline void average_tile(const MergeRows& rows, int e, int64_t begin, int64_t end) {
  const MergeEntry& entry = rows.entry(e);
  bool in_double = entry.type == DType::F64;
#pragma unroll 1
  for (int n = 0; n < rows.header.num_sources; ++n) in_double |= rows.type(e, n) == DType::F64;
  if (in_double) return average_elements<double>(rows, e, begin, end);
  if (entry.vectors) {
    const int64_t whole = begin + (end - begin) / kMergeVector * kMergeVector;
#pragma unroll 1
    for (int64_t i = begin + threadIdx.x * kMergeVector; i < whole;
         i += kMergeThreads * kMergeVector) {
      float acc[kMergeVector];
      average(rows, e, acc, [i](const char* data, DType type, float (&x)[kMergeVector]) {
        load_vector(data, type, i, x);
      });
      store_vector(acc, entry.data, entry.type, i);
    }
    begin = whole;
  }
  average_elements<float>(rows, e, begin, end);
}

template <class T>
__device__ void copy_line(const char* source, char* target, int64_t begin, int64_t end) {
#pragma unroll 1
  for (int64_t i = begin + threadIdx.x; i < end; i += kMergeThreads)
    reinterpret_cast<T*>(target)[i] = reinterpret_cast<const T*>(source)[i];
}

__device__ inline void copy_tile(const MergeRows& rows, int e, int64_t begin, int64_t end) {
  const MergeEntry& entry = rows.entry(e);
  const char* source = rows.slot(e, 0).source;
  const int bytes = static_cast<int>(bytes_of(entry.type));
  if (entry.vectors) {
    copy_line<uint4>(source, entry.data, begin * bytes / 16, end * bytes / 16);
    begin = end * bytes / 16 * 16 / bytes;  // the rest is less than 16 bytes
  }
  switch (bytes) {
    case 8: return copy_line<uint64_t>(source, entry.data, begin, end);
    case 4: return copy_line<uint32_t>(source, entry.data, begin, end);
    case 2: return copy_line<uint16_t>(source, entry.data, begin, end);
    default: return copy_line<uint8_t>(source, entry.data, begin, end);
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
__device__ void fill_line(char* data, double value, int64_t begin, int64_t end) {
#pragma unroll 1
  for (int64_t i = begin + threadIdx.x; i < end; i += kMergeThreads)
    reinterpret_cast<T*>(data)[i] = static_cast<T>(value);
}

__device__ inline void fill_tile(const MergeRows& rows, int e, int64_t begin, int64_t end) {
  const MergeEntry& entry = rows.entry(e);
  const double value = rows.slot(e, 0).fill;
  switch (entry.type) {
    case DType::I64: return fill_line<int64_t>(entry.data, value, begin, end);
    case DType::I32: return fill_line<int32_t>(entry.data, value, begin, end);
    case DType::I16: return fill_line<int16_t>(entry.data, value, begin, end);
    case DType::I8: return fill_line<int8_t>(entry.data, value, begin, end);
    case DType::U8: return fill_line<uint8_t>(entry.data, value, begin, end);
    default:
#pragma unroll 1
      for (int64_t i = begin + threadIdx.x; i < end; i += kMergeThreads)
        store_element(value, entry.data, entry.type, i);
  }
}

// E[x] = sum w_n m_n and Var[x] = sum w_n (v_n + (m_n - E[x])^2): no difference of large numbers.
__device__ inline void moments_tile(const MergeRows& rows, int e, int64_t begin, int64_t end) {
  const MergeHeader& h = rows.header;
  const MergeEntry &means = rows.entry(e), &variances = rows.entry(e + 1);
#pragma unroll 1
  for (int64_t i = begin + threadIdx.x; i < end; i += kMergeThreads) {
    const bool kept = h.keep != 0;
    const double old_mean = kept ? load_element<double>(means.data, means.type, i) : 0;
    const double old_variance = kept ? load_element<double>(variances.data, variances.type, i) : 0;
    double mean = kept ? h.keep * old_mean : 0, variance = 0;
#pragma unroll 1
    for (int n = 0; n < h.num_sources; ++n)
      mean += h.moment_weights[n] *
              load_element<double>(rows.slot(e, n).source, rows.type(e, n), i);
    const auto add = [&](double m, double v, double weight) {
      const double away = m - mean;
      variance += weight * (away * away);
      variance += weight * v;
    };
    if (kept) add(old_mean, old_variance, h.keep);
#pragma unroll 1
    for (int n = 0; n < h.num_sources; ++n)
      add(load_element<double>(rows.slot(e, n).source, rows.type(e, n), i),
          load_element<double>(rows.slot(e + 1, n).source, rows.type(e + 1, n), i),
          h.moment_weights[n]);
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
