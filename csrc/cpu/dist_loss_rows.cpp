// The loops of DIST, compiled once per instruction set (cmake/cpu_isa.cmake).
//
// Pass 1 takes a strip of columns of a few rows at a time: their softmaxes, the moments of each row,
// and the moments of each column over these rows, centred on the spot so that fp32 suffices. Moments
// of columns over the batch are merged from these in fp64. What normalises a row of several strips
// is known before. Pass 2 computes the softmaxes again, which with SIMD costs less than bringing
// them back from memory, and writes the gradient.
#include "cpu/dist_loss_rows.h"

#include "cpu/rows.h"

EDUFAST_DECLARE_DIST(EDUFAST_ISA)

namespace edufast::EDUFAST_ISA {
namespace {

using cpu::dist_strips, cpu::DistMemory, cpu::DistRow, cpu::kDistColumns, cpu::kDistRows,
    cpu::Moments;

// Of a row or a column: the correlation, and its derivative of_teacher q' + of_student p', with
// centred p' and q', times `scale`.
struct Correlation {
  double value = 0, of_teacher = 0, of_student = 0;

  Correlation(double n, double mean_p, double mean_q, double pp, double qq, double pq,
              double scale) {
    const auto flat = [&](double mean, double squares) {
      return squares <= n * (kDistFlat * mean) * (kDistFlat * mean);
    };
    const bool broken = pp != pp || qq != qq;  // by NaN, which a flat side must not hide
    if (!broken && (flat(mean_p, pp) || flat(mean_q, qq))) return;
    const double p_norm = __builtin_sqrt(pp), q_norm = __builtin_sqrt(qq);
    const double inverse = 1 / (p_norm * q_norm + kDistEpsilon);
    value = pq * inverse;
    of_teacher = scale * inverse;
    of_student = -scale * value * inverse * q_norm / p_norm;
  }
};

template <class A> struct Normaliser {
  A shift = -kInf<A>, inverse = 0;
};

template <class A> class Dist {
 public:
  Dist(const DistLoss& problem, const DistMemory& memory, void* scratch)
      : p_(problem),
        memory_(memory),
        classes_(problem.classes),
        // Not a power of two: the lines of a column would all fall into one set of the cache.
        stride_((classes_ < kDistColumns ? classes_ : kDistColumns) / 16 * 16 + 48),
        student_(static_cast<A*>(scratch)),
        teacher_(student_ + kDistRows * stride_),
        inverse_t_(A(1 / problem.temperature)) {}

  // Of a block of rows in pass 1, or of a row in pass 2.
  int64_t bytes() const {
    const int64_t row = (classes_ + 63) / 16 * 16, block = kDistRows * stride_;
    return 2 * (row > block ? row : block) * int64_t{sizeof(A)};
  }

  // Leaves the exponentials of a row of one strip in x and y.
  void softmaxes(int64_t r, A* x, A* y) const {
    const Normaliser<A> p = softmax(p_.student, r, x), q = softmax(p_.teacher, r, y);
    memory_.rows[r] = {p.shift, p.inverse, q.shift, q.inverse, 0, 0, 0};
  }
  void softmaxes(int64_t r) const { softmaxes(r, student_, teacher_); }

  void sums(int64_t task) const {
    const int64_t strips = dist_strips(classes_), block = task / strips, strip = task % strips;
    const int64_t first = block * kDistRows, j = strip * kDistColumns;
    const int64_t rows = p_.rows - first < kDistRows ? p_.rows - first : kDistRows;
    const int64_t n = classes_ - j < kDistColumns ? classes_ - j : kDistColumns;
    for (int64_t i = 0; i < rows; ++i) {
      A *x = student_ + i * stride_, *y = teacher_ + i * stride_;
      const DistRow& row = memory_.rows[first + i];
      if (strips == 1) {
        softmaxes(first + i, x, y);
      } else {
        exponentials_of(p_.student, first + i, j, n, A(row.p_shift), x);
        exponentials_of(p_.teacher, first + i, j, n, A(row.q_shift), y);
      }
      memory_.moments[(first + i) * strips + strip] = row_moments(x, y, n, A(row.p_inverse),
                                                                  A(row.q_inverse));
    }
    column_moments(rows, n, static_cast<A*>(memory_.partials) + block * 5 * classes_ + j);
  }

  // Merges the blocks' moments (Chan et al. 1979), a few columns at a time.
  void columns(int64_t begin, int64_t end) const {
    constexpr int64_t kGroup = 64;
    const A* partials = static_cast<const A*>(memory_.partials);
    A* out = static_cast<A*>(memory_.columns);
    const double scale = -p_.temperature * p_.gamma / double(classes_);
    for (int64_t c = begin; c < end; c += kGroup) {
      const int64_t n = end - c < kGroup ? end - c : kGroup;
      double p[kGroup] = {}, q[kGroup] = {}, pp[kGroup] = {}, qq[kGroup] = {}, pq[kGroup] = {};
      for (int64_t row = 0; row < p_.rows; row += kDistRows) {
        const int64_t more = p_.rows - row < kDistRows ? p_.rows - row : kDistRows;
        const double share = double(more) / double(row + more), both = double(row) * share;
        const A* from = partials + row / kDistRows * 5 * classes_ + c;
        for (int64_t i = 0; i < n; ++i) {
          const double dp = from[i] - p[i], dq = from[classes_ + i] - q[i];
          p[i] += dp * share;
          q[i] += dq * share;
          pp[i] += from[2 * classes_ + i] + dp * dp * both;
          qq[i] += from[3 * classes_ + i] + dq * dq * both;
          pq[i] += from[4 * classes_ + i] + dp * dq * both;
        }
      }
      for (int64_t i = 0; i < n; ++i) {
        const Correlation r(double(p_.rows), p[i], q[i], pp[i], qq[i], pq[i], scale);
        memory_.correlations[c + i] = r.value;
        out[c + i] = A(p[i]);
        out[classes_ + c + i] = A(q[i]);
        out[2 * classes_ + c + i] = A(r.of_student);
        out[3 * classes_ + c + i] = A(r.of_teacher);
      }
    }
  }

  // p (x - sum p x), where x = d loss / d p. Both wait for the sum, in the cache for rows of up to
  // some 100,000 classes.
  void gradient(int64_t r) const {
    correlate(r);
    A *p = student_, *x = student_ + (classes_ + 63) / 16 * 16;
    double total = 0;
    for_strips([&](int64_t j, int64_t n) { total += slopes(r, j, n, p + j, x + j); });
    const bool direct = p_.grad_dtype == kDType<A>;
    A* g = direct ? static_cast<A*>(p_.grad) + r * classes_ : x;
    for_vectors<A>(classes_, [&](int64_t i, auto lanes) {
      store(g + i, load(p + i, lanes) * (load(x + i, lanes) - A(total)), lanes);
    });
    if (!direct) write(g, classes_, p_.grad_dtype, p_.grad, r * classes_);
  }

 private:
  void correlate(int64_t r) const {
    DistRow& row = memory_.rows[r];
    const int64_t strips = dist_strips(classes_);
    Moments sum;
    for (int64_t s = 0; s < strips; ++s) {
      const Moments& part = memory_.moments[r * strips + s];
      sum = {sum.pp + part.pp, sum.qq + part.qq, sum.pq + part.pq};
    }
    if (row.p_inverse == 0 || row.q_inverse == 0) sum.pp = 0;
    const double mean = 1.0 / double(classes_);
    const double scale = -p_.temperature * p_.beta / double(p_.rows);
    const Correlation c(double(classes_), mean, mean, sum.pp, sum.qq, sum.pq, scale);
    row.of_teacher = c.of_teacher;
    row.of_student = c.of_student;
    row.correlation = c.value;
  }

  template <class F> void for_strips(F f) const {
    for (int64_t j = 0; j < classes_; j += kDistColumns)
      f(j, classes_ - j < kDistColumns ? classes_ - j : kDistColumns);
  }

  // e = exp((logit - shift) / T), 0 throughout a row of -inf; returns their sum.
  A exponentials_of(const Logits& logits, int64_t r, int64_t j, int64_t n, A shift, A* e) const {
    const A* x = read<A>(logits, r, 0, nullptr, j, n, e);
    const Softened<A> exp(inverse_t_);
    Vec<A> sum{};
    const Vec<A> zero{};
    const bool empty = shift == -kInf<A>;
    for_vectors<A>(n, [&](int64_t i, auto lanes) {
      const Vec<A> y = empty ? zero : exp(load(x + i, lanes, -kInf<A>) - shift);
      store(e + i, y, lanes);
      sum += y;
    });
    return sum_lanes<A>(sum);
  }

  // A row of one strip leaves its exponentials in e.
  Normaliser<A> softmax(const Logits& logits, int64_t r, A* e) const {
    A shift = -kInf<A>;
    double sum = 0;
    for_strips([&](int64_t j, int64_t n) {
      const A most = maximum(read<A>(logits, r, 0, nullptr, j, n, e), n);
      if (most > shift || most != most) {
        if (shift != -kInf<A>) sum *= __builtin_exp(double(shift - most) * inverse_t_);
        shift = most;
      }
      sum += exponentials_of(logits, r, j, n, shift, e);
    });
    return {shift, shift == -kInf<A> ? 0 : A(1 / sum)};
  }

  // Scales exponentials to probabilities; returns the moments about 1 / C, the mean of both.
  Moments row_moments(A* x, A* y, int64_t n, A p_inverse, A q_inverse) const {
    const A mean = A(1) / A(classes_);
    Vec<A> pp_sum{}, qq_sum{}, pq_sum{};
    for_vectors<A>(n, [&](int64_t i, auto lanes) {
      // Lanes beyond the row hold the mean: they add nothing.
      const Vec<A> p = load(x + i, lanes) * p_inverse, q = load(y + i, lanes) * q_inverse;
      store(x + i, p, lanes);
      store(y + i, q, lanes);
      const Vec<A> dp = load(x + i, lanes, mean) - mean, dq = load(y + i, lanes, mean) - mean;
      pp_sum += dp * dp;
      qq_sum += dq * dq;
      pq_sum += dp * dq;
    });
    return {sum_lanes<A>(pp_sum), sum_lanes<A>(qq_sum), sum_lanes<A>(pq_sum)};
  }

  void column_moments(int64_t rows, int64_t n, A* out) const {
    const A inverse = A(1) / A(rows);
    for_vectors<A>(n, [&](int64_t i, auto lanes) {
      Vec<A> p_mean{}, q_mean{}, pp{}, qq{}, pq{};
      for (int64_t r = 0; r < rows; ++r) {
        p_mean += load(student_ + r * stride_ + i, Whole{});
        q_mean += load(teacher_ + r * stride_ + i, Whole{});
      }
      p_mean *= inverse;
      q_mean *= inverse;
      for (int64_t r = 0; r < rows; ++r) {
        const Vec<A> dp = load(student_ + r * stride_ + i, Whole{}) - p_mean;
        const Vec<A> dq = load(teacher_ + r * stride_ + i, Whole{}) - q_mean;
        pp += dp * dp;
        qq += dq * dq;
        pq += dp * dq;
      }
      store(out + i, p_mean, lanes);
      store(out + classes_ + i, q_mean, lanes);
      store(out + 2 * classes_ + i, pp, lanes);
      store(out + 3 * classes_ + i, qq, lanes);
      store(out + 4 * classes_ + i, pq, lanes);
    });
  }

  // The student's probabilities and the loss's derivatives for them; returns sum p x.
  double slopes(int64_t r, int64_t j, int64_t n, A* p, A* x) const {
    const DistRow& row = memory_.rows[r];
    exponentials_of(p_.student, r, j, n, A(row.p_shift), p);
    exponentials_of(p_.teacher, r, j, n, A(row.q_shift), x);
    const A* columns = static_cast<const A*>(memory_.columns) + j;
    const A p_inverse = A(row.p_inverse), q_inverse = A(row.q_inverse);
    const A of_student = A(row.of_student), of_teacher = A(row.of_teacher);
    const A mean = A(1) / A(classes_);
    Vec<A> sum{};
    for_vectors<A>(n, [&](int64_t i, auto lanes) {
      const Vec<A> pi = load(p + i, lanes) * p_inverse, qi = load(x + i, lanes) * q_inverse;
      const Vec<A> dp = pi - load(columns + i, lanes);
      const Vec<A> dq = qi - load(columns + classes_ + i, lanes);
      // The derivatives are large where rows hardly vary: deviations keep the digits.
      const Vec<A> slope = (pi - mean) * of_student + (qi - mean) * of_teacher +
                           dp * load(columns + 2 * classes_ + i, lanes) +
                           dq * load(columns + 3 * classes_ + i, lanes);
      store(p + i, pi, lanes);
      store(x + i, slope, lanes);
      sum += pi * slope;
    });
    return sum_lanes<A>(sum);
  }

  const DistLoss& p_;
  const DistMemory memory_;
  int64_t classes_, stride_;
  A *student_, *teacher_;  // a strip of kDistRows rows: exponentials, then probabilities
  A inverse_t_;
};

template <class F> void with_element(const DistLoss& p, F f) {
  if (p.student.dtype == DType::F64) f(double{});
  else f(float{});
}

}  // namespace

int64_t dist_scratch(const DistLoss& problem) {
  int64_t bytes = 0;
  with_element(problem, [&](auto a) { bytes = Dist<decltype(a)>(problem, {}, nullptr).bytes(); });
  return bytes;
}

void dist_softmaxes(const DistLoss& problem, int64_t begin, int64_t end, const DistMemory& memory,
                    void* scratch) {
  with_element(problem, [&](auto a) {
    const Dist<decltype(a)> dist(problem, memory, scratch);
    for (int64_t r = begin; r < end; ++r) dist.softmaxes(r);
  });
}

void dist_sums(const DistLoss& problem, int64_t begin, int64_t end, const DistMemory& memory,
               void* scratch) {
  with_element(problem, [&](auto a) {
    const Dist<decltype(a)> dist(problem, memory, scratch);
    for (int64_t task = begin; task < end; ++task) dist.sums(task);
  });
}

void dist_columns(const DistLoss& problem, int64_t begin, int64_t end, const DistMemory& memory) {
  with_element(problem,
               [&](auto a) { Dist<decltype(a)>(problem, memory, nullptr).columns(begin, end); });
}

void dist_gradient(const DistLoss& problem, int64_t begin, int64_t end, const DistMemory& memory,
                   void* scratch) {
  with_element(problem, [&](auto a) {
    const Dist<decltype(a)> dist(problem, memory, scratch);
    for (int64_t r = begin; r < end; ++r) dist.gradient(r);
  });
}

}  // namespace edufast::EDUFAST_ISA
