// How one call is laid out on the device: decided on the host, from shapes and pointers alone.
#pragma once

#include <algorithm>
#include <cstdint>

#include "cuda/kd_loss_tables.cuh"
#include "cuda/rows.cuh"

namespace edufast::cuda {

constexpr int kMaxThreads = 256;
constexpr int kResidentThreads = 2 * kMaxThreads;  // of a multiprocessor, by __launch_bounds__
constexpr int kMaxBlocks = 4096;
constexpr int kMaxWarpColumns = 1024;  // a warp per row up to here
constexpr int kMaxCluster = 8;         // the largest portable size
// Every block counts the labels itself up to here (L2 serves them); beyond, a first launch does.
constexpr int64_t kMaxInlineCount = 16384;
constexpr int kCountBlocks = 64;
constexpr int kPrepareShared = kMaxThreads / 32 * sizeof(double);  // for block_sum()

struct Device {
  int processors;
  int shared_per_processor;  // bytes
  int shared_per_block;      // bytes, opt-in limit
  bool clusters;
};

struct Partial {  // of one block; see reduce_blocks()
  double loss;
  unsigned long long done;
};

// Scratch memory, uninitialised when the call starts.
struct Workspace {
  Partial* partials;  // kMaxBlocks
  int* counts;        // kCountBlocks
  int* positions;     // per teacher, when some list their classes: C inverse entries and one flag
};

// What the kernels get beside the problem.
struct Launch {
  Workspace workspace;
  unsigned long long token;  // of this call, unlike any other's
  int cache_bytes;           // of shared memory that a group has in a block to keep rows in
  bool counted;              // the first launch counted the labels
};

struct Plan {
  bool doubles;       // something is in float64
  bool vectors;       // every row allows 16-byte accesses
  bool warp_per_row;  // else a block, or a cluster of blocks
  int threads, blocks, cluster;
  int shared_bytes;
  int prepare_blocks;  // of a first launch, 0: not needed
  Launch launch;
};

inline bool has_lists(const KDLoss& p) {
  return std::any_of(p.teachers, p.teachers + p.num_teachers,
                     [](const Teacher& t) { return t.columns != nullptr; });
}

inline int64_t workspace_bytes(const KDLoss& p) {
  const int64_t positions = has_lists(p) ? int64_t(p.num_teachers) * (int64_t(p.classes) + 1) : 0;
  return kMaxBlocks * sizeof(Partial) + (kCountBlocks + positions) * sizeof(int);
}

inline Workspace carve_workspace(void* memory) {
  Workspace w;
  w.partials = static_cast<Partial*>(memory);
  w.counts = reinterpret_cast<int*>(w.partials + kMaxBlocks);
  w.positions = w.counts + kCountBlocks;
  return w;
}

// Whether 16-byte accesses reach the classes c, c + 1, ... c + 7 of every row for c a multiple of
// 8, and each such eight is inside or outside the slice [first, last).
inline bool allows_vectors(const Logits& x, int64_t first, int64_t last) {
  const int64_t size = bytes_of(x.dtype);
  return x.dtype != DType::F64 && x.col_stride == 1 && first % kVector == 0 &&
         last % kVector == 0 && reinterpret_cast<int64_t>(x.data) % 16 == 0 &&
         x.row_stride * size % 16 == 0;
}

inline bool allows_vectors(const KDLoss& p) {
  bool all = allows_vectors(p.student, 0, p.classes) &&
             allows_vectors({p.grad, p.classes, 1, p.grad_dtype}, 0, p.classes);
  for (int k = 0; k < p.num_teachers; ++k) {
    const Teacher& t = p.teachers[k];
    const int64_t last = int64_t(t.start) + t.classes;
    all = all && !t.columns && allows_vectors(t.logits, t.start, last);
    if (t.grad)
      all = all &&
            allows_vectors({t.grad, t.classes, 1, stored_grad(t.logits.dtype)}, t.start, last);
  }
  return all;
}

// Shared memory that a block (of a warp per row: each warp) would like in order to keep the rows it
// reads between the sweeps and the gradients. `threads` of them own eight columns in `span`.
inline int64_t cache_need(const KDLoss& p, bool doubles, int span, int threads) {
  const auto bytes = [&](int64_t low, int64_t high) {
    return ((high - 1) / span + 1 - low / span) * threads * kVector * (doubles ? 8 : 4);
  };
  int64_t all = 0, largest = 0;
  for (int k = 0; k < p.num_teachers; ++k) {
    const Teacher& t = p.teachers[k];
    const int64_t own = t.columns ? bytes(0, p.classes) : bytes(t.start, t.start + t.classes);
    all += own;
    largest = std::max(largest, own);
  }
  // A routed row normally reads one teacher; where slices overlap, the others come through L2.
  return bytes(0, p.classes) + (p.weighting == Weighting::Routed ? largest : all);
}

inline bool any_doubles(const KDLoss& p) {
  return p.student.dtype == DType::F64 ||
         std::any_of(p.teachers, p.teachers + p.num_teachers,
                     [](const Teacher& t) { return t.logits.dtype == DType::F64; });
}

inline Plan make_plan(const KDLoss& p, const Device& device) {
  Plan plan = {};
  plan.doubles = any_doubles(p);
  plan.vectors = !plan.doubles && allows_vectors(p);
  plan.launch.counted = p.reduction == Reduction::Mean && p.rows > kMaxInlineCount;
  if (plan.launch.counted || has_lists(p))
    plan.prepare_blocks = p.num_teachers + (plan.launch.counted ? kCountBlocks : 0);

  const auto table_bytes = [&](bool warp_per_row, int warps) -> int64_t {
    return plan.doubles ? Tables<double>::bytes(p.num_teachers, warp_per_row, warps)
                        : Tables<float>::bytes(p.num_teachers, warp_per_row, warps);
  };
  plan.warp_per_row = !plan.doubles && p.classes <= kMaxWarpColumns;
  plan.cluster = 1;
  const int64_t rows = std::max<int64_t>(p.rows, 1);
  int64_t groups = rows;
  if (plan.warp_per_row) {
    // Few rows spread over the multiprocessors first, then fill them.
    const int64_t warps = std::clamp<int64_t>(rows / device.processors, 1, kMaxThreads / 32);
    const int64_t share = device.shared_per_processor / (kResidentThreads / 32) - 128;
    const int64_t tables = table_bytes(true, 1);
    const int64_t cache = std::clamp<int64_t>(cache_need(p, false, 32 * kVector, 32), 0,
                                              std::max<int64_t>(share - tables, 0));
    plan.threads = static_cast<int>(warps) * 32;
    plan.launch.cache_bytes = static_cast<int>(cache) / 16 * 16;
    plan.shared_bytes = static_cast<int>(warps * (tables + plan.launch.cache_bytes));
    groups = (rows + warps - 1) / warps;
  } else {
    plan.threads = 64;  // at least four vectors a thread
    while (plan.threads < kMaxThreads && plan.threads * 32 < p.classes) plan.threads *= 2;
    const int64_t tables = table_bytes(false, plan.threads / 32);
    const int64_t room = device.shared_per_block - tables;
    const auto need = [&] {
      return cache_need(p, plan.doubles, plan.threads * plan.cluster * kVector, plan.threads);
    };
    // A cluster shares a row that one block cannot keep, or when there are few long rows.
    const auto wants_more = [&] {
      return need() > room || rows * plan.cluster * 2 <= device.processors;
    };
    while (device.clusters && plan.cluster < kMaxCluster && wants_more() &&
           p.classes >= plan.threads * plan.cluster * 64)
      plan.cluster *= 2;
    plan.launch.cache_bytes = static_cast<int>(std::min(need(), room)) / 16 * 16;
    plan.shared_bytes = static_cast<int>(tables) + plan.launch.cache_bytes;
  }
  const int64_t per_processor = std::clamp<int64_t>(
      device.shared_per_processor / (plan.shared_bytes + 1024), 1, kResidentThreads / plan.threads);
  const int64_t most = std::min<int64_t>(device.processors * per_processor, kMaxBlocks);
  plan.blocks = static_cast<int>(std::min(groups, std::max<int64_t>(most / plan.cluster, 1))) *
                plan.cluster;
  return plan;
}

}  // namespace edufast::cuda
