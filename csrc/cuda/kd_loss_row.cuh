// The multi-teacher loss of a row and its gradient, by a warp or by a block (or a cluster of them).
// Specification: edufast/ops/kd_loss_reference.py.
//
//   sweeps     every row is read once: maxima, and sums of exponentials, online; the logits stay in
//              shared memory as far as it reaches, the others come back from L2
//   settle     weights, one lane per teacher
//   conclude   the losses, and a few coefficients per teacher
//   gradients  one pass that knows the losses by these coefficients only
#pragma once

#include "cuda/kd_loss_plan.h"

namespace edufast::cuda {

template <class Real, Divergence D, bool WarpPerRow, bool Vectors>
class RowLoss {
  using C = Constants<Real>;
  static constexpr int kAhead = Vectors ? 2 : 1;  // vectors in flight
  // DKD normalises without the label and treats it apart: sweeps and gradients pass over it.
  static constexpr bool kWithoutLabel = D == Divergence::DKD;

  const KDLoss& p;
  const Launch& launch;
  const Real gradient_scale;
  Tables<Real> tables;
  Layout<Vectors> layout;
  RowCache<Real, Vectors> cache;
  int lane, warp, warps;
  int parity = 0;                     // which half of tables.block is next
  Real log2_beta = 0, log2_rest = 0;  // Jensen-Shannon: of beta and 1 - beta

 public:
  __device__ RowLoss(const KDLoss& problem, const Launch& launch, Real scale, char* memory)
      : p(problem), launch(launch), gradient_scale(scale) {
    lane = threadIdx.x % kWarpSize;
    warp = threadIdx.x / kWarpSize;
    warps = blockDim.x / kWarpSize;
    layout.rank = WarpPerRow ? lane : Cluster::rank() * blockDim.x + threadIdx.x;
    const int threads = WarpPerRow ? kWarpSize : blockDim.x;
    layout.log2_span = 31 - __clz(kVector * threads * (WarpPerRow ? 1 : Cluster::size()));
    if (WarpPerRow)
      memory += warp * (Tables<Real>::bytes(p.num_teachers, true, 1) + launch.cache_bytes);
    tables = Tables<Real>::carve(memory, p.num_teachers, WarpPerRow, warps);
    cache = {tables.cache, threads, WarpPerRow ? lane : int(threadIdx.x), layout};
    if constexpr (D == Divergence::JS) {
      log2_beta = log2_of(Real(p.divergence_params[0]));
      log2_rest = log2_of(1 - Real(p.divergence_params[0]));
    }
  }

  // Writes all gradients of the row. The loss is for the group's leader.
  __device__ Real run(int64_t row) {
    const int64_t y = p.labels[row * p.label_stride];
    if (y == p.ignore_index) return fill(row, Real(0));
    if (y < 0 || y >= p.classes) return fill(row, C::nan());
    const int label = static_cast<int>(y);
    const unsigned read = teachers_read(row, label);
    if (lists_broken(read)) return fill(row, C::nan());
    const int slot = slot_of_lane(read);

    sweep_student(row);
    for (unsigned rest = read; rest; rest &= rest - 1) {
      const int k = __ffs(rest) - 1;
      sweep_teacher(k, row, label, __shfl_sync(kFullMask, slot, k));
    }
    combine(read, true);
    if (WarpPerRow || warp == 0) settle(row, label, read, slot);
    if constexpr (D == Divergence::JS) {
      sync();
      const unsigned used = tables.header->used;
      for (unsigned rest = used; rest; rest &= rest - 1) sweep_mixture(__ffs(rest) - 1, row, label);
      combine(used, false);
    }
    if (WarpPerRow || warp == 0) conclude(row, label);
    sync();
    gradients(row, label);
    return tables.header->loss;
  }

  __device__ bool leads() const { return layout.rank == 0; }

 private:
  // --- rows --------------------------------------------------------------------------------------

  __device__ Row student_row(int64_t row) const {
    return {row_of(p.student, row), p.student.col_stride, p.student.dtype, 0, p.classes, nullptr};
  }

  __device__ Row student_grad(int64_t row) const {
    return {row_of({p.grad, p.classes, 1, p.grad_dtype}, row), 1, p.grad_dtype, 0, p.classes,
            nullptr};
  }

  __device__ Row teacher_row(int k, int64_t row) const {
    const Logits& x = p.teachers[k].logits;
    return teacher_view(k, row_of(x, row), x.col_stride, x.dtype);
  }

