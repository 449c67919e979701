// The loops over one block of a row: everything that touches a logit. They know no divergence.
#pragma once

#include "cpu/kd_loss_divergences.h"
#include "cpu/rows.h"

namespace edufast::EDUFAST_ISA {
namespace {

// Logits that will be read soon: their latency hides behind the exponentials of this block. The
// hardware's own prefetching starts anew on every page, and a row is about a page.
struct Ahead {
  const char* logits = nullptr;
  int64_t bytes = 0;  // of one
  EDUFAST_INLINE void fetch(int64_t i) const { __builtin_prefetch(logits + i * bytes, 0, 2); }
};

// Sums over the exponentials of one side, for one T and, if asked for, for T = 1.
template <class A> struct Sums {
  double sum = 0;            // of e^v with v = (x - max) / T
  double cross = 0;          // of e^v (v - u)
  double unit = 0;           // of e^(x - max)
  double unit_weighted = 0;  // of e^(x - max) (x - max)

  // The same sums for a maximum that is larger by `step`.
  void rescale(double step, double inverse_t) {
    const double down = __builtin_exp(-step * inverse_t), unit_down = __builtin_exp(-step);
    cross = down * (cross - step * inverse_t * sum);
    sum *= down;
    unit_weighted = unit_down * (unit_weighted - step * unit);
    unit *= unit_down;
  }
};

// How the exponentials at T = 1 come about: not at all, on their own, or as (e^v)^T by 0 to 3
// squarings, which saves an exponential for T = 1, 2, 4, 8.
constexpr int kNoUnit = -2, kUnitExp = -1, kMaxSquarings = 3;

template <class F> EDUFAST_INLINE void with_unit(int unit, F f) {
  switch (unit) {
    case kNoUnit: return f(Constant<kNoUnit>{});
    case kUnitExp: return f(Constant<kUnitExp>{});
    case 0: return f(Constant<0>{});
    case 1: return f(Constant<1>{});
    case 2: return f(Constant<2>{});
    case 3: return f(Constant<3>{});
  }
}

template <int unit, class A> EDUFAST_INLINE Vec<A> unit_exp(Vec<A> x, Vec<A> y) {
  if constexpr (unit == kUnitExp) return Softened<A>(1)(x);
  for (int i = 0; i < unit; ++i) y *= y;
  return y;
}

EDUFAST_INLINE int unit_method(double temperature) {
  for (int squarings = 0; squarings <= kMaxSquarings; ++squarings)
    if (temperature == 1 << squarings) return squarings;
  return kUnitExp;
}

// e = e^v and, if asked for, e1 = e^(x - max); e may be x.
template <class A>
void exponentials(const A* x, int64_t n, A max, A inverse_t, int unit, A* e, A* e1, Sums<A>* sums,
                  Ahead ahead) {
  const Softened<A> exp(inverse_t);
  with_unit(unit, [&](auto how) {
    Vec<A> sum{}, units{};
    for_vectors<A>(n, [&](int64_t i, auto lanes) {
      ahead.fetch(i);
      const Vec<A> centred = load(x + i, lanes, -kInf<A>) - max;
      const Vec<A> y = exp(centred);
      store(e + i, y, lanes);
      sum += y;
      if constexpr (how != kNoUnit) {
        const Vec<A> y1 = unit_exp<how, A>(centred, y);
        store(e1 + i, y1, lanes);
        units += y1;
      }
    });
    sums->sum += sum_lanes<A>(sum);
    if constexpr (how != kNoUnit) sums->unit += sum_lanes<A>(units);
  });
}

// f = e^v of a teacher, with the cross sum against u = (z - z_max) / T; f may be t.
template <class A>
void exponentials_against(const A* t, int64_t n, A t_max, A inverse_t, int unit, A* f, const A* z,
                          A z_max, Sums<A>* sums, Ahead ahead) {
  const Softened<A> exp(inverse_t);
  with_unit(unit, [&](auto how) {
    Vec<A> sum{}, cross{}, units{}, weighted{};
    for_vectors<A>(n, [&](int64_t i, auto lanes) {
      ahead.fetch(i);
      const Vec<A> centred = load(t + i, lanes, -kInf<A>) - t_max;
      const Vec<A> lead = centred - (load(z + i, lanes) - z_max);  // (v - u) T
      const Vec<A> y = exp(centred);
      store(f + i, y, lanes);
      sum += y;
      cross += centred == -kInf<A> ? Vec<A>{} : y * lead;
      if constexpr (how != kNoUnit) {
        const Vec<A> y1 = unit_exp<how, A>(centred, y);
        units += y1;
        weighted += centred == -kInf<A> ? Vec<A>{} : y1 * centred;
      }
    });
    sums->sum += sum_lanes<A>(sum);
    sums->cross += sum_lanes<A>(cross) * inverse_t;
    if constexpr (how != kNoUnit) {
      sums->unit += sum_lanes<A>(units);
      sums->unit_weighted += sum_lanes<A>(weighted);
    }
  });
}

// v - u for v of x and u of y, 0 where v = -inf: there the exponential that it multiplies is 0.
template <class A>
void log_ratios(const A* x, A x_max, const A* y, A y_max, A inverse_t, int64_t n, A* log_ratio) {
  for_vectors<A>(n, [&](int64_t i, auto lanes) {
    const Vec<A> v = (load(x + i, lanes) - x_max) * inverse_t;
    const Vec<A> u = (load(y + i, lanes) - y_max) * inverse_t;
    store(log_ratio + i, v == -kInf<A> ? Vec<A>{} : v - u, lanes);
  });
}

template <class A> A sum_centred(const A* x, A max, int64_t n) {
  Vec<A> sum{};
  for_vectors<A>(n, [&](int64_t i, auto lanes) { sum += load(x + i, lanes, max) - max; });
  return sum_lanes<A>(sum);
}

// log(p / m) with m = p_share p + q_share q; 0 where p is. m / p - 1 is formed from q - p: with a
// share of 1e-7, m itself would be p or q after rounding.
template <class A>
EDUFAST_INLINE Vec<A> log_ratio_to_mixture(Vec<A> p, Vec<A> q, A p_share, A q_share) {
  const Vec<A> y = q_share * ((q - p) / p), x = 1 + y, rounded = x - 1;
  const Vec<A> most = splat(A(1e37));  // instead of an overflow, where p is about to underflow
  Vec<A> far = p_share + q_share * (q / p);
  far = far > most ? most : far;
  const auto near = (y < A(0.5)) & (y > A(-0.5));
  const Vec<A> log_x = log(near ? x : far);
  // The logarithm of 1 + y that has the digits of y, though x has lost them (Kahan).
  const Vec<A> log_near = rounded == 0 ? y : log_x * (y / rounded);
  return p > 0 ? -(near ? log_near : log_x) : Vec<A>{};
}

// log(p / m) and log(q / m) with m = beta q + (1 - beta) p.
template <class A>
void log_ratios_to_mixture(const A* e, A p_scale, const A* f, A q_scale, A beta, A one_minus_beta,
                           int64_t n, A* p_log_ratio, A* q_log_ratio) {
  for_vectors<A>(n, [&](int64_t i, auto lanes) {
    const Vec<A> p = load(e + i, lanes) * p_scale, q = load(f + i, lanes) * q_scale;
    store(p_log_ratio + i, log_ratio_to_mixture<A>(p, q, one_minus_beta, beta), lanes);
    store(q_log_ratio + i, log_ratio_to_mixture<A>(q, p, beta, one_minus_beta), lanes);
  });
}

// A sum of multiples of vectors.
template <class A> struct Multiples {
  const A* x[kMaxTeachers];
  A factor[kMaxTeachers];
  int64_t count = 0;

  void add(const A* vector, A its_factor) {
    x[count] = vector;
    factor[count++] = its_factor;
  }
};

// The loops that write every gradient. First g = e own + e1 unit - constant + others for a whole
// row ...
template <class A>
void begin_gradient(A own, const A* e, A unit, const A* e1, A constant, const Multiples<A>& others,
                    int64_t n, A* g, int64_t ahead) {
  for_vectors<A>(n, [&](int64_t i, auto lanes) {
    __builtin_prefetch(g + i + ahead, 1);
    Vec<A> sum = load(e + i, lanes) * own + (load(e1 + i, lanes) * unit - constant);
    for (int64_t k = 0; k < others.count; ++k)
      sum += load(others.x[k] + i, lanes) * others.factor[k];
    store(g + i, sum, lanes);
  });
}

// ... then g += e (own + ratio (log_ratio - mean)) + f other for each teacher. A log ratio may be so
// large that it is multiplied last: where it overflows with ratio, e is 0.
template <class A>
void add_gradient(const Coefficients<A>& c, const A* e, const A* f, const A* log_ratio, int64_t n,
                  A* g) {
  if (c.ratio != 0) {
    for_vectors<A>(n, [&](int64_t i, auto lanes) {
      const Vec<A> x = load(e + i, lanes), lead = load(log_ratio + i, lanes) - c.mean;
      const Vec<A> sum = load(g + i, lanes) + load(f + i, lanes) * c.other;
      store(g + i, sum + (x * c.own + (x * c.ratio) * lead), lanes);
    });
  } else if (c.own != 0) {
    for_vectors<A>(n, [&](int64_t i, auto lanes) {
      const Vec<A> sum = load(g + i, lanes) + load(f + i, lanes) * c.other;
      store(g + i, sum + load(e + i, lanes) * c.own, lanes);
    });
  } else {
    for_vectors<A>(n, [&](int64_t i, auto lanes) {
      store(g + i, load(g + i, lanes) + load(f + i, lanes) * c.other, lanes);
    });
  }
}

}  // namespace
}  // namespace edufast::EDUFAST_ISA
