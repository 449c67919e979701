// The loops of merge_, compiled once per instruction set (cmake/cpu_isa.cmake), without fused
// multiply-adds: every backend and every instruction set gives the same bits.
#include "cpu/merge_blocks.h"

#include "cpu/half.h"

#ifdef __x86_64__
#include <immintrin.h>
#endif

EDUFAST_DECLARE_MERGE_RANGE(EDUFAST_ISA)

namespace edufast::EDUFAST_ISA {
namespace {

using cpu::kMergeBlock;

// body(begin, size) for one block after the other.
template <class F> void for_blocks(int64_t begin, int64_t size, F body) {
  for (int64_t end = begin + size; begin < end; begin += kMergeBlock)
    body(begin, end - begin < kMergeBlock ? end - begin : kMergeBlock);
}

template <class F> void with_float(DType type, F f) {
  switch (type) {
    case DType::F32: return f.template operator()<float>();
    case DType::BF16: return f.template operator()<BFloat16>();
    case DType::F16: return f.template operator()<Half>();
    default: return f.template operator()<double>();
  }
}

template <class F> void with_integer(DType type, F f) {
  switch (type) {
    case DType::I64: return f.template operator()<int64_t>();
    case DType::I32: return f.template operator()<int32_t>();
    case DType::I16: return f.template operator()<int16_t>();
    case DType::I8: return f.template operator()<int8_t>();
    default: return f.template operator()<uint8_t>();
  }
}

const char* at(const MergeSource& source, int64_t begin) {
  return static_cast<const char*>(source.data) + begin * bytes_of(source.type);
}

// Stores that do not first read the line they overwrite: a third less traffic for a copy.
#if defined(__AVX512F__)
#define EDUFAST_STREAM _mm512_stream_ps
constexpr int kStreamLanes = 16;
#elif defined(__AVX__)
#define EDUFAST_STREAM _mm256_stream_ps
constexpr int kStreamLanes = 8;
#elif defined(__SSE__)
#define EDUFAST_STREAM _mm_stream_ps
constexpr int kStreamLanes = 4;
#else
#define EDUFAST_STREAM(address, vector) __builtin_memcpy(address, &vector, sizeof vector)
constexpr int kStreamLanes = 4;
#endif
using StreamVector = float __attribute__((vector_size(4 * kStreamLanes)));

StreamVector load_vector(const void* data) {
  StreamVector x;
  __builtin_memcpy(&x, data, sizeof x);
  return x;
}

// Elements of `bytes` bytes before the first that is aligned for a stream; at most `size`.
int64_t before_aligned(const void* data, int64_t bytes, int64_t size) {
  const uintptr_t address = reinterpret_cast<uintptr_t>(data);
  const int64_t count = (-address % sizeof(StreamVector)) / bytes;
  return count < size ? count : size;
}

void stream_fence() {
#ifdef __SSE__
  _mm_sfence();  // before another thread is told that the work is done
#endif
}

// --- average ------------------------------------------------------------------------------------

// acc = weight * x, or acc += weight * x.
template <bool first, class A>
void accumulate(const void* data, DType type, A weight, A* __restrict acc, int64_t size) {
  with_float(type, [&]<class T>() {
    const T* x = static_cast<const T*>(data);
    for (int64_t i = 0; i < size; ++i) {
      const A term = weight * static_cast<A>(widen(x[i]));
      acc[i] = first ? term : acc[i] + term;
    }
  });
}

template <class A> void store(const A* __restrict acc, void* data, DType type, int64_t size) {
  with_float(type, [&]<class T>() {
    T* y = static_cast<T*>(data);
    for (int64_t i = 0; i < size; ++i) narrow(acc[i], y + i);
  });
}

// Any mix of types, through an accumulator.
template <class A>
void average_mixed(const Merge& p, const MergeItem& item, int64_t begin, int64_t size) {
  alignas(64) A acc[kMergeBlock];
  void* target = static_cast<char*>(item.data) + begin * bytes_of(item.type);
  // A target that is not kept is not read: it may be uninitialised memory, NaN for instance.
  if (p.keep != 0) accumulate<true>(target, item.type, static_cast<A>(p.keep), acc, size);
  for (int32_t n = 0; n < p.num_sources; ++n) {
    const MergeSource& source = item.sources[n];
    const A weight = static_cast<A>(p.weights[n]);
    if (n == 0 && p.keep == 0) accumulate<true>(at(source, begin), source.type, weight, acc, size);
    else accumulate<false>(at(source, begin), source.type, weight, acc, size);
  }
  store(acc, target, item.type, size);
}

// One type and up to four sources: in registers. The same operations in the same order.
template <int N, bool kept, class T>
void average_direct(const Merge& p, const MergeItem& item, int64_t begin, int64_t size) {
  T* y = static_cast<T*>(item.data) + begin;
  const T* x[N];
  float w[N];
  for (int n = 0; n < N; ++n) {
    x[n] = static_cast<const T*>(item.sources[n].data) + begin;
    w[n] = static_cast<float>(p.weights[n]);
  }
  const float keep = static_cast<float>(p.keep);
#ifdef __clang__  // a source is elsewhere or is the target itself
#pragma clang loop vectorize(assume_safety)
#else
#pragma GCC ivdep
#endif
  for (int64_t i = 0; i < size; ++i) {
    float acc = kept ? keep * widen(y[i]) : w[0] * widen(x[0][i]);
#pragma GCC unroll 4
    for (int n = kept ? 0 : 1; n < N; ++n) acc += w[n] * widen(x[n][i]);
    narrow(acc, y + i);
  }
}

template <int N>
void average_streamed(const Merge& p, const MergeItem& item, int64_t begin, int64_t size) {
  float* y = static_cast<float*>(item.data);
  const int64_t first = begin + before_aligned(y + begin, sizeof *y, size);
  const int64_t last = first + (begin + size - first) / kStreamLanes * kStreamLanes;
  float w[N];
  for (int n = 0; n < N; ++n) w[n] = static_cast<float>(p.weights[n]);
  for (int64_t i = first; i < last; i += kStreamLanes) {
    StreamVector acc = w[0] * load_vector(static_cast<const float*>(item.sources[0].data) + i);
#pragma GCC unroll 4
    for (int n = 1; n < N; ++n)
      acc += w[n] * load_vector(static_cast<const float*>(item.sources[n].data) + i);
    EDUFAST_STREAM(y + i, acc);
  }
  stream_fence();
  average_direct<N, false, float>(p, item, begin, first - begin);
  average_direct<N, false, float>(p, item, last, begin + size - last);
}

template <int N, bool kept, class T>
bool average_one_type(const Merge& p, const MergeItem& item, int64_t begin, int64_t size,
                      bool stream) {
  if constexpr (!kept && sizeof(T) == sizeof(float))
    if (stream && reinterpret_cast<uintptr_t>(item.data) % sizeof(T) == 0)
      return average_streamed<N>(p, item, begin, size), true;
  return average_direct<N, kept, T>(p, item, begin, size), true;
}

template <class T>
bool average_one_type(const Merge& p, const MergeItem& item, int64_t begin, int64_t size,
                      bool stream) {
  const bool kept = p.keep != 0;
  switch (2 * p.num_sources + kept) {
    case 2: return average_one_type<1, false, T>(p, item, begin, size, stream);
    case 3: return average_one_type<1, true, T>(p, item, begin, size, stream);
    case 4: return average_one_type<2, false, T>(p, item, begin, size, stream);
    case 5: return average_one_type<2, true, T>(p, item, begin, size, stream);
    case 6: return average_one_type<3, false, T>(p, item, begin, size, stream);
    case 8: return average_one_type<4, false, T>(p, item, begin, size, stream);
    default: return false;
  }
}

void average(const Merge& p, const MergeItem& item, int64_t begin, int64_t size, bool stream) {
  bool one_type = true, any_double = item.type == DType::F64;
  for (int32_t n = 0; n < p.num_sources; ++n) {
    one_type &= item.sources[n].type == item.type;
    any_double |= item.sources[n].type == DType::F64;
  }
  if (one_type && item.type == DType::F32 && average_one_type<float>(p, item, begin, size, stream))
    return;
  if (one_type && item.type == DType::BF16 &&
      average_one_type<BFloat16>(p, item, begin, size, stream))
    return;
  for_blocks(begin, size, [&](int64_t b, int64_t n) {
    any_double ? average_mixed<double>(p, item, b, n) : average_mixed<float>(p, item, b, n);
  });
}

// --- the other rules ----------------------------------------------------------------------------

void copy(const MergeItem& item, int64_t begin, int64_t size, bool stream) {
  const int64_t bytes = bytes_of(item.type);
  char* target = static_cast<char*>(item.data) + begin * bytes;
  const char* source = at(item.sources[0], begin);
  size *= bytes;
  if (target == source) return;
  int64_t i = 0;
  if (stream) {
    i = before_aligned(target, 1, size);
    __builtin_memcpy(target, source, i);
    constexpr int64_t kBytes = sizeof(StreamVector);
    for (; i + kBytes <= size; i += kBytes)
      EDUFAST_STREAM(reinterpret_cast<float*>(target + i), load_vector(source + i));
    stream_fence();
  }
  __builtin_memcpy(target + i, source + i, size - i);
}

void largest(const Merge& p, const MergeItem& item, int64_t begin, int64_t size) {
  with_integer(item.type, [&]<class T>() {
    T best[kMergeBlock];
    __builtin_memcpy(best, at(item.sources[0], begin), size * sizeof(T));
    for (int32_t n = 1; n < p.num_sources; ++n) {
      const T* x = static_cast<const T*>(item.sources[n].data) + begin;
      for (int64_t i = 0; i < size; ++i) best[i] = x[i] > best[i] ? x[i] : best[i];
    }
    __builtin_memcpy(static_cast<T*>(item.data) + begin, best, size * sizeof(T));
  });
}

void fill(const MergeItem& item, int64_t begin, int64_t size) {
  if (is_float(item.type)) {
    with_float(item.type, [&]<class T>() {
      T value, *y = static_cast<T*>(item.data) + begin;
      narrow(item.fill, &value);
      for (int64_t i = 0; i < size; ++i) y[i] = value;
    });
  } else {
    with_integer(item.type, [&]<class T>() {
      T* y = static_cast<T*>(item.data) + begin;
      for (int64_t i = 0; i < size; ++i) y[i] = static_cast<T>(item.fill);
    });
  }
}

// E[x] = sum w_n m_n and Var[x] = sum w_n (v_n + (m_n - E[x])^2): no difference of large numbers.
void moments(const Merge& p, const MergeItem& item, int64_t begin, int64_t size) {
  double mean[kMergeBlock], variance[kMergeBlock], center[kMergeBlock];
  char* means = static_cast<char*>(item.data) + begin * bytes_of(item.type);
  char* variances = static_cast<char*>(item.variance) + begin * bytes_of(item.variance_type);
  for (int64_t i = 0; i < size; ++i) mean[i] = variance[i] = 0;
  if (p.keep != 0) accumulate<false>(means, item.type, p.keep, mean, size);
  for (int32_t n = 0; n < p.num_sources; ++n) {
    const MergeSource& m = item.sources[n];
    accumulate<false>(at(m, begin), m.type, p.moment_weights[n], mean, size);
  }
  const auto add = [&](const void* m, DType m_type, const void* v, DType v_type, double w) {
    accumulate<true>(m, m_type, 1.0, center, size);
    for (int64_t i = 0; i < size; ++i) {
      const double away = center[i] - mean[i];
      variance[i] += w * (away * away);
    }
    accumulate<false>(v, v_type, w, variance, size);
  };
  if (p.keep != 0) add(means, item.type, variances, item.variance_type, p.keep);
  for (int32_t n = 0; n < p.num_sources; ++n) {
    const MergeSource &m = item.sources[n], &v = item.sources[p.num_sources + n];
    add(at(m, begin), m.type, at(v, begin), v.type, p.moment_weights[n]);
  }
  store(mean, means, item.type, size);
  store(variance, variances, item.variance_type, size);
}

}  // namespace

void merge_range(const Merge& p, const MergeItem& item, int64_t begin, int64_t size, bool stream) {
  if (is_copy(p, item)) return copy(item, begin, size, stream);
  switch (item.rule) {
    case Rule::Average: return average(p, item, begin, size, stream);
    case Rule::Fill: return fill(item, begin, size);
    case Rule::Largest:
      return for_blocks(begin, size, [&](int64_t b, int64_t n) { largest(p, item, b, n); });
    case Rule::Moments:
      return for_blocks(begin, size, [&](int64_t b, int64_t n) { moments(p, item, b, n); });
  }
}

}  // namespace edufast::EDUFAST_ISA
