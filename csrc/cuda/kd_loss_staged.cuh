// The threads that share a row in the staged program, and the rows in their shared memory.
//
// All rows have one type and all classes, their columns are neighbours, and class c lies at the same
// address modulo eight elements in each. Vectors of eight then begin in all of them before the same
// class, so that 16-byte copies serve any number of classes: what a row's first and last vector hold
// of its neighbours is patched in shared memory. A thread reads what it copied itself, so copies need
// no barrier.
#pragma once

#include "cuda/kd_loss_conclude.cuh"

namespace edufast::cuda {

// In the place of a class that a row does not hold. Finite, so that differences of two are no NaN,
// and small enough for an exponential of 0; logits below it count as masked. A bfloat16, too.
constexpr float kAbsent = -0x1.ep125f;

enum class Fate { Valid, Ignored, Broken, None };  // of a row; None: there is none

struct Task {
  int row;
  int shift;       // how many classes before the first the row's first vector begins
  unsigned edges;  // of this thread's vectors, a bit each: whether they are to be patched
  int label;
  unsigned read;  // teachers whose logits are needed
  Fate fate;
};

struct Source {
  const void* first;   // class of the first row
  int64_t row_stride;  // in elements
};

struct Pace {
  float scale;  // log2(e) / T of a teacher
  float ratio;  // of the first teacher's T to this one's
  float temperature;
};

// Writes one vector of a row of gradients, as far as the row goes.
template <class Stored>
__device__ __forceinline__ void store_vector(Stored* row, int first, int classes,
                                             const float (&x)[kVector]) {
  Stored stored[kVector];
#pragma unroll
  for (int i = 0; i < kVector; ++i) stored[i] = rounded<Stored>(x[i]);
  if (first >= 0 && first + kVector <= classes) {
    uint4 raw[sizeof(stored) / 16];
    memcpy(raw, stored, sizeof(raw));
#pragma unroll
    for (int i = 0; i < int(sizeof(raw) / 16); ++i)
      reinterpret_cast<uint4*>(row + first)[i] = raw[i];
  } else {
#pragma unroll
    for (int i = 0; i < kVector; ++i)
      if (first + i >= 0 && first + i < classes) row[first + i] = stored[i];
  }
}

// Lanes of a warp share a row, or where Lanes is 0 a block or cluster does. Plain as in Plan.
template <class Stored_, Divergence D, int Lanes, int Plain>
struct StagedGroup : Problem<float, D, false, Lanes ? Lanes : kWarpSize> {
  using Base = Problem<float, D, false, Lanes ? Lanes : kWarpSize>;
  using Base::kWithoutLabel, Base::lane, Base::launch, Base::p;
  using Stored = Stored_;
  static constexpr bool kOfWarp = Lanes > 0;
  static constexpr bool kMayBePlain = Plain > 0;
  static constexpr bool kStreams = kMayBePlain && kOfWarp;  // see kd_loss_plain_lanes.cuh
  static constexpr int kHeld = kStreams ? Plain : held_vectors(D, Lanes);
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  static constexpr bool kPairs = std::is_same_v<Stored, __nv_bfloat16> && !Base::kWithoutLabel;
#else
  static constexpr bool kPairs = false;
#endif
  static constexpr bool kHalf = std::is_same_v<Stored, __half>;  // which cannot hold kAbsent
  using Out = std::conditional_t<kHalf, float, Stored>;  // float16 logits have float32 gradients
  static constexpr int kChunks = sizeof(Stored) * kVector / 16;  // 16-byte copies of a vector
  static constexpr int kChunk = kVector / kChunks;               // classes in one

  Tables<float> tables;
  Source* sources;    // the student, and the teachers
  Pace* paces;        // of every teacher
  uint4* slots;       // this thread's first
  int held;           // vectors of every row that this thread has, at most kHeld
  int rank, threads;  // of the threads that share the row
  int warp, warps;
  float label_logit;    // the student's
  int parity = 0;       // which half of tables.block is next
  bool no_number;       // one of those in the device's memory is out of range
  bool unit;            // the weights look at teachers at T = 1
  bool alike;           // all teachers have one temperature
  bool plain = false;   // rows may be plain; then, of every row:
  unsigned plain_read;  // teachers that have a weight
  float plain_share;    // weight (1 - alpha) of the lane's teacher
  float plain_shares;   // of all

