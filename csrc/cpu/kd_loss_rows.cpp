// The row loops of the fused loss, compiled once per instruction set (cmake/cpu_isa.cmake).
//
// A row takes two sweeps. The first reads the logits and leaves sums; from these come the loss and,
// per teacher, a few coefficients. The second writes the gradient as one linear combination of
// exponentials, whatever the divergence. A row that fits into the cache is one block, whose
// exponentials are kept between the sweeps. A longer row is many blocks, and their exponentials are
// computed again: with SIMD that costs no more than bringing them back from memory.
#include "cpu/kd_loss_rows.h"

#include "cpu/kd_loss_loops.h"
#include "cpu/kd_loss_weights.h"

EDUFAST_DECLARE_ROWS(EDUFAST_ISA)

namespace edufast::EDUFAST_ISA {
namespace {

constexpr int64_t kBlock = 1024;             // elements: a handful of blocks fill L1
constexpr int64_t kCachedBytes = 256 << 10;  // of exponentials kept between the sweeps, in L2

template <class A> class Rows {
 public:
  Rows(const KDLoss& problem, void* scratch)
      : p_(problem), k_(problem.num_teachers), next_(static_cast<char*>(scratch)) {
    for (int64_t k = 0; k < k_; ++k) {
      const Teacher& t = p_.teachers[k];
      slice_[k] = {t.start, t.classes, t.columns, A(t.temperature), 1 / A(t.temperature)};
      for (group_[k] = 0; !slice_[k].same(slice_[group_[k]]); ++group_[k]) {}
      scatters_ = scatters_ || t.columns;
    }
    slice_[k_] = {0, p_.classes, nullptr, 1, 1};  // the cross-entropy's
    group_[k_] = k_;

    int64_t longest = p_.classes, logits = 0;
    for (int64_t k = 0; k <= k_; ++k) {
      logits += slice_[k].classes;
      if (slice_[k].classes > longest) longest = slice_[k].classes;
    }
    cached_ = 2 * logits * int64_t{sizeof(A)} <= kCachedBytes;
    block_ = cached_ ? longest : kBlock;
    for (int64_t k = 0; k <= k_; ++k) {
      e_[k] = group_[k] == k ? take(slice_[k].classes) : e_[group_[k]];
      f_[k] = cached_ || k == 0 ? take(cached_ ? slice_[k].classes : longest) : f_[0];
    }
    z_buffer_ = take(p_.classes);
    l_ = take(longest);
    m_ = take(longest);
    g_ = take(longest);
    gathered_ = scatters_ ? take(longest) : nullptr;
    sum_ = p_.grad_dtype == kDType<A> ? nullptr : scatters_ ? take_whole(p_.classes) : take(longest);
  }

  int64_t bytes() const { return next_ - static_cast<char*>(nullptr); }

  // Writes the gradients of row r, times `scale`; returns its loss.
  double operator()(int64_t r, A scale) {
    start_row(r);
    double loss = 0;
    if (y_ != p_.ignore_index) {
      if (p_.alpha != 1) {
        find_labels();
        initial_weights(p_, r_, local_, weight_);
        for (int64_t k = 0; k < k_; ++k)
          if (weight_[k] != 0) first_sweep(k);
        if (p_.weighting == Weighting::Entropy) entropy_weights(k_, entropy_, weight_);
        if (p_.weighting == Weighting::Confidence)
          confidence_weights(k_, local_, label_cost_, weight_);
      }
      if (p_.alpha != 0) loss += p_.alpha * cross_entropy();
      for (int64_t k = 0; k < k_; ++k)
        if (weight_[k] != 0) loss += divergence_of(k, scale);
    }
    second_sweep(scale);
    return loss;
  }

 private:
  struct Slice {
    int64_t start, classes;
    const int64_t* columns;
    A temperature, inverse_t;
    bool same(const Slice& o) const {
      return start == o.start && classes == o.classes && columns == o.columns &&
             temperature == o.temperature;
    }
  };

  A* take_whole(int64_t n) {
    A* p = reinterpret_cast<A*>(next_);
    next_ += (n * int64_t{sizeof(A)} + 63) / 64 * 64;
    return p;
  }
  A* take(int64_t n) { return take_whole(n < block_ ? n : block_); }

  template <class F> void for_blocks(int64_t n, F f) const {
    for (int64_t j = 0; j < n; j += block_) f(j, n - j < block_ ? n - j : block_);
  }

  void start_row(int64_t r) {
    r_ = r;
    y_ = p_.labels[r * p_.label_stride];
    for (int64_t k = 0; k <= k_; ++k) {
      weight_[k] = 0;
      local_[k] = -1;
      p_of_[k] = {};
      known_[k] = false;
    }
    unit_ = k_;
    shared_own_ = 0;
    z_ = cached_ ? read<A>(p_.student, r, 0, nullptr, 0, p_.classes, z_buffer_) : nullptr;
  }

  // --- logits of a block ---

  const A* student(int64_t k, int64_t j, int64_t n, A* buffer) const {
    const Slice& s = slice_[k];
    if (cached_ && !s.columns) return z_ + s.start + j;
    return read<A>(p_.student, r_, s.start, s.columns, j, n, buffer);
  }
  const A* teacher(int64_t k, int64_t j, int64_t n, A* buffer) const {
    return read<A>(p_.teachers[k].logits, r_, 0, nullptr, j, n, buffer);
  }
  // DKD compares the distributions over the other classes: the label is masked.
  const A* without_label(const A* x, int64_t k, int64_t j, int64_t n, A* buffer) const {
    const int64_t i = local_[k] - j;
    if (p_.divergence != Divergence::DKD || i < 0 || i >= n) return x;
    if (x != buffer) __builtin_memcpy(buffer, x, n * sizeof(A));
    buffer[i] = -kInf<A>;
    return buffer;
  }
  const A* student_rest(int64_t k, int64_t j, int64_t n, A* buffer) const {
    return without_label(student(k, j, n, buffer), k, j, n, buffer);
  }
  const A* teacher_rest(int64_t k, int64_t j, int64_t n, A* buffer) const {
    return without_label(teacher(k, j, n, buffer), k, j, n, buffer);
  }

  // What the next row, or the next block of a long row, will read.
  Ahead ahead(const Logits& logits, int64_t j) const {
    if (logits.col_stride != 1) return {};
    const int64_t bytes = logits.dtype == DType::F64 ? 8 : logits.dtype == DType::F32 ? 4 : 2;
    const int64_t next = r_ * logits.row_stride + j + (cached_ ? logits.row_stride : block_);
    return {static_cast<const char*>(logits.data) + next * bytes, bytes};
  }

  // --- first sweep ---

  void find_labels() {
    for (int64_t k = 0; k < k_; ++k) {
      const Slice& s = slice_[k];
      if (!s.columns) {
        const int64_t j = y_ - s.start;
        local_[k] = j >= 0 && j < s.classes ? j : -1;
        continue;
      }
      for (int64_t j = 0; j < s.classes && local_[k] < 0; ++j)
        if (s.columns[j] == y_) local_[k] = j;
    }
  }

  void first_sweep(int64_t k) {
    pair_[k] = {};
    Pair<A>& pair = pair_[k];
    student_softmax(group_[k]);
    pair.p = p_of_[group_[k]];
    teacher_softmax(k);
    if (p_.divergence == Divergence::DKD && local_[k] >= 0) {
      A z, x;
      pair.has_label = true;
      pair.u_label = pair.p.position(*student(k, local_[k], 1, &z), slice_[k].inverse_t);
      pair.v_label = pair.q.position(*teacher(k, local_[k], 1, &x), slice_[k].inverse_t);
    }
    if (pair.p.empty() || pair.q.empty()) return;
    if (p_.divergence == Divergence::ReverseKL) reverse_cross_sum(k);
    if (p_.divergence == Divergence::JS) mixture_divergences(k);
    // 0 * inf, not a NaN logit: mass, though underflown, where the other side is masked.
    if (pair.p.sum != pair.p.sum || pair.q.sum != pair.q.sum) return;
    if (pair.forward != pair.forward) pair.forward = kInf<A>;
    if (pair.reverse != pair.reverse) pair.reverse = kInf<A>;
  }

  // Raises the running maximum; false as long as every logit so far is -inf.
  static bool raise(A maximum, A inverse_t, A* shift, Sums<A>* sums) {
    if (maximum > *shift || maximum != maximum) {
      if (*shift != -kInf<A>) sums->rescale(double(maximum) - *shift, inverse_t);
      *shift = maximum;
    }
    return *shift != -kInf<A>;
  }

  // Softmax of the student over slice k, and the cross-entropy's in the same pass where slice k is
  // all classes.
  void student_softmax(int64_t k) {
    if (known_[k]) return;
    known_[k] = true;
    const Slice& s = slice_[k];
    if (unit_ == k_ && covers_all(s) && p_.divergence != Divergence::DKD) unit_ = k;
    Softmax<A>& p = p_of_[k];
    Sums<A> sums;
    held_[k] = cached_ ? 0 : -1;
    for_blocks(s.classes, [&](int64_t j, int64_t n) {
      const A* z = student_rest(k, j, n, e_[k]);
      if (!raise(maximum(z, n), s.inverse_t, &p.shift, &sums)) return clear(e_[k], n);
      exponentials(z, n, p.shift, s.inverse_t, student_unit(k), e_[k], e_[k_], &sums,
                   ahead(p_.student, s.columns ? 0 : s.start + j));
    });
    p.set_sum(A(sums.soft));
    if (k == unit_ && k != k_) {
      p_of_[k_].shift = p.shift;
      p_of_[k_].set_sum(A(sums.unit));
    }
  }
  bool covers_all(const Slice& s) const { return s.classes == p_.classes && !s.columns; }
  int student_unit(int64_t k) const {
    return k == unit_ && k != k_ && p_.alpha != 0 ? unit_method(slice_[k].temperature) : kNoUnit;
  }

  void teacher_softmax(int64_t k) {
    const Slice& s = slice_[k];
    const bool weighs = p_.weighting == Weighting::Entropy || p_.weighting == Weighting::Confidence;
    const int unit = weighs ? unit_method(s.temperature) : kNoUnit;
    Pair<A>& pair = pair_[k];
    Sums<A> sums;
    for_blocks(s.classes, [&](int64_t j, int64_t n) {
      const A* t = teacher_rest(k, j, n, f_[k]);
      if (!raise(maximum(t, n), s.inverse_t, &pair.q.shift, &sums)) return clear(f_[k], n);
      exponentials_against(t, n, pair.q.shift, s.inverse_t, unit, f_[k], student(k, j, n, l_),
                           pair.p.shift, &sums, ahead(p_.teachers[k].logits, j));
    });
    pair.q.set_sum(A(sums.soft));
    pair.forward = A(sums.cross);
    if (weighs) unit_statistics(k, sums);
  }

  // Entropy of the teacher and its cross-entropy with the label, at T = 1.
  void unit_statistics(int64_t k, Sums<A> sums) {
    A shift = pair_[k].q.shift, label = -kInf<A>;
    if (local_[k] >= 0) label = *teacher(k, local_[k], 1, &label);
    if (p_.divergence == Divergence::DKD && label != -kInf<A>) {  // which the sums leave out
      raise(label, 1, &shift, &sums);
      const A e = scalar_exp(label - shift);
      sums.unit += e;
      sums.unit_weighted += e * (label - shift);
    }
    const double log_sum = __builtin_log(sums.unit);
    const bool empty = shift == -kInf<A>;
    entropy_[k] = empty ? 0 : log_sum - sums.unit_weighted / sums.unit;
    label_cost_[k] = empty ? kInf<double> : log_sum - (double(label) - shift);
  }

  void reverse_cross_sum(int64_t k) {
    double sum = 0;
    for_blocks(slice_[k].classes, [&](int64_t j, int64_t n) {
      const A* e = student_block(k, j, n);
      student_log_ratio(k, j, n);
      sum += dot(e, l_, n);
    });
    pair_[k].reverse = A(sum);
  }

  void mixture_divergences(int64_t k) {
    double p_to_m = 0, q_to_m = 0;
    for_blocks(slice_[k].classes, [&](int64_t j, int64_t n) {
      const A *e = student_block(k, j, n), *f = teacher_block(k, j, n);
      mixture_log_ratios(k, e, f, n);
      p_to_m += dot(e, l_, n);
      q_to_m += dot(f, m_, n);
    });
    pair_[k].p_to_m = A(p_to_m) * pair_[k].p.inverse();
    pair_[k].q_to_m = A(q_to_m) * pair_[k].q.inverse();
  }

  // Exponentials of a block, once the shifts are final: kept, or computed again.
  const A* student_block(int64_t k, int64_t j, int64_t n) {
    const int64_t group = group_[k];
    if (held_[group] == j) return e_[group];
    held_[group] = j;
    if (p_of_[group].empty()) return clear(e_[group], n), e_[group];
    Sums<A> ignored;
    exponentials(student_rest(group, j, n, e_[group]), n, p_of_[group].shift,
                         slice_[group].inverse_t, student_unit(group), e_[group], e_[k_], &ignored, {});
    return e_[group];
  }
  const A* teacher_block(int64_t k, int64_t j, int64_t n) {
    if (cached_) return f_[k];
    if (pair_[k].q.empty()) return clear(f_[k], n), f_[k];
    Sums<A> ignored;
    exponentials(teacher_rest(k, j, n, f_[k]), n, pair_[k].q.shift, slice_[k].inverse_t, kNoUnit,
                 f_[k], f_[k], &ignored, {});
    return f_[k];
  }

  void student_log_ratio(int64_t k, int64_t j, int64_t n) {
    log_ratio(student(k, j, n, l_), pair_[k].p.shift, teacher(k, j, n, m_), pair_[k].q.shift,
              slice_[k].inverse_t, n, l_);
  }
  void teacher_log_ratio(int64_t k, int64_t j, int64_t n) {
    log_ratio(teacher_rest(k, j, n, m_), pair_[k].q.shift, student(k, j, n, l_), pair_[k].p.shift,
              slice_[k].inverse_t, n, m_);
  }
  void mixture_log_ratios(int64_t k, const A* e, const A* f, int64_t n) {
    log_mixture(e, pair_[k].p.inverse(), f, pair_[k].q.inverse(), A(p_.divergence_params[0]), n,
                l_, m_);
  }

  // --- loss and coefficients ---

  double cross_entropy() {
    if (unit_ == k_) student_softmax(k_);
    const Softmax<A>& p = p_of_[k_];
    if (p.empty()) return kInf<double>;
    A z;
    const double label = *student(k_, y_, 1, &z) - p.shift, smoothing = p_.label_smoothing;
    double loss = (1 - smoothing) * (p.log_sum - label);
    if (smoothing != 0) {
      double total = 0;
      for_blocks(p_.classes, [&](int64_t c, int64_t n) {
        total += sum_centred(student(k_, c, n, z_buffer_), p.shift, n);
      });
      loss += smoothing * (p.log_sum - total / double(p_.classes));
    }
    return loss;
  }

  double divergence_of(int64_t k, A scale) {
    const Divergences<A> d = divergence(p_, pair_[k]);
    const double weight = (1.0 - p_.alpha) * weight_[k] * slice_[k].temperature;
    student_[k] = d.student.times(A(weight) * scale);
    teacher_[k] = d.teacher.times(A(weight) * scale);
    if (group_[k] == unit_) {  // one multiple of the shared exponentials for all these teachers
      shared_own_ += student_[k].own;
      student_[k].own = 0;
    }
    return weight * slice_[k].temperature * d.value;
  }

  // --- second sweep ---

  void second_sweep(A scale) {
    const int64_t classes = p_.classes;
    A* row = static_cast<A*>(p_.grad) + r_ * classes;  // where grad has the type of the sums
    for_blocks(classes, [&](int64_t c, int64_t n) {
      A* g = !sum_ ? row + c : scatters_ ? sum_ + c : sum_;
      whole_gradient(c, n, scale, g);
      for (int64_t k = 0; k < k_; ++k) {
        const Slice& s = slice_[k];
        if (s.columns) continue;
        const int64_t stop = s.start + s.classes;
        const int64_t begin = c > s.start ? c : s.start, end = c + n < stop ? c + n : stop;
        if (begin < end) slice_gradient(k, begin - s.start, end - begin, g + (begin - c));
      }
      if (sum_ && !scatters_) write(sum_, n, p_.grad_dtype, p_.grad, r_ * classes + c);
    });
    if (!scatters_) return;
    for (int64_t k = 0; k < k_; ++k)
      if (slice_[k].columns) scatter_gradient(k, sum_ ? sum_ : row);
    if (sum_) write(sum_, classes, p_.grad_dtype, p_.grad, r_ * classes);
  }

  // Sets g to the gradient of the cross-entropy, with what teachers of all classes share.
  void whole_gradient(int64_t c, int64_t n, A scale, A* g) {
    const bool counts = p_.alpha != 0 && y_ != p_.ignore_index && !p_of_[k_].empty();
    if (!counts && unit_ == k_) return clear(g, n);
    const A weight = counts ? A(p_.alpha) * scale : 0, smoothing = p_.label_smoothing;
    const A *e = student_block(unit_, c, n), *e1 = counts ? e_[k_] : e;
    begin_gradient(shared_own_, e, counts ? weight * p_of_[k_].inverse() : 0, e1,
                   weight * smoothing / A(p_.classes), n, g, cached_ && !sum_ ? p_.classes : 0);
    if (y_ >= c && y_ < c + n) g[y_ - c] -= weight * (1 - smoothing);
  }

  // Adds the gradient of teacher k's columns [j, j + n) to g and writes the teacher's own.
  void slice_gradient(int64_t k, int64_t j, int64_t n, A* g) {
    void* const own_grad = p_.teachers[k].grad;
    if (weight_[k] == 0) {
      if (own_grad) clear(g_, n), write_teacher_gradient(k, j, n);
      return;
    }
    const Coefficients<A>&s = student_[k], &t = teacher_[k];
    const bool js = p_.divergence == Divergence::JS;
    const bool needs_e = s.own != 0 || s.log != 0 || own_grad;
    const A *e = needs_e ? student_block(k, j, n) : nullptr, *f = teacher_block(k, j, n);
    if (js && needs_e) mixture_log_ratios(k, e, f, n);
    else if (s.log != 0) student_log_ratio(k, j, n);
    accumulate(s, e, f, l_, n, g);
    const int64_t label = local_[k] - j;
    const bool has_label = label >= 0 && label < n;
    if (has_label) g[label] += s.label;
    if (!own_grad) return;
    if (!js && t.log != 0) teacher_log_ratio(k, j, n);
    clear(g_, n);
    accumulate(t, f, e, m_, n, g_);
    if (has_label) g_[label] += t.label;
    write_teacher_gradient(k, j, n);
  }

  static void clear(A* x, int64_t n) {
    for (int64_t i = 0; i < n; ++i) x[i] = 0;
  }

  void write_teacher_gradient(int64_t k, int64_t j, int64_t n) {
    const Teacher& t = p_.teachers[k];
    const DType dtype = t.logits.dtype == DType::F16 ? DType::F32 : t.logits.dtype;
    write(g_, n, dtype, t.grad, r_ * t.classes + j);
  }

  void scatter_gradient(int64_t k, A* g) {
    for_blocks(slice_[k].classes, [&](int64_t j, int64_t n) {
      clear(gathered_, n);
      slice_gradient(k, j, n, gathered_);
      for (int64_t i = 0; i < n; ++i) g[slice_[k].columns[j + i]] += gathered_[i];
    });
  }

  const KDLoss& p_;
  int64_t k_;
  Slice slice_[kMaxTeachers + 1];      // the last is all classes at T = 1, for the cross-entropy
  int64_t group_[kMaxTeachers + 1];    // the first teacher with the same slice and T
  bool cached_ = false;                // a row is one block
  bool scatters_ = false;              // some slice is an index list
  int64_t block_ = 0;

  char* next_;                         // scratch
  A *e_[kMaxTeachers + 1], *f_[kMaxTeachers + 1];  // exponentials of student and teachers
  A* z_buffer_;                        // the student's logits, widened
  A *l_, *m_, *g_, *gathered_;         // log ratios and gradients of a block
  A* sum_;                             // the gradient before it is rounded

  int64_t r_, y_;                      // the row and its label
  const A* z_;                         // its student logits, if cached_
  Softmax<A> p_of_[kMaxTeachers + 1];  // of the student, by group
  bool known_[kMaxTeachers + 1];       // p_of_ is computed
  int64_t held_[kMaxTeachers + 1];     // the block that e_ holds, or -1
  int64_t unit_;                       // the group that serves the cross-entropy, too
  A shared_own_;                       // sum of its teachers' coefficients
  int64_t local_[kMaxTeachers + 1];    // column of the label, or -1
  A weight_[kMaxTeachers + 1];
  double entropy_[kMaxTeachers], label_cost_[kMaxTeachers];  // teachers' at T = 1
  Pair<A> pair_[kMaxTeachers];
  Coefficients<A> student_[kMaxTeachers], teacher_[kMaxTeachers];
};

template <class A>
void run(const KDLoss& problem, int64_t begin, int64_t end, double scale, double* row_loss,
         void* scratch) {
  Rows<A> rows(problem, scratch);
  for (int64_t r = begin; r < end; ++r) row_loss[r] = rows(r, A(scale));
}

}  // namespace

int64_t kd_loss_scratch(const KDLoss& problem) {
  return problem.student.dtype == DType::F64 ? Rows<double>(problem, nullptr).bytes()
                                             : Rows<float>(problem, nullptr).bytes();
}

void kd_loss_rows(const KDLoss& problem, int64_t begin, int64_t end, double scale,
                  double* row_loss, void* scratch) {
  (problem.student.dtype == DType::F64 ? run<double> : run<float>)(problem, begin, end, scale,
                                                                   row_loss, scratch);
}

}  // namespace edufast::EDUFAST_ISA