  __device__ Row teacher_grad(int k, int64_t row) const {
    const Teacher& t = p.teachers[k];
    const DType dtype = stored_grad(t.logits.dtype);
    return teacher_view(k, row_of({t.grad, t.classes, 1, dtype}, row), 1, dtype);
  }

  __device__ Row teacher_view(int k, void* data, int64_t stride, DType dtype) const {
    const Teacher& t = p.teachers[k];
    if (!Vectors && t.columns) return {data, stride, dtype, 0, p.classes, positions(k)};
    return {data, stride, dtype, t.start, t.start + t.classes, nullptr};
  }

  static __device__ void* row_of(const Logits& x, int64_t row) {
    return static_cast<char*>(const_cast<void*>(x.data)) + row * x.row_stride * bytes_of(x.dtype);
  }

  __device__ const int* positions(int k) const {
    return launch.workspace.positions + k * (int64_t(p.classes) + 1);
  }

  // Classes that are not in the teacher's slice become masked on the student's side too.
  __device__ void select(const Row& t, int v, int label, Real (&z)[kVector],
                         Real (&x)[kVector]) const {
    const int first = layout.column(v), last = layout.last_column(v);
    const bool whole = !t.positions && first >= t.low && last < t.high;
    if (whole && (!kWithoutLabel || label < first || label > last)) return;
#pragma unroll
    for (int i = 0; i < kVector; ++i) {
      const int c = first + i * layout.step();
      const bool in_slice = Vectors ? whole : t.holds(c);
      if (!in_slice || (kWithoutLabel && c == label)) z[i] = x[i] = -C::infinity();
    }
  }

  __device__ int student_slot() const {
    return cache.bytes_for(0, p.classes) <= launch.cache_bytes ? 0 : -1;
  }

  // Slots of the teachers that are read lie behind the student's; lane k has teacher k's.
  __device__ int slot_of_lane(unsigned read) const {
    int bytes = 0;
    if (read >> lane & 1) {
      const Row t = teacher_row(lane, 0);
      bytes = cache.bytes_for(t.low, t.high);
    }
    const int begin = cache.bytes_for(0, p.classes) + warp_prefix_sum(bytes, lane);
    return begin + bytes <= launch.cache_bytes ? begin : -1;
  }

  // --- sweeps -----------------------------------------------------------------------------------

  __device__ Real log2_scale(int source) const {  // source 0: the student, k + 1: teacher k
    return source == 0 ? C::log2e : C::log2e / Real(p.teachers[source - 1].temperature);
  }

  __device__ void sweep_student(int64_t row) {
    const Row z = student_row(row);
    const int slot = student_slot(), end = layout.end(z.high);
    Stats<Real> s;
    for (int v = 0; v < end; v += kAhead) {
      Real x[kAhead][kVector];
      load(z, layout, v, x);
      Real zmax = s.zmax;
#pragma unroll
      for (int u = 0; u < kAhead; ++u) {
        if (v + u < end) cache.keep(z, slot, v + u, x[u]);
#pragma unroll
        for (int i = 0; i < kVector; ++i) zmax = larger(zmax, x[u][i]);
      }
      rescale<Real, D>(s, zmax, s.tmax, C::log2e);
#pragma unroll
      for (int u = 0; u < kAhead; ++u)
#pragma unroll
        for (int i = 0; i < kVector; ++i) {
          const bool held = layout.column(v + u) + i * layout.step() < z.high;
          accumulate_student(s, x[u][i], held);
        }
    }
    gather(0, s);
  }

  __device__ void sweep_teacher(int k, int64_t row, int label, int slot) {
    const Row z = student_row(row), t = teacher_row(k, row);
    const Real scale = log2_scale(k + 1);
    const bool at_temperature_one = weighs_logits();
    const int end = layout.end(t.high);
    Stats<Real> s;
    for (int v = layout.begin(t.low); v < end; v += kAhead) {
      Real zs[kAhead][kVector], ts[kAhead][kVector];
      load(t, layout, v, ts);
      Real zmax = s.zmax, tmax = s.tmax;
#pragma unroll
      for (int u = 0; u < kAhead; ++u) {
        if (v + u < end) cache.keep(t, slot, v + u, ts[u]);
        cache.fetch(z, student_slot(), min(v + u, end - 1), zs[u]);
        select(t, v + u, label, zs[u], ts[u]);
#pragma unroll
        for (int i = 0; i < kVector; ++i) {
          zmax = larger(zmax, zs[u][i]);
          tmax = larger(tmax, ts[u][i]);
        }
      }
      rescale<Real, D>(s, zmax, tmax, scale);
#pragma unroll
      for (int u = 0; u < kAhead; ++u)
#pragma unroll
        for (int i = 0; i < kVector; ++i) accumulate<Real, D>(s, zs[u][i], ts[u][i], scale);
      if (at_temperature_one)
#pragma unroll
        for (int u = 0; u < kAhead; ++u)
#pragma unroll
          for (int i = 0; i < kVector; ++i) accumulate_at_one(s, ts[u][i]);
    }
    gather(k + 1, s);
  }

