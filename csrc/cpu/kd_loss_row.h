// One row of the fused loss: what is kept of it, and the order of the work.
//
// A row takes two sweeps. The first reads the logits and leaves sums; from these come the loss and,
// per teacher, a few coefficients. The second writes the gradient as one linear combination of
// exponentials, whatever the divergence. A row that fits into the cache is one block, whose
// exponentials are kept between the sweeps. A longer row is many blocks, and their exponentials are
// computed again: with SIMD that costs no more than bringing them back from memory.
#pragma once

#include "cpu/kd_loss_loops.h"
#include "cpu/kd_loss_weights.h"

namespace edufast::EDUFAST_ISA {
namespace {

constexpr int64_t kBlock = 1024;             // elements: a handful of blocks fill L1
constexpr int64_t kCachedBytes = 256 << 10;  // of exponentials kept between the sweeps, in L2

template <class A> class Rows {
 public:
  Rows(const KDLoss& problem, void* scratch)
      : p_(problem),
        traits_(traits_of(problem.divergence)),
        k_(problem.num_teachers),
        next_(static_cast<char*>(scratch)) {
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
    p_log_ratio_ = take(longest);
    q_log_ratio_ = take(longest);
    g_ = take(longest);
    gathered_ = scatters_ ? take(longest) : nullptr;
    sum_ = p_.grad_dtype == kDType<A> ? nullptr
           : scatters_                ? take_whole(p_.classes)
                                      : take(longest);
  }

  int64_t bytes() const { return reinterpret_cast<intptr_t>(next_); }

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
  // With `without_label`, p and q are over the other classes: the label is masked.
  const A* without_label(const A* x, int64_t k, int64_t j, int64_t n, A* buffer) const {
    const int64_t i = local_[k] - j;
    if (!traits_.without_label || i < 0 || i >= n) return x;
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

  bool covers_all(const Slice& s) const { return s.classes == p_.classes && !s.columns; }

  static void clear(A* x, int64_t n) {
    for (int64_t i = 0; i < n; ++i) x[i] = 0;
  }

  // --- first sweep: kd_loss_sums.h ---

  void find_labels();
  void first_sweep(int64_t k);
  static bool raise(A largest, A inverse_t, A* max, Sums<A>* sums);
  void student_softmax(int64_t k);
  int student_unit(int64_t k) const;
  void teacher_softmax(int64_t k);
  void unit_statistics(int64_t k, Sums<A> sums);
  void accumulate_student_first(int64_t k);
  void accumulate_mixture(int64_t k);

  // --- blocks of exponentials and log ratios ---

  // Exponentials of a block, once the maxima are final: kept, or computed again.
  const A* student_block(int64_t k, int64_t j, int64_t n) {
    const int64_t group = group_[k];
    if (held_[group] == j) return e_[group];
    held_[group] = j;
    if (p_of_[group].empty()) return clear(e_[group], n), e_[group];
    Sums<A> ignored;
    exponentials(student_rest(group, j, n, e_[group]), n, p_of_[group].max, slice_[group].inverse_t,
                 student_unit(group), e_[group], e_[k_], &ignored, {});
    return e_[group];
  }
  const A* teacher_block(int64_t k, int64_t j, int64_t n) {
    if (cached_) return f_[k];
    if (pair_[k].q.empty()) return clear(f_[k], n), f_[k];
    Sums<A> ignored;
    exponentials(teacher_rest(k, j, n, f_[k]), n, pair_[k].q.max, slice_[k].inverse_t, kNoUnit,
                 f_[k], f_[k], &ignored, {});
    return f_[k];
  }

  void student_log_ratios(int64_t k, int64_t j, int64_t n) {
    log_ratios(student(k, j, n, p_log_ratio_), pair_[k].p.max, teacher(k, j, n, q_log_ratio_),
               pair_[k].q.max, slice_[k].inverse_t, n, p_log_ratio_);
  }
  void teacher_log_ratios(int64_t k, int64_t j, int64_t n) {
    log_ratios(teacher_rest(k, j, n, q_log_ratio_), pair_[k].q.max, student(k, j, n, p_log_ratio_),
               pair_[k].p.max, slice_[k].inverse_t, n, q_log_ratio_);
  }
  void mixture_log_ratios(int64_t k, const A* e, const A* f, int64_t n) {
    log_ratios_to_mixture(e, pair_[k].p.inverse(), f, pair_[k].q.inverse(),
                          A(p_.divergence_params[0]), A(p_.divergence_params[1]), n, p_log_ratio_,
                          q_log_ratio_);
  }

  // --- loss and coefficients ---

  double cross_entropy() {
    if (unit_ == k_) student_softmax(k_);
    const Softmax<A>& p = p_of_[k_];
    if (p.empty()) return kInf<double>;
    A z;
    const double label = *student(k_, y_, 1, &z) - p.max, smoothing = p_.label_smoothing;
    double loss = (1 - smoothing) * (p.log_sum - label);
    if (smoothing != 0) {
      double total = 0;
      for_blocks(p_.classes, [&](int64_t c, int64_t n) {
        total += sum_centred(student(k_, c, n, z_buffer_), p.max, n);
      });
      loss += smoothing * settled(p.log_sum - total / double(p_.classes));
    }
    return loss;
  }

  double divergence_of(int64_t k, A scale) {
    const DivergenceResult<A> d = divergence(p_, pair_[k]);
    const double share = (1.0 - p_.alpha) * weight_[k], temperature = slice_[k].temperature;
    // d (T^2 D) / d logit = T dD / d (logit / T)
    const A factor = A(share * temperature) * scale;
    student_[k] = d.student.times(factor);
    teacher_[k] = d.teacher.times(factor);
    if (group_[k] == unit_) {  // one multiple of the shared exponentials for all these teachers
      shared_own_ += student_[k].own;
      student_[k].own = 0;
    }
    return share * temperature * temperature * d.value;
  }

  // --- second sweep: kd_loss_gradient.h ---

  void second_sweep(A scale);
  bool joins(int64_t k) const;
  void whole_gradient(int64_t c, int64_t n, A scale, A* g);
  void slice_gradient(int64_t k, int64_t j, int64_t n, A* g);
  void write_teacher_gradient(int64_t k, int64_t j, int64_t n);
  void scatter_gradient(int64_t k, A* g);

  const KDLoss& p_;
  const DivergenceTraits traits_;
  int64_t k_;
  Slice slice_[kMaxTeachers + 1];    // the last is all classes at T = 1, for the cross-entropy
  int64_t group_[kMaxTeachers + 1];  // the first teacher with the same slice and T
  bool cached_ = false;              // a row is one block
  bool scatters_ = false;            // some slice is an index list
  int64_t block_ = 0;

  char* next_;                                     // scratch
  A *e_[kMaxTeachers + 1], *f_[kMaxTeachers + 1];  // exponentials of student and teachers
  A* z_buffer_;                                    // the student's logits, widened
  A *p_log_ratio_, *q_log_ratio_;                  // of a block, to the divergence's partner
  A *g_, *gathered_;                               // gradients of a block
  A* sum_;                                         // the gradient before it is rounded

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

}  // namespace
}  // namespace edufast::EDUFAST_ISA
