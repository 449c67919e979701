// The threads that share a row in the staged program, and the rows in their shared memory.
//
// All rows have one type, their columns are neighbours, and class c lies at the same address modulo
// eight elements in each. Vectors of eight then begin in all of them before the same class, so that
// 16-byte copies serve any number of classes: what a row's first and last vector hold of its
// neighbours is passed over. A thread reads what it copied itself, so copies need no barrier.
#pragma once

#include "cuda/kd_loss_conclude.cuh"

namespace edufast::cuda {

// In the place of a class that a row does not hold. Finite, so that differences of two are no NaN,
// and small enough for an exponential of 0; logits below it count as masked.
constexpr float kAbsent = -8e37f;

enum class Fate { Valid, Ignored, Broken, None };  // of a row; None: there is none

struct Task {
  int row;
  int shift;       // how many classes before the first the row's first vector begins
  unsigned edges;  // of this thread's vectors, a bit each: whether some of it is not of the row
  int label;
  unsigned read;  // teachers whose logits are needed
  Fate fate;
};

struct Slice {
  int low, high;  // classes low to high - 1
};

// Lanes of a warp share a row, or where Lanes is 0 a block or cluster does.
template <class Stored_, Divergence D, int Lanes>
struct StagedGroup : Problem<float, D, false, Lanes ? Lanes : kWarpSize> {
  using Base = Problem<float, D, false, Lanes ? Lanes : kWarpSize>;
  using Base::kWithoutLabel, Base::lane, Base::launch, Base::p;
  using Stored = Stored_;
  static constexpr bool kPartOfWarp = Lanes > 0;
  static constexpr int kHeld = held_vectors(D, kPartOfWarp);
  static constexpr int kChunks = sizeof(Stored) * kVector / 16;  // 16-byte copies of a vector
  static constexpr int kChunk = kVector / kChunks;               // classes in one

  Tables<float> tables;
  float2* paces;      // of every teacher: log2(e) / T, and T
  uint4* slots;       // this thread's first
  int rank, threads;  // of the threads that share the row
  int warp, warps;
  bool no_number;      // one of those in the device's memory is out of range
  int parity = 0;      // which half of tables.block is next
  bool unit;           // the weights look at teachers at T = 1
  bool shared;         // teachers see the same of the student: all classes, at one temperature
  int squarings = -1;  // that make exp(x) of exp(x / T); -1: it is a matter of its own

  // `memory` begins with kScratch bytes for the block.
  __device__ StagedGroup(const KDLoss& problem, const Launch& launch, char* memory)
      : Base(problem, launch) {
    paces = reinterpret_cast<float2*>(memory + kScratch / 2);
    memory += kScratch;
    warp = threadIdx.x / kWarpSize;
    warps = kPartOfWarp ? 1 : blockDim.x / kWarpSize;
    threads = kPartOfWarp ? Lanes : blockDim.x * Cluster::size();
    rank = kPartOfWarp ? lane : Cluster::rank() * blockDim.x + threadIdx.x;
    const int groups = kPartOfWarp ? blockDim.x / threads : 1;
    const int bytes = Tables<float>::bytes(p.num_teachers, warps == 1, warps);
    tables = Tables<float>::carve(memory + group() * bytes, p.num_teachers, warps == 1, warps);
    slots = reinterpret_cast<uint4*>(memory + groups * bytes) + threadIdx.x;

    no_number = this->numbers_broken();
    unit = weighs_logits(p);
    const float first = Base::temperature(0);
    bool alike = true;
    if (lane < p.num_teachers) {
      const Teacher& t = p.teachers[lane];
      const float own = Base::temperature(lane);
      alike = t.start == 0 && t.classes == p.classes && own == first;
      if (threadIdx.x < kWarpSize) paces[lane] = {Constants<float>::log2e / own, own};
    }
    __syncthreads();
    shared = this->lane_ballot(!alike) == 0;
    if (shared && !kWithoutLabel) squarings = first == 1 ? 0 : first == 2 ? 1 : first == 4 ? 2 : -1;
  }

  // As in Problem, without a division or a look at where the numbers are.
  __device__ float temperature(int k) const { return paces[k].y; }
  __device__ float log2_scale(int source) const {
    return source == 0 ? Constants<float>::log2e : paces[source - 1].x;
  }

  __device__ int group() const { return kPartOfWarp ? threadIdx.x / (Lanes ? Lanes : 1) : 0; }
  __device__ bool leads() const { return rank == 0; }
  __device__ bool first_warp() const { return kPartOfWarp || warp == 0; }