  // Jensen-Shannon needs the normalisers first: sums of p log2(p / m) and q log2(q / m).
  __device__ void sweep_mixture(int k, int64_t row, int label) {
    const Row z = student_row(row), t = teacher_row(k, row);
    const TeacherRow<Real> r = tables.teachers[k];
    Stats<Real> s;
    s.zmax = s.tmax = 0;
    for (int v = layout.begin(t.low); v < layout.end(t.high); ++v) {
      Real zs[kVector], ts[kVector];
      cache.fetch(z, student_slot(), v, zs);
      cache.fetch(t, r.cache, v, ts);
      select(t, v, label, zs, ts);
#pragma unroll
      for (int i = 0; i < kVector; ++i) {
        const Real lp = (zs[i] - r.zmax) * r.scale - r.zlog;
        const Real lq = (ts[i] - r.tmax) * r.scale - r.tlog;
        const Real lm = log2_mixture(lp, lq);
        s.zsum += weighted(fast_exp2(lp), lp - lm);
        s.tsum += weighted(fast_exp2(lq), lq - lm);
      }
    }
    gather(k + 1, s);
  }

  __device__ Real log2_mixture(Real lp, Real lq) const {
    const Real a = lq + log2_beta, b = lp + log2_rest;
    return larger(a, b) + fast_log2(1 + fast_exp2(a > b ? b - a : a - b));
  }

  // What the divergence compares a side with: the mixture, or the other side.
  __device__ Real partner(Real lp, Real lq, Real other) const {
    return D == Divergence::JS ? log2_mixture(lp, lq) : other;
  }

  __device__ void gather(int source, const Stats<Real>& own) {
    const Stats<Real> s = warp_reduce<Real, D>(own, log2_scale(source));
    if (lane == 0) (WarpPerRow ? tables.total[source] : tables.partial[source * warps + warp]) = s;
  }

  // One exchange for all sources; afterwards tables.total holds for the whole group.
  __device__ void combine(unsigned teachers, bool student) {
    if constexpr (!WarpPerRow) {
      const int n = p.num_teachers + 1, blocks = Cluster::size();
      const auto reduce = [&](int parts, auto part, Stats<Real>* to) {
        for (int s = warp; s < n; s += warps) {
          if (!(s ? teachers >> (s - 1) & 1 : student)) continue;
          const Stats<Real> sum = warp_reduce<Real, D>(
              lane < parts ? part(s) : Stats<Real>(), log2_scale(s));
          if (lane == 0) to[s] = sum;
        }
      };
      __syncthreads();
      Stats<Real>* block = blocks == 1 ? tables.total : tables.block + parity * n;
      reduce(warps, [&](int s) { return tables.partial[s * warps + lane]; }, block);
      if (blocks > 1) {
        Cluster::sync();
        reduce(blocks, [&](int s) { return *Cluster::peer(&block[s], lane); }, tables.total);
        parity ^= 1;  // somebody may still be reading this half
      }
    }
    sync();
  }

  __device__ void sync() const {
    if (WarpPerRow)
      __syncwarp();
    else
      __syncthreads();
  }

  // --- one lane per teacher ---------------------------------------------------------------------

  // Teachers whose logits this row needs. One that a weight of 0 switches off is never touched.
  __device__ unsigned teachers_read(int64_t row, int label) const {
    bool reads = lane < p.num_teachers && p.alpha != 1;
    if (reads && p.weighting == Weighting::Given) reads = given_weight(row) != 0;
    if (reads && (p.weighting == Weighting::Routed || p.weighting == Weighting::Confidence))
      reads = teacher_row(lane, row).holds(label);
    return __ballot_sync(kFullMask, reads);
  }

  // Lists on the device are not checked before the launch; prepare_kernel() flags bad ones.
  __device__ bool lists_broken(unsigned read) const {
    const bool broken = read >> lane & 1 && p.teachers[lane].columns && positions(lane)[p.classes];
    return __any_sync(kFullMask, broken);
  }