  // `memory` begins with kScratch bytes for the block. The first time, its threads fill them together.
  __device__ StagedGroup(const KDLoss& problem, const Launch& launch, char* memory,
                         bool first_time = true)
      : Base(problem, launch) {
    static_assert(sizeof(Source) == 16 && sizeof(Pace) == 12 && kScratch % 16 == 0);
    sources = reinterpret_cast<Source*>(memory + kBlockSums);
    paces = reinterpret_cast<Pace*>(sources + kMaxTeachers + 1);
    memory += kScratch;
    held = kStreams ? kHeld : launch.held;
    warp = threadIdx.x / kWarpSize;
    warps = kOfWarp ? 1 : blockDim.x / kWarpSize;
    threads = kOfWarp ? Lanes : blockDim.x * Cluster::size();
    rank = kOfWarp ? lane : Cluster::rank() * blockDim.x + threadIdx.x;
    const int groups = kOfWarp ? blockDim.x / threads : 1;
    const int bytes = Tables<float>::bytes(p.num_teachers, warps == 1, warps);
    tables = Tables<float>::carve(memory + group() * bytes, p.num_teachers, warps == 1, warps);
    slots = reinterpret_cast<uint4*>(memory + groups * bytes) + threadIdx.x;

    no_number = this->numbers_broken();
    unit = weighs_logits(p);
    const float first = Base::temperature(0);
    bool other = false;
    if (lane < p.num_teachers) {
      const float own = Base::temperature(lane);
      other = own != first;
      if (first_time && threadIdx.x < kWarpSize) {
        const Logits& x = p.teachers[lane].logits;
        paces[lane] = {Constants<float>::log2e / own, first / own, own};
        sources[lane + 1] = {x.data, x.row_stride};
      }
    }
    if (first_time) {
      if (threadIdx.x == 0) sources[0] = {p.student.data, p.student.row_stride};
      __syncthreads();
    }
    alike = this->lane_ballot(other) == 0;
    if constexpr (kMayBePlain) {
      plain = alike && Base::smoothing() == 0 && !no_number;
      plain_share = 0;
      if (lane < p.num_teachers)
        plain_share = (1 - Base::alpha()) *
                      (p.weighting == Weighting::Mean ? this->mean_weight : given_weight(*this, 0));
      plain_read = this->lane_ballot(plain_share != 0);
      if (kStreams) plain_shares = this->lane_sum(plain_share);
    }
    if (!kHalf && first_time)  // where rows end; elsewhere there will be logits
      for (int v = 0; v < held; ++v) {
        const int first = column(v, 0);
        if (first > 0 && first + kVector <= p.classes) continue;
        for (int source = 0; source <= p.num_teachers; ++source) clear(source, v);
      }
  }

  // As in Problem, without a division or a look at where the numbers are.
  __device__ float temperature(int k) const { return paces[k].temperature; }
  __device__ float log2_scale(int source) const {
    return source == 0 ? Constants<float>::log2e : paces[source - 1].scale;
  }
  __device__ float student_logit(int64_t, int) const { return label_logit; }

  // Whether every row consists of whole vectors.
  __device__ bool whole() const { return launch.aligned && p.classes % kVector == 0; }

  __device__ int group() const { return kOfWarp ? threadIdx.x / (Lanes ? Lanes : 1) : 0; }
  __device__ bool leads() const { return rank == 0; }
  __device__ bool first_warp() const { return kOfWarp || warp == 0; }

  __device__ void sync() const {
    if (kOfWarp) __syncwarp();
    else __syncthreads();
  }

  // Bits or a truth of any row of this warp: what its lanes have to go through together.
  static __device__ unsigned of_warp(unsigned bits) {
#pragma unroll
    for (int mask = Base::kLanes; mask < kWarpSize; mask *= 2)
      bits |= __shfl_xor_sync(kFullMask, bits, mask);
    return bits;
  }

  // --- rows --------------------------------------------------------------------------------------

  __device__ int64_t label_of(unsigned row) const {
    return row < p.rows ? p.labels[row * p.label_stride] : p.ignore_index;
  }

  __device__ Task look(unsigned row, int64_t y) const {
    Task task = {};
    const bool exists = row < p.rows;
    if (exists) task.row = static_cast<int>(row);  // else the first is read, but to no effect
    task.fate = !exists                                ? Fate::None
                : y == p.ignore_index                  ? Fate::Ignored
                : y < 0 || y >= p.classes || no_number ? Fate::Broken
                                                       : Fate::Valid;
    task.label = task.fate == Fate::Valid ? static_cast<int>(y) : 0;
    const unsigned read = plain ? plain_read : teachers_read(*this, task.row, task.label);
    task.read = task.fate == Fate::Valid ? read : 0;
    if (whole()) return task;
    task.shift = launch.aligned
                     ? 0
                     : reinterpret_cast<uintptr_t>(data(0, task)) / sizeof(Stored) % kVector;
#pragma unroll
    for (int v = 0; v < kHeld; ++v) {
      const int first = column(v, task.shift);
      // Where rows begin alike, what is beyond one row is beyond all, and needs no second patch.
      const bool absent = launch.aligned && first >= p.classes;
      task.edges |= unsigned(v < held && !absent && (first < 0 || first + kVector > p.classes))
                    << v;
    }
    return task;
  }