  __device__ void sync() const {
    if (kPartOfWarp) __syncwarp();
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

  __device__ Task look(int64_t row) const {
    Task task = {};
    const bool exists = row < p.rows;
    if (exists) task.row = static_cast<int>(row);  // else the first is read, but to no effect
    const int64_t y = p.labels[task.row * p.label_stride];
    task.fate = !exists                                ? Fate::None
                : y == p.ignore_index                  ? Fate::Ignored
                : y < 0 || y >= p.classes || no_number ? Fate::Broken
                                                       : Fate::Valid;
    task.label = task.fate == Fate::Valid ? static_cast<int>(y) : 0;
    const unsigned read = teachers_read(*this, task.row, task.label);
    task.read = task.fate == Fate::Valid ? read : 0;
    task.shift = reinterpret_cast<uintptr_t>(data(p.student, task)) / sizeof(Stored) % kVector;
#pragma unroll
    for (int v = 0; v < kHeld; ++v) {
      const int first = column(v, task.shift);
      task.edges |= unsigned(first < 0 || first + kVector > p.classes) << v;
    }
    return task;
  }

  // The plan keeps rows and strides below 2^31.
  static __device__ const Stored* data(const Logits& x, const Task& task) {
    return static_cast<const Stored*>(x.data) + int64_t(task.row) * static_cast<int>(x.row_stride);
  }

  __device__ Slice slice(int k) const {
    if (shared) return {0, p.classes};
    return {p.teachers[k].start, p.teachers[k].start + p.teachers[k].classes};
  }

  // First class of this thread's vector v; may lie outside the row.
  __device__ int column(int v, int shift) const { return (v * threads + rank) * kVector - shift; }

  __device__ uint4* place(int source, int v, int chunk) const {
    return slots + (source * kHeld + v) * kChunks * blockDim.x + chunk * blockDim.x;
  }

  // Has this thread's part of a row copied; every request is waited for, in order.
  __device__ void request(const Task& task, int source) const {
    if (task.fate == Fate::Valid && (source == 0 || task.read >> (source - 1) & 1)) {
      const Slice s = source ? slice(source - 1) : Slice{0, p.classes};
      const Stored* row = data(source ? p.teachers[source - 1].logits : p.student, task) - s.low;
      if (shared && task.edges == 0) {
        row += column(0, task.shift);
#pragma unroll
        for (int v = 0; v < kHeld; ++v)
#pragma unroll
          for (int c = 0; c < kChunks; ++c)
            copy_async(place(source, v, c), row + v * threads * kVector + c * kChunk);
      } else {
        request_partly(task, source, row, s);
      }
    }
    commit_copies();
  }

  // Vectors that reach over the ends of a slice: nothing beyond its last class is read.
  __device__ __forceinline__ void request_partly(const Task& task, int source, const Stored* row,
                                                 Slice s) const {
#pragma unroll 1
    for (int v = 0; v < kHeld; ++v) {
      const int first = column(v, task.shift);
      if (first >= s.high || first + kVector <= s.low) continue;
#pragma unroll
      for (int c = 0; c < kChunks; ++c) {
        const int rest = min(max(s.high - first - c * kChunk, 0), kChunk);
        copy_async(place(source, v, c), row + first + c * kChunk, rest * int(sizeof(Stored)));
      }
    }
  }

  __device__ void request(const Task& task) const {
    if (shared) request(task, 0);
#pragma unroll 1
    for (int k = 0; k < p.num_teachers; ++k) request(task, k + 1);
    if (!shared) request(task, 0);
  }

  // Vector v of a row that was requested and waited for.
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

  // The same with kAbsent for classes outside [low, high), and for the label where both sides are
  // normalised without it.
  __device__ void fetch(int source, int v, const Task& task, int low, int high, bool with_label,
                        float (&x)[kVector]) const {
    fetch(source, v, x);
    const int first = column(v, task.shift);
    const bool without = kWithoutLabel && !with_label && unsigned(task.label - first) < kVector;
    const bool whole = shared ? !(task.edges >> v & 1) : first >= low && first + kVector <= high;
    if (whole && !without) return;
#pragma unroll
    for (int i = 0; i < kVector; ++i)
      if (first + i < low || first + i >= high || (without && first + i == task.label))
        x[i] = kAbsent;
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
    const int n = p.num_teachers + 1, blocks = kPartOfWarp ? 1 : Cluster::size();
    const auto merge = [&](int parts, auto part, Sums<float>* to) {
      if (warp == 0)
        for (int s = lane; s < n; s += kWarpSize)
          if (s == 0 || teachers >> (s - 1) & 1)
            to[s] = merged(s, parts, [&](int i) { return part(s, i); });
    };
    sync();
    if (kPartOfWarp) return;
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
