// The 16-bit floats, widened and rounded without branches, so that loops over them vectorise.
// For sources compiled once per instruction set: no standard header (see cmake/cpu_isa.cmake).
#pragma once

#include <cstdint>

namespace edufast::EDUFAST_ISA {
namespace {

struct BFloat16 {
  uint16_t bits;
};
struct Half {
  uint16_t bits;
};

#define EDUFAST_INLINE inline __attribute__((always_inline))

template <class To, class From> EDUFAST_INLINE To bits(From x) {
  static_assert(sizeof(To) == sizeof(From));
  To y;
  __builtin_memcpy(&y, &x, sizeof y);
  return y;
}

EDUFAST_INLINE float widen(float x) { return x; }
EDUFAST_INLINE double widen(double x) { return x; }
EDUFAST_INLINE float widen(BFloat16 x) { return bits<float>(uint32_t{x.bits} << 16); }
EDUFAST_INLINE float widen(Half x) {
  // The exponent is moved by a multiplication, which also normalises fp16's denormal numbers.
  const uint32_t magnitude = uint32_t{x.bits} & 0x7fffu;
  const uint32_t number = bits<uint32_t>(bits<float>(magnitude << 13) * 0x1p112f);
  const uint32_t special = (magnitude << 13) | 0x7f800000u;  // infinities and NaN
  const uint32_t sign = (uint32_t{x.bits} & 0x8000u) << 16;
  return bits<float>((magnitude >= 0x7c00u ? special : number) | sign);
}

// To nearest, ties to even.
EDUFAST_INLINE void narrow(float x, float* y) { *y = x; }
EDUFAST_INLINE void narrow(double x, double* y) { *y = x; }
EDUFAST_INLINE void narrow(float x, double* y) { *y = x; }
EDUFAST_INLINE void narrow(double x, float* y) { *y = static_cast<float>(x); }
EDUFAST_INLINE void narrow(float x, BFloat16* y) {
  const uint32_t b = bits<uint32_t>(x);
  const uint32_t rounded = (b + 0x7fffu + ((b >> 16) & 1u)) >> 16;
  y->bits = static_cast<uint16_t>((b & 0x7fffffffu) > 0x7f800000u ? 0x7fc0u : rounded);
}
EDUFAST_INLINE void narrow(float x, Half* y) {
  const uint32_t b = bits<uint32_t>(x), magnitude = b & 0x7fffffffu;
  const uint32_t normal = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  // Below 2^-14 the addition of 1/2, whose last bit is fp16's smallest number, does the rounding.
  const uint32_t denormal = bits<uint32_t>(bits<float>(magnitude) + 0.5f) - 0x3f000000u;
  uint32_t h = magnitude < 0x38800000u ? denormal : normal;
  h = magnitude >= 0x477ff000u ? 0x7c00u : h;  // from 65520 on: infinity
  h = magnitude > 0x7f800000u ? 0x7e00u : h;
  y->bits = static_cast<uint16_t>(h | ((b >> 16) & 0x8000u));
}
EDUFAST_INLINE void narrow(double x, BFloat16* y) { narrow(static_cast<float>(x), y); }
EDUFAST_INLINE void narrow(double x, Half* y) { narrow(static_cast<float>(x), y); }

}  // namespace
}  // namespace edufast::EDUFAST_ISA