  // The plan keeps rows and strides below 2^31.
  __device__ const Stored* data(int source, const Task& task) const {
    const Source x = sources[source];
    return static_cast<const Stored*>(x.first) + int64_t(task.row) * static_cast<int>(x.row_stride);
  }

  // First class of this thread's vector v; may lie outside the row.
  __device__ int column(int v, int shift) const { return (v * threads + rank) * kVector - shift; }

  __device__ uint4* place(int source, int v, int chunk) const {
    return slots + ((source * held + v) * kChunks + chunk) * blockDim.x;
  }

  // Has this thread's part of a row copied.
  __device__ void request(const Task& task) const {
    if (!kStreams && task.fate != Fate::Valid) return;
#pragma unroll 1
    for (int source = 0; source <= p.num_teachers; ++source)
      if (source == 0 || (plain ? plain_read : task.read) >> (source - 1) & 1)
        request(source, task);
  }

  // Of one source, as a group of copies. What lies beside a row in the same 16 bytes may be read, too,
  // but not beside the first and the last row: nothing outside the tensors is touched.
  __device__ __forceinline__ void request(int source, const Task& task) const {
    if (task.fate == Fate::Valid) {
      const int first = column(0, task.shift), step = threads * kVector;
      const bool outermost = !whole() && (task.row == 0 || task.row == p.rows - 1);
      // First classes of the chunks that are copied.
      const int least = outermost ? 0 : -kVector;
      const unsigned span = (outermost ? p.classes - kChunk : p.classes - 1) - least;
      const Stored* row = data(source, task) + first;
#pragma unroll
      for (int v = 0; v < kHeld; ++v)
#pragma unroll
        for (int c = 0; c < kChunks; ++c) {
          const int at = v * step + c * kChunk;
          if (v < held && unsigned(first + at - least) <= span)
            copy_async(place(source, v, c), row + at);
        }
      if (outermost) copy_ends(source, row, first);
    }
    if (kStreams) commit_copies();  // even if there are none: groups are counted
  }

  // Of the vectors that are not wholly of the row, what is.
  __device__ __forceinline__ void copy_ends(int source, const Stored* row, int first) const {
#pragma unroll 1
    for (int i = 0; i < held * kVector; ++i) {
      const int v = i / kVector, at = v * threads * kVector + i % kVector,
                chunk = at / kChunk * kChunk;
      const bool part = first + chunk < 0 || first + chunk + kChunk > p.classes;
      if (part && first + at >= 0 && first + at < p.classes)
        reinterpret_cast<Stored*>(place(source, v, i % kVector / kChunk))[i % kChunk] = row[at];
    }
  }

  __device__ void clear(int source, int v) const {
    Stored absent[kChunk];
#pragma unroll
    for (int i = 0; i < kChunk; ++i) absent[i] = rounded<Stored>(kAbsent);
#pragma unroll
    for (int c = 0; c < kChunks; ++c) memcpy(place(source, v, c), absent, sizeof(absent));
  }

  // Waits for all rows that were requested.
  __device__ __forceinline__ void await(const Task& task) const {
    wait_for_copies();
    if (task.edges)
#pragma unroll 1
      for (int source = 0; source <= p.num_teachers; ++source) patch(source, task);
  }

  // Puts kAbsent where a vector that has arrived is not of the row.
  __device__ __forceinline__ void patch(int source, const Task& task) const {
    if constexpr (!kHalf)
#pragma unroll 1
      for (unsigned rest = task.edges; rest; rest &= rest - 1) {
        const int v = __ffs(rest) - 1, first = column(v, task.shift);
        const int low = first < 0 ? 0 : max(p.classes - first, 0);
        const int high = first < 0 ? -first : kVector;
#pragma unroll 1
        for (int i = low; i < high; ++i)
          reinterpret_cast<Stored*>(place(source, v,
                                          i / kChunk))[i % kChunk] = rounded<Stored>(kAbsent);
      }
  }

  // Vector v of a row that has arrived and was patched.
  __device__ void fetch(int source, int v, float (&x)[kVector]) const {
    uint4 raw[kChunks];
#pragma unroll
    for (int c = 0; c < kChunks; ++c) raw[c] = *place(source, v, c);
    unpack(raw, x);
  }