  __device__ Real given_weight(int64_t row) const {
    return p.weights[row * p.weight_row_stride + lane * p.weight_col_stride];
  }

  __device__ Real weight(int64_t row, int label, unsigned read, const Stats<Real>& s) const {
    const bool reads = read >> lane & 1;
    const int n = __popc(read);
    Real share = 0;  // entropy, confidence: what counts against the teacher
    switch (p.weighting) {
      case Weighting::Given: return reads ? given_weight(row) : Real(0);
      case Weighting::Mean: return Real(1) / p.num_teachers;
      case Weighting::Routed: return Real(1) / n;
      case Weighting::Entropy: {
        const Real own = reads ? entropy(s) : Real(0), total = warp_sum(own);
        share = total == 0 ? Real(1) / n : own / total;
        break;
      }
      case Weighting::Confidence: {
        Real own = C::lowest;
        if (reads) own = bounded_cross_entropy(s, logit_at<Real>(teacher_row(lane, row), label));
        const Real high = warp_max(own), e = reads ? exp_of(own - high) : Real(0);
        share = e / warp_sum(e);
        break;
      }
    }
    return n > 1 ? (1 - share) / (n - 1) : Real(1);
  }

  __device__ bool weighs_logits() const {
    return p.weighting == Weighting::Entropy || p.weighting == Weighting::Confidence;
  }

  // Weights look at all classes, also at the label that DKD's sweeps passed over.
  __device__ Stats<Real> with_label(Stats<Real> s, int64_t row, int label) const {
    if constexpr (kWithoutLabel) {
      if (lane >= p.num_teachers || !weighs_logits()) return s;
      const Row t = teacher_row(lane, row);
      if (t.holds(label)) {
        const Real logit = logit_at<Real>(t, label);
        rescale<Real, D>(s, s.zmax, larger(s.tmax, logit), log2_scale(lane + 1));
        accumulate_at_one(s, logit);
      }
    }
    return s;
  }

  __device__ void settle(int64_t row, int label, unsigned read, int slot) {
    Stats<Real> s;
    if (read >> lane & 1) s = tables.total[lane + 1];
    const Real w = weight(row, label, read, with_label(s, row, label));
    // A side without any class contributes nothing; with DKD its label may, so that decides later.
    const bool empty = !kWithoutLabel && (s.zsum == 0 || s.tsum == 0);
    const bool use = read >> lane & 1 && w != 0 && !empty;
    if (use) {
      TeacherRow<Real>& r = tables.teachers[lane];
      r.weight = w;
      r.scale = log2_scale(lane + 1);
      r.zmax = s.zmax;
      r.tmax = s.tmax;
      r.zlog = s.zsum == 0 ? Real(0) : log2_of(s.zsum);
      r.tlog = s.tsum == 0 ? Real(0) : log2_of(s.tsum);
      r.cache = slot;
    }
    const unsigned used = __ballot_sync(kFullMask, use);
    if (lane == 0) tables.header->used = used;
    __syncwarp();
  }

  __device__ void conclude(int64_t row, int label) {
    bool use = tables.header->used >> lane & 1;
    Real loss = 0, at_label = 0;
    if (use) {
      TeacherRow<Real>& r = tables.teachers[lane];
      const Real temperature = p.teachers[lane].temperature;
      const Real share = (1 - Real(p.alpha)) * r.weight;
      // d (T^2 D) / d logit = T dD / d (logit / T)
      const Real g = share * temperature * gradient_scale;
      Label<Real> known = {};
      if constexpr (kWithoutLabel) {
        const Row t = teacher_row(lane, row);
        known.known = t.holds(label);
        if (known.known)
          known = {true, logit_at<Real>(student_row(row), label), logit_at<Real>(t, label)};
      }
      const Real divergence = conclude_divergence<Real, D>(
          r, tables.total[lane + 1], known, p.divergence_params, g, &at_label);
      loss = share * temperature * temperature * divergence;
      use = divergence != C::infinity();  // or no gradient exists
    }
    const unsigned used = __ballot_sync(kFullMask, use);
    if (!use) at_label = 0;
    Header<Real> h = {};
    h.used = used;
    h.loss = warp_sum(loss);
    h.label = warp_sum(at_label);
    if (p.alpha != 0)
      h.loss += Real(p.alpha) * conclude_cross_entropy<Real>(
                                    h, tables.total[0], logit_at<Real>(student_row(row), label),
                                    p.classes, p.label_smoothing, p.alpha * gradient_scale);
    __syncwarp();
    if (lane == 0) *tables.header = h;
  }

