// The row loops of gradient_gram, compiled once per instruction set (cmake/cpu_isa.cmake).
//
// Of a row, the K gradients lie side by side, each over all classes, so that slices need no care
// when they are multiplied. Long rows are taken in strips, exponentials computed again.
#include "min_norm_rows.h"

#include "kd_loss_loops.h"

EDUFAST_DECLARE_GRAM(EDUFAST_ISA)

namespace edufast::EDUFAST_ISA {
namespace {

constexpr int64_t kStrip = 1024;

template <class A> class Gram {
 public:
  Gram(const GradientGram& problem, void* scratch)
      : p_(problem), k_(problem.num_teachers), strip_(kStrip) {
    for (int64_t k = 0; k < k_; ++k)
      if (p_.teachers[k].columns) strip_ = p_.classes;  // a list's classes are in no order
    if (strip_ > p_.classes) strip_ = p_.classes;
    stride_ = (strip_ + 15) / 16 * 16;
    grads_ = static_cast<A*>(scratch);
    student_ = grads_ + k_ * stride_;
    teacher_ = student_ + stride_;
  }

  int64_t bytes() const { return (k_ + 2) * stride_ * int64_t{sizeof(A)}; }

  void operator()(int64_t r, double* gram) {
    for (int64_t k = 0; k < k_; ++k) {
      const Teacher& t = p_.teachers[k];
      for (same_[k] = 0; !same_slice(p_.teachers[same_[k]], t); ++same_[k]) {}
      const A inverse_t = 1 / A(t.temperature);
      p_of_[k] = same_[k] < k ? p_of_[same_[k]]
                              : softmax(p_.student, r, t.start, t.columns, t.classes, inverse_t);
      q_of_[k] = softmax(t.logits, r, 0, nullptr, t.classes, inverse_t);
    }
    for (int64_t c = 0; c < p_.classes; c += strip_) {
      const int64_t n = p_.classes - c < strip_ ? p_.classes - c : strip_;
      for (int64_t k = 0; k < k_; ++k) gradient(r, k, c, n);
      for (int64_t i = 0; i < k_; ++i)
        for (int64_t j = 0; j <= i; ++j)
          gram[i * k_ + j] += dot(grads_ + i * stride_, grads_ + j * stride_, n);
    }
  }

 private:
  struct Normaliser {
    A shift = -kInf<A>, inverse = 0;
    bool empty() const { return shift == -kInf<A>; }
  };

  static bool same_slice(const Teacher& a, const Teacher& b) {
    return a.start == b.start && a.classes == b.classes && a.columns == b.columns &&
           a.temperature == b.temperature;
  }

  Normaliser softmax(const Logits& logits, int64_t r, int64_t start, const int64_t* columns,
                     int64_t classes, A inverse_t) const {
    A shift = -kInf<A>;
    double sum = 0;
    for (int64_t j = 0; j < classes; j += strip_) {
      const int64_t n = classes - j < strip_ ? classes - j : strip_;
      const A* x = read<A>(logits, r, start, columns, j, n, teacher_);
      const A most = maximum(x, n);
      if (most > shift || most != most) {
        if (shift != -kInf<A>) sum *= __builtin_exp(double(shift - most) * inverse_t);
        shift = most;
      }
      if (shift == -kInf<A>) continue;
      Vec<A> part{};
      for_vectors<A>(n, [&](int64_t i, auto lanes) {
        part += exp((load(x + i, lanes, -kInf<A>) - shift) * inverse_t);
      });
      sum += sum_lanes<A>(part);
    }
    return {shift, shift == -kInf<A> ? 0 : A(1 / sum)};
  }

  // Teacher k's gradient for the classes [c, c + n).
  void gradient(int64_t r, int64_t k, int64_t c, int64_t n) const {
    const Teacher& t = p_.teachers[k];
    const Normaliser p = p_of_[k], q = q_of_[k];
    A* const g = grads_ + k * stride_;
    const int64_t stop = t.start + t.classes;
    const int64_t begin = t.columns ? 0 : t.start < c ? c : t.start < c + n ? t.start : c + n;
    const int64_t end = t.columns ? t.classes : stop > c + n ? c + n : stop > begin ? stop : begin;
    const bool whole = !t.columns && begin == c && end == c + n;
    if (!whole) for (int64_t i = 0; i < n; ++i) g[i] = 0;
    if (p.empty() || q.empty()) {
      if (whole) for (int64_t i = 0; i < n; ++i) g[i] = 0;
      return;
    }
    const int64_t j = t.columns ? 0 : begin - t.start, size = end - begin;
    const A* x = read<A>(p_.student, r, t.start, t.columns, j, size, student_);
    const A* y = read<A>(t.logits, r, 0, nullptr, j, size, teacher_);
    const A temperature = A(t.temperature), inverse_t = 1 / temperature;
    const A p_scale = p.inverse * temperature, q_scale = q.inverse * temperature;
    A* const out = t.columns ? teacher_ : g + (begin - c);
    for_vectors<A>(size, [&](int64_t i, auto lanes) {
      store(out + i,
            exp((load(x + i, lanes, -kInf<A>) - p.shift) * inverse_t) * p_scale -
                exp((load(y + i, lanes, -kInf<A>) - q.shift) * inverse_t) * q_scale,
            lanes);
    });
    if (t.columns)
      for (int64_t i = 0; i < size; ++i) g[t.columns[i]] = out[i];
  }

  const GradientGram& p_;
  int64_t k_, strip_, stride_;
  A *grads_, *student_, *teacher_;
  int64_t same_[kMaxTeachers];  // the first teacher with the same slice and T
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