  static __device__ void unpack(const uint4 (&raw)[kChunks], float (&x)[kVector]) {
    if constexpr (std::is_same_v<Stored, __nv_bfloat16>) {  // an instruction each
      unsigned words[kVector / 2];
      memcpy(words, raw, sizeof(raw));
#pragma unroll
      for (int i = 0; i < kVector / 2; ++i) {
        x[2 * i] = __int_as_float(words[i] << 16);
        x[2 * i + 1] = __int_as_float(words[i] & 0xffff0000u);
      }
    } else {
      Stored stored[kVector];
      memcpy(stored, raw, sizeof(raw));
#pragma unroll
      for (int i = 0; i < kVector; ++i) x[i] = to_float(stored[i]);
    }
  }

  // The same with kAbsent for the label where both sides are normalised without it.
  __device__ void fetch(int source, int v, const Task& task, bool with_label,
                        float (&x)[kVector]) const {
    fetch(source, v, x);
    if constexpr (kHalf || kWithoutLabel) {
      const int first = column(v, task.shift);
      const bool without = kWithoutLabel && !with_label && unsigned(task.label - first) < kVector;
      const bool whole = !kHalf || (first >= 0 && first + kVector <= p.classes);
      if (whole && !without) return;
#pragma unroll
      for (int i = 0; i < kVector; ++i)
        if (first + i < 0 || first + i >= p.classes || (without && first + i == task.label))
          x[i] = kAbsent;
    }
  }

  // The largest of this thread's logits.
  __device__ float largest(int source, const Task& task, bool with_label) const {
    if constexpr (kPairs) {
      return largest_of_pairs(source);
    } else {
      float most = kAbsent, x[kVector];
#pragma unroll 1
      for (int v = 0; v < held; ++v) {
        fetch(source, v, task, with_label, x);
#pragma unroll
        for (int i = 0; i < kVector; ++i) most = larger(most, x[i]);
      }
      return most;
    }
  }

  // Two at a time, as they are stored.
  __device__ float largest_of_pairs(int source) const {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    __nv_bfloat162 most = __float2bfloat162_rn(kAbsent);
#pragma unroll
    for (int v = 0; v < kHeld; ++v) {
      if (v >= held) break;
      __nv_bfloat162 pairs[kVector / 2];
      memcpy(pairs, place(source, v, 0), sizeof(pairs));
      most = __hmax2(most, __hmax2(__hmax2(pairs[0], pairs[1]), __hmax2(pairs[2], pairs[3])));
    }
    return larger(__low2float(most), __high2float(most));
#else
    return 0;
#endif
  }

  // --- sums --------------------------------------------------------------------------------------

  __device__ void keep_sums(int source, const Sums<float>& s) const {
    if (lane == 0) (warps == 1 ? tables.total[source] : tables.partial[source * warps + warp]) = s;
  }

  // Sums of so many parts, by one thread.
  template <class Part>
  __device__ Sums<float> merged(int source, int parts, Part part) const {
    const float scale = log2_scale(source);
    Sums<float> all = part(0);
    for (int i = 1; i < parts; ++i) {
      Sums<float> s = part(i);
      const float z_max = larger(all.z_max, s.z_max), t_max = larger(all.t_max, s.t_max);
      rescale<float, D>(all, z_max, t_max, scale);
      rescale<float, D>(s, z_max, t_max, scale);
      all.z_sum += s.z_sum;
      all.t_sum += s.t_sum;
      all.cross += s.cross;
      all.unit += s.unit;
      all.unit_weighted += s.unit_weighted;
      all.extra += s.extra;
    }
    return all;
  }

  // What the warps, and the blocks, know of a row comes together in tables.total of the first warp.
  __device__ void combine(unsigned teachers) {
    const int n = p.num_teachers + 1, blocks = kOfWarp ? 1 : Cluster::size();
    const auto merge = [&](int parts, auto part, Sums<float>* to) {
      if (warp == 0)
        for (int s = lane; s < n; s += kWarpSize)
          if (s == 0 || teachers >> (s - 1) & 1)
            to[s] = merged(s, parts, [&](int i) { return part(s, i); });
    };
    sync();
    if (kOfWarp) return;
    Sums<float>* block = blocks == 1 ? tables.total : tables.block + parity * n;
    if (warps > 1) merge(warps, [&](int s, int w) { return tables.partial[s * warps + w]; }, block);
    if (blocks > 1) {
      Cluster::sync();
      merge(blocks, [&](int s, int b) { return *Cluster::peer(&block[s], b); }, tables.total);
      parity ^= 1;  // somebody may still be reading this half
    }
    __syncwarp();
  }
};

}  // namespace edufast::cuda