  // --- gradients --------------------------------------------------------------------------------

  __device__ void gradients(int64_t row, int label) const {
    const Header<Real> h = *tables.header;
    const Row z = student_row(row), out = student_grad(row);
    for (int k = 0; k < p.num_teachers; ++k)
      if (p.teachers[k].grad && !(h.used >> k & 1)) fill_teacher(k, row, Real(0));
    for (int v = 0; v < layout.end(z.high); ++v) {
      Real x[kVector], g[kVector];
      cache.fetch(z, student_slot(), v, x);
#pragma unroll
      for (int i = 0; i < kVector; ++i)
        g[i] = weighted(h.scale, fast_exp2((x[i] - h.zmax) * C::log2e - h.zlog)) - h.uniform;
      for (unsigned rest = h.used; rest; rest &= rest - 1)
        add_teacher(__ffs(rest) - 1, v, row, label, x, g);
#pragma unroll
      for (int i = 0; i < kVector; ++i)
        if (layout.column(v) + i * layout.step() == label) g[i] += h.label;
      store(out, layout, v, g);
    }
  }

  __device__ void add_teacher(int k, int v, int64_t row, int label, const Real (&x)[kVector],
                              Real (&g)[kVector]) const {
    const Row t = teacher_row(k, row);
    if (v < layout.begin(t.low) || v >= layout.end(t.high)) return;
    if (Vectors && (layout.column(v) < t.low || layout.column(v) >= t.high)) return;
    const TeacherRow<Real>& r = tables.teachers[k];
    Real zs[kVector], ts[kVector];
    cache.fetch(t, r.cache, v, ts);
#pragma unroll
    for (int i = 0; i < kVector; ++i) zs[i] = x[i];
    select(t, v, label, zs, ts);
    constexpr bool kLeads = D == Divergence::ReverseKL || D == Divergence::JS;  // a1 is not 0
#pragma unroll
    for (int i = 0; i < kVector; ++i) {
      const Real lp = (zs[i] - r.zmax) * r.scale - r.zlog;
      const Real lq = (ts[i] - r.tmax) * r.scale - r.tlog;
      Real factor = r.a0;
      if constexpr (kLeads) factor += r.a1 * (lp - partner(lp, lq, lq));
      const Real own = weighted(fast_exp2(lp), factor) + r.a2 * fast_exp2(lq);
      // A NaN in the teacher stays inside its slice.
      g[i] += !Vectors && is_masked(zs[i]) && is_masked(ts[i]) ? Real(0) : own;
    }
    if (!p.teachers[k].grad) return;

#pragma unroll
    for (int i = 0; i < kVector; ++i) {
      const Real lp = (zs[i] - r.zmax) * r.scale - r.zlog;
      const Real lq = (ts[i] - r.tmax) * r.scale - r.tlog;
      const Real factor = r.b0 + weighted(r.b1, lq - partner(lp, lq, lp));
      ts[i] = weighted(fast_exp2(lq), factor) + r.b2 * fast_exp2(lp);
    }
    if constexpr (kWithoutLabel)
#pragma unroll
      for (int i = 0; i < kVector; ++i)
        if (layout.column(v) + i * layout.step() == label) ts[i] = r.label;
    store(teacher_grad(k, row), layout, v, ts);
  }

  // Rows that contribute nothing, or whose label does not exist.
  __device__ Real fill(int64_t row, Real value) const {
    Real g[kVector];
#pragma unroll
    for (int i = 0; i < kVector; ++i) g[i] = value;
    for (int v = 0; v < layout.end(p.classes); ++v) store(student_grad(row), layout, v, g);
    for (int k = 0; k < p.num_teachers; ++k)
      if (p.teachers[k].grad) fill_teacher(k, row, value);
    return value;
  }

  // By column, not by class: a broken list does not name every column.
  __device__ void fill_teacher(int k, int64_t row, Real value) const {
    Row out = teacher_grad(k, row);
    out.low = 0;
    out.high = p.teachers[k].classes;
    out.positions = nullptr;
    Real g[kVector];
#pragma unroll
    for (int i = 0; i < kVector; ++i) g[i] = value;
    for (int v = 0; v < layout.end(out.high); ++v) store(out, layout, v, g);
  }
};

}  // namespace edufast::cuda
