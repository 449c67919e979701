// Vectors as wide as the instruction set, loads and stores with tails, exp and log.
// Everything is in its per-instruction-set namespace, and no standard header is included (see
// cmake/cpu_isa.cmake); what immintrin.h defines is always inlined.
#pragma once

#include "cpu/half.h"
#include "dtype.h"

#ifdef __x86_64__
#include <immintrin.h>
#endif

namespace edufast::EDUFAST_ISA {
namespace {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

using Floats = float __attribute__((vector_size(kVectorBytes)));
using Ints = int32_t __attribute__((vector_size(kVectorBytes)));
using Unsigned = uint32_t __attribute__((vector_size(kVectorBytes)));  // may wrap around
using Doubles = double __attribute__((vector_size(kVectorBytes)));
using Longs = int64_t __attribute__((vector_size(kVectorBytes)));

template <class A> struct VectorOf;
template <> struct VectorOf<float> {
  using type = Floats;
};
template <> struct VectorOf<double> {
  using type = Doubles;
};
template <class A> using Vec = typename VectorOf<A>::type;
template <class A> constexpr int kLanes = kVectorBytes / sizeof(A);

template <class A> constexpr A kInf = __builtin_huge_val();

template <int value> struct Constant {
  constexpr operator int() const { return value; }
};

template <class A> EDUFAST_INLINE Vec<A> splat(A x) { return x - Vec<A>{}; }

// A whole vector, or the first `count` lanes: the type says which, so that only tails pay for it.
struct Whole {};

template <class A> EDUFAST_INLINE Vec<A> load(const A* p, Whole, A = 0) {
  Vec<A> v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
template <class A> EDUFAST_INLINE void store(A* p, Vec<A> v, Whole) {
  __builtin_memcpy(p, &v, sizeof v);
}

#if defined(__AVX512F__)
EDUFAST_INLINE Floats load(const float* p, int count, float fill = 0) {
  return _mm512_mask_loadu_ps(splat(fill), (1u << count) - 1, p);
}
EDUFAST_INLINE void store(float* p, Floats v, int count) {
  _mm512_mask_storeu_ps(p, (1u << count) - 1, v);
}
#elif defined(__AVX2__)
EDUFAST_INLINE Ints first(int count) { return Ints{0, 1, 2, 3, 4, 5, 6, 7} < count; }
EDUFAST_INLINE Floats load(const float* p, int count, float fill = 0) {
  const Ints mask = first(count);
  return mask ? _mm256_maskload_ps(p, bits<__m256i>(mask)) : splat(fill);
}
EDUFAST_INLINE void store(float* p, Floats v, int count) {
  _mm256_maskstore_ps(p, bits<__m256i>(first(count)), v);
}
#endif
template <class A> EDUFAST_INLINE Vec<A> load(const A* p, int count, A fill = 0) {
  Vec<A> v = splat(fill);
  for (int i = 0; i < count; ++i) v[i] = p[i];
  return v;
}
template <class A> EDUFAST_INLINE void store(A* p, Vec<A> v, int count) {
  for (int i = 0; i < count; ++i) p[i] = v[i];
}

// body(i, Whole{}) for each whole vector of n elements, then body(i, count) for the rest.
template <class A, class Body> EDUFAST_INLINE void for_vectors(int64_t n, Body body) {
  int64_t i = 0;
  for (; i + kLanes<A> <= n; i += kLanes<A>) body(i, Whole{});
  if (i < n) body(i, static_cast<int>(n - i));
}

// Lanes are combined in halves: a chain over 16 lanes would cost as much as a short row.
template <class A, int lanes, class Combine>
EDUFAST_INLINE A fold(const A* x, Combine combine) {
  if constexpr (lanes == 1) {
    return x[0];
  } else {
    A half[lanes / 2];
    for (int i = 0; i < lanes / 2; ++i) half[i] = combine(x[i], x[i + lanes / 2]);
    return fold<A, lanes / 2>(half, combine);
  }
}
template <class A> EDUFAST_INLINE A sum_lanes(Vec<A> v) {
  A x[kLanes<A>];
  __builtin_memcpy(x, &v, sizeof v);
  return fold<A, kLanes<A>>(x, [](A a, A b) { return a + b; });
}
template <class A> EDUFAST_INLINE A max_lanes(Vec<A> v) {
  A x[kLanes<A>];
  __builtin_memcpy(x, &v, sizeof v);
  return fold<A, kLanes<A>>(x, [](A a, A b) { return b > a ? b : a; });
}

// e^(x / T) for x <= 0; 0 below the smallest normal number and for -inf; NaN for NaN. To 1 ulp, where
// a multiply-add rounds once; else to about |x / T| ulp.
template <class A> class Softened;

template <> class Softened<float> {
 public:
  explicit Softened(float inverse_t)
      : rate_(inverse_t * 0x1.71547652b82fep0),  // 1 / ln 2
        rest_(inverse_t * 0x1.71547652b82fep0 - rate_),
        least_(-126 / rate_) {}

  EDUFAST_INLINE Floats operator()(Floats x) const {  // 2^(x rate) as 2^n 2^r
    const Floats magic = splat(0x1.8p23f);  // adding it rounds to an integer, in the low bits
    const Floats shifted = x * rate_ + magic;
    const Floats r = x * rate_ - (shifted - magic) + x * rest_;
    Floats e = splat(0x1.416b3ap-13f);  // minimax on |r| <= 1/2, relative error 3e-9
    e = e * r + 0x1.5f082ep-10f;
    e = e * r + 0x1.3b2de0p-7f;
    e = e * r + 0x1.c6af7cp-5f;
    e = e * r + 0x1.ebfbdcp-3f;
    e = e * r + 0x1.62e430p-1f;
    e = e * r + 1.0f;
    // Multiplying with 2^n, instead of adding n to the exponent, keeps NaN a NaN.
    const Unsigned exponent = (bits<Unsigned>(shifted) << 23) + 0x3f800000u;
    e *= bits<Floats>(exponent);
    return x < least_ ? Floats{} : e;
  }

 private:
  float rate_, rest_, least_;  // rate_ + rest_ is 1 / (T ln 2)
};

template <> class Softened<double> {  // fp64 is there for checking: plain libm
 public:
  explicit Softened(double inverse_t) : inverse_t_(inverse_t) {}

  EDUFAST_INLINE Doubles operator()(Doubles x) const {
    x *= inverse_t_;
    for (int i = 0; i < kLanes<double>; ++i) x[i] = __builtin_exp(x[i]);
    return x;
  }

 private:
  double inverse_t_;
};

// log x for normal x > 0 (anything else: meaningless, but finite or NaN).
EDUFAST_INLINE Floats log(Floats x) {
  const Ints i = bits<Ints>(bits<Unsigned>(x) - 0x3f3504f3u);  // mantissa to [sqrt(1/2), sqrt(2))
  const Floats n = __builtin_convertvector(i >> 23, Floats);
  const Floats f = bits<Floats>((i & 0x007fffff) + 0x3f3504f3) - 1.0f;
  Floats p = splat(7.0376836292e-2f);  // Cephes logf
  p = p * f - 1.1514610310e-1f;
  p = p * f + 1.1676998740e-1f;
  p = p * f - 1.2420140846e-1f;
  p = p * f + 1.4249322787e-1f;
  p = p * f - 1.6668057665e-1f;
  p = p * f + 2.0000714765e-1f;
  p = p * f - 2.4999993993e-1f;
  p = p * f + 3.3333331174e-1f;
  const Floats square = f * f;
  Floats y = p * f * square + n * -2.12194440e-4f - 0.5f * square;
  return f + y + n * 0.693359375f;
}
EDUFAST_INLINE Doubles log(Doubles x) {
  for (int i = 0; i < kLanes<double>; ++i) x[i] = __builtin_log(x[i]);
  return x;
}

EDUFAST_INLINE float scalar_exp(float x) { return __builtin_expf(x); }
EDUFAST_INLINE double scalar_exp(double x) { return __builtin_exp(x); }
EDUFAST_INLINE float scalar_log(float x) { return __builtin_logf(x); }
EDUFAST_INLINE double scalar_log(double x) { return __builtin_log(x); }
EDUFAST_INLINE float scalar_log1p(float x) { return __builtin_log1pf(x); }
EDUFAST_INLINE double scalar_log1p(double x) { return __builtin_log1p(x); }

template <class F> EDUFAST_INLINE void with_dtype(DType dtype, F f) {
  switch (dtype) {
    case DType::F32: return f(static_cast<float*>(nullptr));
    case DType::BF16: return f(static_cast<BFloat16*>(nullptr));
    case DType::F16: return f(static_cast<Half*>(nullptr));
    default: return f(static_cast<double*>(nullptr));
  }
}

}  // namespace
}  // namespace edufast::EDUFAST_ISA
