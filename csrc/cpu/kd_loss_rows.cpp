// The row loops of the fused loss, compiled once per instruction set (cmake/cpu_isa.cmake).
//
// A row takes two sweeps. The first reads the logits and leaves sums (maxima, sums of exponentials,
// cross terms); from these come the loss and, per teacher, a few coefficients. The second writes
// the gradient as one linear combination of exponentials, whatever the divergence. A row that fits
// into the cache keeps its exponentials between the sweeps; a longer one is taken in blocks, whose
// exponentials are computed again: with SIMD that costs less than bringing them back from memory.
#include "kd_loss_rows.h"

#include "kd_loss_divergences.h"

EDUFAST_DECLARE_ROWS(EDUFAST_ISA)

namespace edufast::EDUFAST_ISA {
namespace {

constexpr int64_t kBlock = 1024;             // elements: a handful of blocks fill L1
constexpr int64_t kCachedBytes = 512 << 10;  // of exponentials kept between the sweeps, in L2

template <class A> constexpr DType kDType = sizeof(A) == 4 ? DType::F32 : DType::F64;

int64_t padded(int64_t n) { return (n + 15) / 16 * 16; }

// --- loops over one block -----------------------------------------------------------------------

template <class A> A maximum(const A* x, int64_t n) {
  Vec<A> best = splat(-kInf<A>), more[3] = {best, best, best};
  int64_t i = 0;
  for (; i + 4 * kLanes<A> <= n; i += 4 * kLanes<A>) {  // four chains hide the latency
    const Vec<A> x0 = load(x + i, Whole{});
    best = x0 > best ? x0 : best;
    for (int j = 0; j < 3; ++j) {
      const Vec<A> xj = load(x + i + (j + 1) * kLanes<A>, Whole{});
      more[j] = xj > more[j] ? xj : more[j];
    }
  }
  for (int j = 0; j < 3; ++j) best = more[j] > best ? more[j] : best;
  for_vectors<A>(n - i, [&](int64_t j, auto lanes) {
    const Vec<A> xj = load(x + i + j, lanes, -kInf<A>);
    best = xj > best ? xj : best;
  });
  const A result = max_lanes<A>(best);
  // Comparisons skip NaN. One among finite numbers spoils the sums; one among -inf is found here.
  if (result == -kInf<A>)
    for (i = 0; i < n; ++i)
      if (x[i] != x[i]) return x[i];
  return result;
}

// e = exp((x - shift) * inverse_t), in place if e == x; returns the sum.
template <class A> A exponentials(const A* x, int64_t n, A shift, A inverse_t, A* e) {
  Vec<A> sum{};
  for_vectors<A>(n, [&](int64_t i, auto lanes) {
    const Vec<A> y = exp((load(x + i, lanes, -kInf<A>) - shift) * inverse_t);
    store<A>(e + i, y, lanes);
    sum += y;
  });
  return sum_lanes<A>(sum);
}

// The same, and adds sum e (v - u) to `cross`, where u = (z - z_shift) * inverse_t.
template <class A>
A exponentials(const A* x, int64_t n, A shift, A inverse_t, A* e, const A* z, A z_shift, A* cross) {
  Vec<A> sum{}, ratios{};
  for_vectors<A>(n, [&](int64_t i, auto lanes) {
    const Vec<A> v = (load(x + i, lanes, -kInf<A>) - shift) * inverse_t;
    const Vec<A> u = (load(z + i, lanes) - z_shift) * inverse_t;
    const Vec<A> y = exp(v);
    store<A>(e + i, y, lanes);
    sum += y;
    ratios += v == -kInf<A> ? Vec<A>{} : y * (v - u);
  });
  *cross += sum_lanes<A>(ratios);
  return sum_lanes<A>(sum);
}

// sum e and sum e x with e = exp(x - shift): the statistics at T = 1.
template <class A> void unit_sums(const A* x, int64_t n, A shift, A* sum, A* weighted) {
  Vec<A> s{}, w{};
  for_vectors<A>(n, [&](int64_t i, auto lanes) {
    const Vec<A> v = load(x + i, lanes, -kInf<A>) - shift;
    const Vec<A> e = exp(v);
    s += e;
    w += v == -kInf<A> ? Vec<A>{} : e * v;
  });
  *sum += sum_lanes<A>(s);
  *weighted += sum_lanes<A>(w);
}

// l = v - u, 0 where v = -inf: there the exponential that l multiplies is 0.
template <class A>
void log_ratio(const A* x, A shift, const A* y, A y_shift, A inverse_t, int64_t n, A* l) {
  for_vectors<A>(n, [&](int64_t i, auto lanes) {
    const Vec<A> v = (load(x + i, lanes) - shift) * inverse_t;
    const Vec<A> u = (load(y + i, lanes) - y_shift) * inverse_t;
    store<A>(l + i, v == -kInf<A> ? Vec<A>{} : v - u, lanes);
  });
}

template <class A> A dot(const A* x, const A* y, int64_t n) {
  Vec<A> sum{};
  for_vectors<A>(n, [&](int64_t i, auto lanes) {
    sum += load(x + i, lanes) * load(y + i, lanes);
  });
  return sum_lanes<A>(sum);
}

// l = log(p / m), r = log(q / m), m = beta q + (1 - beta) p; 0 where the probability is.
template <class A>
void log_mixture(const A* e, A p_scale, const A* f, A q_scale, A beta, int64_t n, A* l, A* r) {
  for_vectors<A>(n, [&](int64_t i, auto lanes) {
    const Vec<A> p = load(e + i, lanes) * p_scale, q = load(f + i, lanes) * q_scale;
    const Vec<A> m = beta * q + (1 - beta) * p;
    store<A>(l + i, p > 0 ? log(p / m) : Vec<A>{}, lanes);
    store<A>(r + i, q > 0 ? log(q / m) : Vec<A>{}, lanes);
  });
}

// The loop every divergence's gradient comes from: g += e (own + log l) + f other.
template <class A>
void accumulate(const Coefficients<A>& c, const A* e, const A* f, const A* l, int64_t n, A* g) {
  if (c.log != 0) {
    for_vectors<A>(n, [&](int64_t i, auto lanes) {
      const Vec<A> own = c.own + c.log * load(l + i, lanes);
      store<A>(g + i, load(g + i, lanes) + load(e + i, lanes) * own + load(f + i, lanes) * c.other,
               lanes);
    });
  } else {
    for_vectors<A>(n, [&](int64_t i, auto lanes) {
      store<A>(g + i, load(g + i, lanes) + load(e + i, lanes) * c.own +
                          load(f + i, lanes) * c.other, lanes);
    });
  }
}

// --- reading and writing ------------------------------------------------------------------------

// Columns [j, j + n) of a slice of one row: in place where the memory is what the loops read, else
// widened (and gathered) into `buffer`.
template <class A>
const A* read(const Logits& logits, int64_t row, int64_t start, const int64_t* columns, int64_t j,
              int64_t n, A* buffer) {
  const int64_t stride = logits.col_stride;
  if (!columns && stride == 1 && logits.dtype == kDType<A>)
    return static_cast<const A*>(logits.data) + row * logits.row_stride + start + j;
  with_dtype(logits.dtype, [&](auto* type) {
    const auto* x = static_cast<decltype(type)>(const_cast<void*>(logits.data)) +
                    row * logits.row_stride;
    if (columns) {
      for (int64_t i = 0; i < n; ++i) buffer[i] = A(widen(x[columns[j + i] * stride]));
    } else if (stride == 1) {
      for (int64_t i = 0; i < n; ++i) buffer[i] = A(widen(x[start + j + i]));
    } else {
      for (int64_t i = 0; i < n; ++i) buffer[i] = A(widen(x[(start + j + i) * stride]));
    }
  });
  return buffer;
}

template <class A> void write(const A* x, int64_t n, DType dtype, void* y, int64_t offset) {
  with_dtype(dtype, [&](auto* type) {
    auto* out = static_cast<decltype(type)>(y) + offset;
    for (int64_t i = 0; i < n; ++i) narrow(x[i], out + i);
  });
}
// --- one row ------------------------------------------------------------------------------------

template <class A> class Rows {
 public:
  Rows(const KDLoss& problem, void* scratch)
      : p_(problem), k_(problem.num_teachers), next_(static_cast<char*>(scratch)) {
    int64_t values = 2 * padded(p_.classes);
    for (int64_t k = 0; k < k_; ++k) values += 2 * padded(p_.teachers[k].classes);
    cached_ = values * int64_t{sizeof(A)} <= kCachedBytes;
    z_buffer_ = take(p_.classes);
    unit_ = take(p_.classes);
    for (int64_t k = 0; k < k_; ++k) {
      const Teacher& t = p_.teachers[k];
      scatters_ = scatters_ || t.columns;
      for (group_[k] = 0; !same_slice(t, p_.teachers[group_[k]]); ++group_[k]) {}
      e_[k] = group_[k] == k ? take(t.classes) : e_[group_[k]];
      f_[k] = cached_ || k == 0 ? take(t.classes) : f_[0];
    }
    l_ = take_all(kBlock);
    m_ = take_all(kBlock);
    g_ = take_all(kBlock);
    gathered_ = take_all(kBlock);
    sum_ = p_.grad_dtype == kDType<A> ? nullptr : take_all(scatters_ ? p_.classes : kBlock);
  }

  int64_t bytes() const { return next_ - static_cast<char*>(nullptr); }

  // Writes the gradients of row r, times `scale`; returns its loss.
  double operator()(int64_t r, A scale) {
    r_ = r;
    y_ = p_.labels[r * p_.label_stride];
    ce_ = {};
    for (int64_t k = 0; k < k_; ++k) weight_[k] = 0;
    if (y_ == p_.ignore_index) {
      second_sweep(0);
      return 0;
    }
    if (cached_) z_ = read<A>(p_.student, r, 0, nullptr, 0, p_.classes, z_buffer_);
    double loss = p_.alpha != 0 ? p_.alpha * cross_entropy() : 0;
    if (p_.alpha != 1) {
      find_labels();
      choose_weights();
      for (int64_t k = 0; k < k_; ++k) known_[k] = false;
      for (int64_t k = 0; k < k_; ++k)
        if (weight_[k] != 0) first_sweep(k);
      if (p_.weighting == Weighting::Entropy) entropy_weights();
      if (p_.weighting == Weighting::Confidence) confidence_weights();
      for (int64_t k = 0; k < k_; ++k)
        if (weight_[k] != 0) loss += divergence_of(k, scale);
    }
    second_sweep(scale);
    return loss;
  }

 private:
  static bool same_slice(const Teacher& a, const Teacher& b) {
    return a.start == b.start && a.classes == b.classes && a.columns == b.columns &&
           a.temperature == b.temperature;
  }

  // Scratch for a row of n elements: all of it if the row is cached, else a block.
  A* take(int64_t n) { return take_all(cached_ || n < kBlock ? n : kBlock); }
  A* take_all(int64_t n) {
    A* p = reinterpret_cast<A*>(next_);
    next_ += padded(n) * int64_t{sizeof(A)};
    return p;
  }
  A* at(A* buffer, int64_t j) const { return cached_ ? buffer + j : buffer; }

  template <class F> static void for_blocks(int64_t n, F f) {
    for (int64_t j = 0; j < n; j += kBlock) f(j, n - j < kBlock ? n - j : kBlock);
  }

  // --- logits of a block; DKD masks the label ---

  const A* student_row(int64_t c, int64_t n) {
    return cached_ ? z_ + c : read<A>(p_.student, r_, 0, nullptr, c, n, z_buffer_);
  }
  const A* student(int64_t k, int64_t j, int64_t n, A* buffer) {
    const Teacher& t = p_.teachers[k];
    if (cached_ && !t.columns) return z_ + t.start + j;
    return read<A>(p_.student, r_, t.start, t.columns, j, n, buffer);
  }
  const A* teacher(int64_t k, int64_t j, int64_t n, A* buffer) {
    return read<A>(p_.teachers[k].logits, r_, 0, nullptr, j, n, buffer);
  }
  const A* masked(const A* x, int64_t k, int64_t j, int64_t n, A* buffer) {
    const int64_t i = local_[k] - j;
    if (p_.divergence != Divergence::DKD || i < 0 || i >= n) return x;
    if (x != buffer) __builtin_memcpy(buffer, x, n * sizeof(A));
    buffer[i] = -kInf<A>;
    return buffer;
  }

  // --- first sweep ---

  double cross_entropy() {
    const int64_t classes = p_.classes;
    for_blocks(classes, [&](int64_t c, int64_t n) {
      ce_.shift = larger(ce_.shift, maximum(student_row(c, n), n));
    });
    if (ce_.empty()) return kInf<double>;
    double sum = 0, total = 0;
    for_blocks(classes, [&](int64_t c, int64_t n) {
      const A* z = student_row(c, n);
      sum += exponentials(z, n, ce_.shift, A(1), at(unit_, c));
      if (p_.label_smoothing != 0)
        for (int64_t i = 0; i < n; ++i) total += z[i] - ce_.shift;
    });
    ce_.sum = A(sum);
    ce_.log_sum = A(__builtin_log(sum));
    A label;
    label = *read<A>(p_.student, r_, 0, nullptr, y_, 1, &label);
    const double smoothing = p_.label_smoothing;
    double loss = (1 - smoothing) * (ce_.log_sum - (label - ce_.shift));
    if (smoothing != 0) loss += smoothing * (ce_.log_sum - total / classes);
    return loss;
  }

  static A larger(A a, A b) { return a != a || a > b ? a : b; }

  void first_sweep(int64_t k) {
    Pair<A>& pair = pair_[k];
    pair = {};
    const int64_t group = group_[k];
    if (!known_[group]) p_of_[group] = student_softmax(k);
    known_[group] = true;
    pair.p = p_of_[group];
    teacher_softmax(k);
    if (p_.weighting == Weighting::Entropy || p_.weighting == Weighting::Confidence)
      unit_statistics(k);
    if (p_.divergence == Divergence::DKD && local_[k] >= 0) {
      A z, x;
      pair.has_label = true;
      pair.u_label = pair.p.position(*student(k, local_[k], 1, &z), inverse_t(k));
      pair.v_label = pair.q.position(*teacher(k, local_[k], 1, &x), inverse_t(k));
    }
    if (pair.p.empty() || pair.q.empty()) return;
    if (p_.divergence == Divergence::ReverseKL) pair.reverse = reverse_cross_term(k);
    if (p_.divergence == Divergence::JS) mixture_divergences(k);
    // 0 * inf, not a NaN logit: mass, though underflown, where the other side is masked.
    if (pair.p.sum != pair.p.sum || pair.q.sum != pair.q.sum) return;
    if (pair.forward != pair.forward) pair.forward = kInf<A>;
    if (pair.reverse != pair.reverse) pair.reverse = kInf<A>;
  }

  A inverse_t(int64_t k) const { return 1 / A(p_.teachers[k].temperature); }

  Softmax<A> student_softmax(int64_t k) {
    Softmax<A> p;
    for_blocks(p_.teachers[k].classes, [&](int64_t j, int64_t n) {
      A* e = at(e_[k], j);
      p.shift = larger(p.shift, maximum(masked(student(k, j, n, e), k, j, n, e), n));
    });
    if (p.empty()) return p;
    double sum = 0;
    for_blocks(p_.teachers[k].classes, [&](int64_t j, int64_t n) {
      A* e = at(e_[k], j);
      sum += exponentials(masked(student(k, j, n, e), k, j, n, e), n, p.shift, inverse_t(k), e);
    });
    p.sum = A(sum);
    p.log_sum = scalar_log(p.sum);
    return p;
  }

  void teacher_softmax(int64_t k) {
    Pair<A>& pair = pair_[k];
    Softmax<A>& q = pair.q;
    for_blocks(p_.teachers[k].classes, [&](int64_t j, int64_t n) {
      A* f = at(f_[k], j);
      q.shift = larger(q.shift, maximum(masked(teacher(k, j, n, f), k, j, n, f), n));
    });
    if (q.empty()) return;
    double sum = 0, cross = 0;
    for_blocks(p_.teachers[k].classes, [&](int64_t j, int64_t n) {
      A* f = at(f_[k], j);
      const A* x = masked(teacher(k, j, n, f), k, j, n, f);
      A ratio = 0;
      sum += exponentials(x, n, q.shift, inverse_t(k), f, student(k, j, n, l_), pair.p.shift,
                          &ratio);
      cross += ratio;
    });
    q.sum = A(sum);
    q.log_sum = scalar_log(q.sum);
    pair.forward = A(cross);
  }

  A reverse_cross_term(int64_t k) {
    double cross = 0;
    for_blocks(p_.teachers[k].classes, [&](int64_t j, int64_t n) {
      const A* e = student_exponentials(k, j, n);
      student_log_ratio(k, j, n);
      cross += dot(e, l_, n);
    });
    return A(cross);
  }
  void student_log_ratio(int64_t k, int64_t j, int64_t n) {
    log_ratio(student(k, j, n, l_), pair_[k].p.shift, teacher(k, j, n, m_), pair_[k].q.shift,
              inverse_t(k), n, l_);
  }
  void teacher_log_ratio(int64_t k, int64_t j, int64_t n) {
    log_ratio(masked(teacher(k, j, n, m_), k, j, n, m_), pair_[k].q.shift, student(k, j, n, l_),
              pair_[k].p.shift, inverse_t(k), n, m_);
  }

  void mixture_divergences(int64_t k) {
    double p_to_m = 0, q_to_m = 0;
    for_blocks(p_.teachers[k].classes, [&](int64_t j, int64_t n) {
      const A* e = student_exponentials(k, j, n);
      const A* f = teacher_exponentials(k, j, n);
      mixture_log_ratios(k, e, f, n);
      p_to_m += dot(e, l_, n);
      q_to_m += dot(f, m_, n);
    });
    pair_[k].p_to_m = A(p_to_m) * pair_[k].p.inverse();
    pair_[k].q_to_m = A(q_to_m) * pair_[k].q.inverse();
  }
  void mixture_log_ratios(int64_t k, const A* e, const A* f, int64_t n) {
    log_mixture(e, pair_[k].p.inverse(), f, pair_[k].q.inverse(), A(p_.divergence_params[0]), n,
                l_, m_);
  }

  // Entropy of the teacher and its cross-entropy with the label, at T = 1.
  void unit_statistics(int64_t k) {
    A label = -kInf<A>;
    if (local_[k] >= 0) label = *teacher(k, local_[k], 1, &label);
    const A shift = larger(pair_[k].q.shift, label);  // DKD has masked the label
    entropy_[k] = 0;
    label_cost_[k] = kInf<A>;
    if (shift == -kInf<A>) return;
    double sum = 0, weighted = 0;
    for_blocks(p_.teachers[k].classes, [&](int64_t j, int64_t n) {
      A s = 0, w = 0;
      unit_sums(teacher(k, j, n, m_), n, shift, &s, &w);
      sum += s;
      weighted += w;
    });
    const double log_sum = __builtin_log(sum);
    entropy_[k] = A(log_sum - weighted / sum);
    label_cost_[k] = A(log_sum - (label - shift));
  }

  const A* student_exponentials(int64_t k, int64_t j, int64_t n) {
    if (cached_) return e_[k] + j;
    const A* z = masked(student(k, j, n, e_[k]), k, j, n, e_[k]);
    exponentials(z, n, p_of_[group_[k]].shift, 1 / A(p_.teachers[k].temperature), e_[k]);
    return e_[k];
  }
  const A* teacher_exponentials(int64_t k, int64_t j, int64_t n) {
    if (cached_) return f_[k] + j;
    const A* x = masked(teacher(k, j, n, f_[k]), k, j, n, f_[k]);
    exponentials(x, n, pair_[k].q.shift, 1 / A(p_.teachers[k].temperature), f_[k]);
    return f_[k];
  }

  // --- weights ---

  void find_labels() {
    for (int64_t k = 0; k < k_; ++k) {
      const Teacher& t = p_.teachers[k];
      if (!t.columns) {
        const int64_t j = y_ - t.start;
        local_[k] = j >= 0 && j < t.classes ? j : -1;
        continue;
      }
      local_[k] = -1;
      for (int64_t j = 0; j < t.classes && local_[k] < 0; ++j)
        if (t.columns[j] == y_) local_[k] = j;
    }
  }

  // The weights that need no teacher; for the others: which teachers take part.
  void choose_weights() {
    int64_t owners = 0;
    for (int64_t k = 0; k < k_; ++k) owners += local_[k] >= 0;
    for (int64_t k = 0; k < k_; ++k) {
      switch (p_.weighting) {
        case Weighting::Given:
          weight_[k] = p_.weights[r_ * p_.weight_row_stride + k * p_.weight_col_stride];
          break;
        case Weighting::Mean: weight_[k] = A(1) / A(k_); break;
        case Weighting::Entropy: weight_[k] = 1; break;
        case Weighting::Routed: weight_[k] = local_[k] >= 0 ? A(1) / A(owners) : 0; break;
        case Weighting::Confidence: weight_[k] = local_[k] >= 0; break;
      }
    }
  }

  void entropy_weights() {
    if (k_ == 1) return;
    A total = 0;
    for (int64_t k = 0; k < k_; ++k) total += entropy_[k];
    for (int64_t k = 0; k < k_; ++k) {
      const A share = total == 0 ? A(1) / A(k_) : entropy_[k] / total;
      weight_[k] = (1 - share) / A(k_ - 1);
    }
  }

  void confidence_weights() {
    constexpr A kLargest = A(1e30);  // a label the teacher masks costs no more: inf - inf is NaN
    A total = 0;
    int64_t owners = 0;
    for (int64_t k = 0; k < k_; ++k) {
      if (weight_[k] == 0) continue;
      ++owners;
      if (label_cost_[k] > kLargest) label_cost_[k] = kLargest;
    }
    if (owners < 2) return;
    // softmax of the costs; the teacher with the largest cost gets the largest share.
    A most = -kInf<A>;
    for (int64_t k = 0; k < k_; ++k)
      if (weight_[k] != 0) most = larger(most, label_cost_[k]);
    for (int64_t k = 0; k < k_; ++k)
      if (weight_[k] != 0) total += weight_[k] = scalar_exp(label_cost_[k] - most);
    for (int64_t k = 0; k < k_; ++k)
      if (local_[k] >= 0) weight_[k] = (1 - weight_[k] / total) / A(owners - 1);
  }

  // --- loss and coefficients ---

  double divergence_of(int64_t k, A scale) {
    const Divergences<A> d = divergence(p_, pair_[k]);
    const double weight = (1.0 - p_.alpha) * double(weight_[k]) * p_.teachers[k].temperature;
    student_[k] = d.student.times(A(weight) * scale);
    teacher_[k] = d.teacher.times(A(weight) * scale);
    return weight * p_.teachers[k].temperature * d.value;
  }

  // --- second sweep ---

  void second_sweep(A scale) {
    const int64_t classes = p_.classes;
    A* row = static_cast<A*>(p_.grad) + r_ * classes;  // where grad has the type of the sums
    for_blocks(classes, [&](int64_t c, int64_t n) {
      A* g = sum_ ? scatters_ ? sum_ + c : sum_ : row + c;
      cross_entropy_gradient(c, n, scale, g);
      for (int64_t k = 0; k < k_; ++k) {
        const Teacher& t = p_.teachers[k];
        if (t.columns) continue;
        const int64_t begin = c > t.start ? c : t.start;
        const int64_t stop = t.start + t.classes, end = c + n < stop ? c + n : stop;
        if (begin < end) slice_gradient(k, begin - t.start, end - begin, g + (begin - c));
      }
      if (sum_ && !scatters_) write(sum_, n, p_.grad_dtype, p_.grad, r_ * classes + c);
    });
    if (!scatters_) return;
    A* g = sum_ ? sum_ : row;
    for (int64_t k = 0; k < k_; ++k)
      if (p_.teachers[k].columns) scattered_gradient(k, g);
    if (sum_) write(sum_, classes, p_.grad_dtype, p_.grad, r_ * classes);
  }

  void cross_entropy_gradient(int64_t c, int64_t n, A scale, A* g) {
    if (ce_.empty()) {
      for (int64_t i = 0; i < n; ++i) g[i] = 0;
      return;
    }
    A* e = at(unit_, c);
    if (!cached_) exponentials(student_row(c, n), n, ce_.shift, A(1), e);
    const A smoothing = p_.label_smoothing, weight = A(p_.alpha) * scale;
    const A own = weight * ce_.inverse(), constant = weight * smoothing / A(p_.classes);
    for (int64_t i = 0; i < n; ++i) g[i] = own * e[i] - constant;
    if (y_ >= c && y_ < c + n) g[y_ - c] -= weight * (1 - smoothing);
  }

  // Adds the gradient of teacher k's columns [j, j + n) to g and writes the teacher's own.
  void slice_gradient(int64_t k, int64_t j, int64_t n, A* g) {
    const Teacher& t = p_.teachers[k];
    const Coefficients<A>&s = student_[k], &own = teacher_[k];
    if (weight_[k] == 0) {
      if (!t.grad) return;
      for (int64_t i = 0; i < n; ++i) g_[i] = 0;
      return write_teacher_gradient(k, j, n);
    }
    const A* e = student_exponentials(k, j, n);
    const A* f = teacher_exponentials(k, j, n);
    if (p_.divergence == Divergence::JS)
      mixture_log_ratios(k, e, f, n);
    else if (s.log != 0)
      student_log_ratio(k, j, n);
    accumulate(s, e, f, l_, n, g);
    const int64_t label = local_[k] - j;
    const bool has_label = label >= 0 && label < n;
    if (has_label) g[label] += s.label;
    if (!t.grad) return;
    if (p_.divergence != Divergence::JS && own.log != 0) teacher_log_ratio(k, j, n);
    for (int64_t i = 0; i < n; ++i) g_[i] = 0;
    accumulate(own, f, e, m_, n, g_);
    if (has_label) g_[label] += own.label;
    write_teacher_gradient(k, j, n);
  }

  void write_teacher_gradient(int64_t k, int64_t j, int64_t n) {
    const Teacher& t = p_.teachers[k];
    const DType dtype = t.logits.dtype == DType::F16 ? DType::F32 : t.logits.dtype;
    write(g_, n, dtype, t.grad, r_ * t.classes + j);
  }

  void scattered_gradient(int64_t k, A* g) {
    const Teacher& t = p_.teachers[k];
    for_blocks(t.classes, [&](int64_t j, int64_t n) {
      for (int64_t i = 0; i < n; ++i) gathered_[i] = 0;
      slice_gradient(k, j, n, gathered_);
      for (int64_t i = 0; i < n; ++i) g[t.columns[j + i]] += gathered_[i];
    });
  }

  const KDLoss& p_;
  int64_t k_;
  char* next_;
  bool cached_ = false;    // a row's exponentials are kept between the sweeps
  bool scatters_ = false;  // some teacher's classes are an index list

  // Scratch.
  A *z_buffer_, *unit_;                     // student: widened logits, exponentials at T = 1
  A *e_[kMaxTeachers], *f_[kMaxTeachers];   // softened exponentials of student and teacher
  A *l_, *m_, *g_, *gathered_;              // log ratios and gradients of a block
  A* sum_;                                  // gradient of the row (or block) before rounding
  int64_t group_[kMaxTeachers];             // the first teacher with the same slice and T

  // The row at hand.
  int64_t r_, y_;
  const A* z_;  // its student logits, if cached_
  Softmax<A> ce_, p_of_[kMaxTeachers];
  bool known_[kMaxTeachers];         // p_of_[group] is computed
  int64_t local_[kMaxTeachers];      // column of the label, or -1
  A weight_[kMaxTeachers], entropy_[kMaxTeachers], label_cost_[kMaxTeachers];
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
