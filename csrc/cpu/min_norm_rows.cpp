// The row loops of gradient_gram, compiled once per instruction set (cmake/cpu_isa.cmake).
//
// Of a row, the K gradients lie side by side, each over all classes, so that slices need no care
// when they are multiplied. Long rows are taken in strips, their exponentials computed again.
#include "cpu/min_norm_rows.h"

#include "cpu/rows.h"

EDUFAST_DECLARE_GRAM(EDUFAST_ISA)

namespace edufast::EDUFAST_ISA {
namespace {

constexpr int64_t kStrip = 1024;

template <class A> class Gram {
 public:
  Gram(const GradientGram& problem, void* scratch)
      : p_(problem), k_(problem.num_teachers), strip_(kStrip) {
    for (int64_t k = 0; k < k_; ++k) {
      for (group_[k] = 0; !same_slice(p_.teachers[group_[k]], p_.teachers[k]); ++group_[k]) {}
      if (p_.teachers[k].columns) strip_ = p_.classes;  // a list's classes are in no order
    }
    if (strip_ > p_.classes) strip_ = p_.classes;
    stride_ = (strip_ + 15) / 16 * 16;
    grads_ = static_cast<A*>(scratch);
    e_ = grads_ + k_ * stride_;
    f_ = e_ + k_ * stride_;
  }

  int64_t bytes() const { return (2 * k_ + 1) * stride_ * int64_t{sizeof(A)}; }

  void operator()(int64_t r, double* gram) {
    r_ = r;
    for (int64_t k = 0; k < k_; ++k) {
      const Teacher& t = p_.teachers[k];
      p_of_[k] = group_[k] < k ? p_of_[group_[k]] : softmax(student_of(k), t.classes, e(k));
      q_of_[k] = softmax(teacher_of(k), t.classes, f_);
      if (one_strip()) subtract(k, t.start, t.classes, p_.classes);
    }
    for (int64_t c = 0; c < p_.classes; c += strip_) {
      const int64_t n = p_.classes - c < strip_ ? p_.classes - c : strip_;
      for (int64_t k = 0; k < k_ && !one_strip(); ++k) gradient(k, c, n);
      for (int64_t i = 0; i < k_; ++i)
        for (int64_t j = 0; j <= i; ++j)
          gram[i * k_ + j] += dot(grads_ + i * stride_, grads_ + j * stride_, n);
    }
  }

 private:
  struct Slice {  // of a row: where its logits are
    const Logits& logits;
    int64_t start;
    const int64_t* columns;
    A inverse_t;
  };
  struct Normaliser {
    A shift = -kInf<A>, inverse = 0;
    bool empty() const { return shift == -kInf<A>; }  // every logit is -inf
  };

  static bool same_slice(const Teacher& a, const Teacher& b) {
    return a.start == b.start && a.classes == b.classes && a.columns == b.columns &&
           a.temperature == b.temperature;
  }
  bool one_strip() const { return strip_ >= p_.classes; }
  A* e(int64_t k) const { return e_ + group_[k] * stride_; }
  Slice student_of(int64_t k) const {
    const Teacher& t = p_.teachers[k];
    return {p_.student, t.start, t.columns, 1 / A(t.temperature)};
  }
  Slice teacher_of(int64_t k) const {
    const Teacher& t = p_.teachers[k];
    return {t.logits, 0, nullptr, 1 / A(t.temperature)};
  }

  const A* read_slice(const Slice& s, int64_t j, int64_t n, A* buffer) const {
    return read<A>(s.logits, r_, s.start, s.columns, j, n, buffer);
  }

  // out = exp((logit - shift) / T) for the slice's columns [j, j + n); returns their sum.
  A exponentials_of(const Slice& s, int64_t j, int64_t n, A shift, A* out) const {
    const A* x = read_slice(s, j, n, out);
    const Softened<A> exp(s.inverse_t);
    Vec<A> sum{};
    for_vectors<A>(n, [&](int64_t i, auto lanes) {
      const Vec<A> y = exp(load(x + i, lanes, -kInf<A>) - shift);
      store(out + i, y, lanes);
      sum += y;
    });
    return sum_lanes<A>(sum);
  }

  // Leaves the exponentials in `out` where the row is one strip.
  Normaliser softmax(const Slice& s, int64_t classes, A* out) const {
    A shift = -kInf<A>;
    double sum = 0;
    for (int64_t j = 0; j < classes; j += strip_) {
      const int64_t n = classes - j < strip_ ? classes - j : strip_;
      const A most = maximum(read_slice(s, j, n, out), n);
      if (most > shift || most != most) {
        if (shift != -kInf<A>) sum *= __builtin_exp(double(shift - most) * s.inverse_t);
        shift = most;
      }
      if (shift != -kInf<A>) sum += exponentials_of(s, j, n, shift, out);
    }
    return {shift, shift == -kInf<A> ? 0 : A(1 / sum)};
  }

  // Teacher k's gradient for the classes [c, c + n), from its exponentials computed again.
  void gradient(int64_t k, int64_t c, int64_t n) const {
    const Teacher& t = p_.teachers[k];
    const int64_t stop = t.start + t.classes, end = stop < c + n ? stop : c + n;
    const int64_t begin = t.start > c ? t.start : c, size = begin < end ? end - begin : 0;
    if (size > 0 && group_[k] == k && !p_of_[k].empty())
      exponentials_of(student_of(k), begin - t.start, size, p_of_[k].shift, e(k));
    if (size > 0 && !q_of_[k].empty())
      exponentials_of(teacher_of(k), begin - t.start, size, q_of_[k].shift, f_);
    subtract(k, size > 0 ? begin - c : 0, size, n);
  }

  // T (p - q) from the exponentials of `size` columns, the first at class `at` of the strip's n
  // classes; zero for the others.
  void subtract(int64_t k, int64_t at, int64_t size, int64_t n) const {
    const Teacher& t = p_.teachers[k];
    A* const g = grads_ + k * stride_;
    const bool empty = p_of_[k].empty() || q_of_[k].empty();
    if (size < n || empty)
      for (int64_t i = 0; i < n; ++i) g[i] = 0;
    if (empty) return;
    const A p_scale = p_of_[k].inverse * A(t.temperature);
    const A q_scale = q_of_[k].inverse * A(t.temperature);
    const A* const e_k = e(k);
    A* const out = t.columns ? f_ : g + at;
    for_vectors<A>(size, [&](int64_t i, auto lanes) {
      store(out + i, load(e_k + i, lanes) * p_scale - load(f_ + i, lanes) * q_scale, lanes);
    });
    if (t.columns)
      for (int64_t i = 0; i < size; ++i) g[t.columns[i]] = out[i];
  }

  const GradientGram& p_;
  int64_t k_, strip_, stride_, r_ = 0;
  int64_t group_[kMaxTeachers];  // the first teacher with the same slice and T
  A* grads_;                     // (K, strip): T (p - q) over all classes
  A *e_, *f_;                    // exponentials of the student, by group, and of one teacher
  Normaliser p_of_[kMaxTeachers], q_of_[kMaxTeachers];
};

template <class F> void with_element(const GradientGram& p, F f) {
  if (p.student.dtype == DType::F64) f(double{});
  else f(float{});
}

}  // namespace

int64_t gram_scratch(const GradientGram& problem) {
  int64_t bytes = 0;
  with_element(problem, [&](auto a) { bytes = Gram<decltype(a)>(problem, nullptr).bytes(); });
  return bytes;
}

void gram_rows(const GradientGram& problem, int64_t begin, int64_t end, double* gram,
               void* scratch) {
  with_element(problem, [&](auto a) {
    Gram<decltype(a)> add(problem, scratch);
    for (int64_t r = begin; r < end; ++r) add(r, gram);
  });
}

}  // namespace edufast::EDUFAST_ISA
