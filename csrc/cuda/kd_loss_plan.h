// How one call is laid out on the device: decided on the host, from shapes and pointers alone.
// There are two programs: the staged one for logits of one type whose rows are aligned alike, and
// the general one for everything else.
#pragma once

#include <algorithm>
#include <cstdint>

#include "cuda/sizes.h"
#include "kd_loss.h"

namespace edufast::cuda {

constexpr int kMaxThreads = 256;
constexpr int kResidentThreads = 2 * kMaxThreads;  // of a multiprocessor, by __launch_bounds__
constexpr int kMaxBlocks = 4096;
constexpr int kCountBits = 16;         // of a ticket, which say how many blocks are done
constexpr int kMaxWarpColumns = 1024;  // a warp per row up to here
constexpr int kMaxCluster = 8;         // of the general program; the largest portable size
// Every block counts the labels itself up to here (L2 serves them); beyond, a first launch does.
constexpr int64_t kMaxInlineCount = 4096;
constexpr int kCountBlocks = 64;
constexpr int kPrepareShared = kMaxThreads / 32 * sizeof(double);  // for block_sum()

struct Device {
  int processors;
  int shared_per_processor;  // bytes
  int shared_per_block;      // bytes, opt-in limit
  int largest_cluster;       // blocks; 1: it has none
};

// Of the staged program; `lanes` and `plain` as in Plan. Threads of a block, at most.
constexpr int staged_threads(int lanes) { return lanes > 0 ? 128 : 384; }
constexpr int kRegisters = 65536;  // of a multiprocessor
// Of a thread, at most. Where lanes of a warp share plain rows a thread keeps logits, exponentials and
// gradient: with fewer registers, what it spills takes longer than more warps gain (on an H200).
constexpr int staged_registers(int lanes, int plain) {
  return lanes == 0 || plain == 0 ? 80 : plain == 2 ? 128 : 168;
}
// Blocks of so many threads that a multiprocessor has registers for: each of its four schedulers has
// a quarter of them.
constexpr int staged_blocks(int threads, int lanes, int plain) {
  return kRegisters / 4 / (staged_registers(lanes, plain) * 32) * 4 / (threads / 32);
}
constexpr int kEnoughThreads =
    512;                   // of a multiprocessor: its schedulers have an instruction ready
constexpr int kLanes = 8;  // of a warp that share a row, where they can hold it
// The gradient of KL(student || teacher) keeps more numbers of a class in registers. It is the
// rarest divergence of the staged program, and not worth the time to compile one more.
EDUFAST_HOST_DEVICE constexpr bool may_share_warps(Divergence divergence) {
  return !traits_of(divergence).student_first;
}
// Vectors of every row that a thread may hold; `lanes` as in Plan.
EDUFAST_HOST_DEVICE constexpr int held_vectors(Divergence divergence, int lanes) {
  return lanes == kLanes || traits_of(divergence).student_first ? 2 : 4;
}
constexpr int kBlockSums = 128;  // bytes of shared memory for block_sum()
// And for what a block knows of every source and temperature; see kd_loss_staged.cuh.
constexpr int kScratch = kBlockSums + 16 * (kMaxTeachers + 1) + 12 * kMaxTeachers;
constexpr int kMaxStagedCluster = 16;

// Scratch memory, uninitialised when the call starts.
struct Workspace {
  unsigned long long* ticket;
  double* partials;  // kMaxBlocks
  int* counts;       // kCountBlocks
  int* positions;    // per teacher, when some list their classes: C inverse entries and one flag
};

// What the kernels get beside the problem.
struct Launch {
  Workspace workspace;
  unsigned long long token;  // of this call, unlike any other's; its lowest kCountBits are 0
  int cache_bytes;           // of shared memory that a group has in a block to keep rows in
  int held;                  // staged: vectors of every row that a thread holds
  bool aligned;              // staged: every row begins with a vector
  bool counted;              // the first launch counted the labels
};

struct Plan {
  bool staged;   // by the staged program; then `vectors` holds, and `doubles` does not
  int lanes;     // staged: of a warp that share a row, kLanes or, where rows may be plain, all;
                 // 0: a block, or a cluster of blocks
  int plain;     // staged: if rows may be of the simple kind of kd_loss_plain_row.cuh, vectors
                 // of every row that a thread holds, at most: 2 or 4; else 0
  bool doubles;  // something is in float64
  bool vectors;  // every row allows 16-byte accesses
  bool warp_per_row;  // general: else a block, or a cluster of blocks
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
  return (1 + kMaxBlocks) * sizeof(double) + (kCountBlocks + positions) * sizeof(int);
}

inline Workspace carve_workspace(void* memory) {
  Workspace w;
  w.ticket = static_cast<unsigned long long*>(memory);
  w.partials = reinterpret_cast<double*>(w.ticket + 1);
  w.counts = reinterpret_cast<int*>(w.partials + kMaxBlocks);
  w.positions = w.counts + kCountBlocks;
  return w;
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

inline Plan general_plan(const KDLoss& p, const Device& device) {
  Plan plan = {};
  plan.doubles = any_doubles(p);
  plan.vectors = !plan.doubles && allows_vectors(p);
  const auto tables_for = [&](bool warp_per_row, int warps) -> int64_t {
    return table_bytes(plan.doubles ? 8 : 4, p.num_teachers, warp_per_row, warps);
  };
  plan.warp_per_row = !plan.doubles && p.classes <= kMaxWarpColumns;
  plan.cluster = 1;
  const int64_t rows = std::max<int64_t>(p.rows, 1);
  int64_t groups = rows;
  if (plan.warp_per_row) {
    // Few rows spread over the multiprocessors first, then fill them.
    const int64_t warps = std::clamp<int64_t>(rows / device.processors, 1, kMaxThreads / 32);
    const int64_t share = device.shared_per_processor / (kResidentThreads / 32) - 128;
    const int64_t tables = tables_for(true, 1);
    const int64_t cache = std::clamp<int64_t>(cache_need(p, false, 32 * kVector, 32), 0,
                                              std::max<int64_t>(share - tables, 0));
    plan.threads = static_cast<int>(warps) * 32;
    plan.launch.cache_bytes = static_cast<int>(cache) / 16 * 16;
    plan.shared_bytes = static_cast<int>(warps * (tables + plan.launch.cache_bytes));
    groups = (rows + warps - 1) / warps;
  } else {
    plan.threads = 64;  // at least four vectors a thread
    while (plan.threads < kMaxThreads && plan.threads * 32 < p.classes) plan.threads *= 2;
    const int64_t tables = tables_for(false, plan.threads / 32);
    const int64_t room = device.shared_per_block - tables;
    const auto need = [&] {
      return cache_need(p, plan.doubles, plan.threads * plan.cluster * kVector, plan.threads);
    };
    // A cluster shares a row that one block cannot keep, or when there are few long rows.
    const auto wants_more = [&] {
      return need() > room || rows * plan.cluster * 2 <= device.processors;
    };
    while (plan.cluster < std::min(kMaxCluster, device.largest_cluster) && wants_more() &&
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

// Whether all teachers know all classes, and class c has the same address modulo eight elements in
// every row of the student, of its gradient and of the teachers.
inline bool allows_staging(const KDLoss& p) {
  const DType dtype = p.student.dtype;
  const auto elements = [](const Logits& x) {
    return reinterpret_cast<int64_t>(x.data) / bytes_of(x.dtype);
  };
  const auto alike = [&](const Logits& x) {
    return x.col_stride == 1 && x.row_stride >= p.classes && x.row_stride <= INT32_MAX &&
           reinterpret_cast<int64_t>(x.data) % bytes_of(x.dtype) == 0 &&
           (elements(x) - elements(p.student)) % kVector == 0 &&
           (x.row_stride - p.student.row_stride) % kVector == 0;
  };
  if (dtype == DType::F64 || p.divergence == Divergence::JS || p.classes < kVector ||
      p.rows > INT32_MAX || !alike(p.student) || !alike({p.grad, p.classes, 1, p.grad_dtype}))
    return false;
  return std::all_of(p.teachers, p.teachers + p.num_teachers, [&](const Teacher& t) {
    return t.logits.dtype == dtype && !t.columns && !t.grad && t.classes == p.classes &&
           alike(t.logits);
  });
}

// Blocks of the staged program that a multiprocessor runs at a time.
inline int staged_residents(const Plan& plan, const Device& device) {
  const int by_shared = device.shared_per_processor / (plan.shared_bytes + 1024);
  return std::min({by_shared, staged_blocks(plan.threads, plan.lanes, plan.plain), 32});
}

// `plan.lanes` of a warp for a row, if `held` vectors each hold it: returns the number of blocks that
// all rows would make; 0 if it is not possible, or multiprocessors would have too few threads.
inline int64_t share_warps(const KDLoss& p, const Device& device, int64_t vectors, int held,
                           Plan& plan) {
  if (vectors > plan.lanes * held) return 0;
  const int64_t rows = std::max<int64_t>(p.rows, 1), of_warp = kWarpSize / plan.lanes;
  // Few rows spread over the multiprocessors first, then fill them.
  const int64_t spread = (rows + of_warp * device.processors - 1) / (of_warp * device.processors);
  plan.launch.held = plan.plain ? held : static_cast<int>((vectors + plan.lanes - 1) / plan.lanes);
  const int most = staged_threads(plan.lanes) / kWarpSize;
  for (int64_t warps = std::min<int64_t>(spread, most); warps > 0; --warps) {
    plan.threads = static_cast<int>(warps) * kWarpSize;
    const int64_t bytes = kScratch + warps * of_warp * table_bytes(4, p.num_teachers, true, 1) +
                          (p.num_teachers + int64_t{1}) * plan.launch.held * plan.threads *
                              kVector * bytes_of(p.student.dtype);
    if (bytes > device.shared_per_block) continue;
    plan.shared_bytes = static_cast<int>(bytes);
    // Plain rows need fewer: their loads do not wait for what came before.
    const int enough = plan.lanes == kLanes ? 1 : kEnoughThreads / 2;
    if (staged_residents(plan, device) * plan.threads >= enough)
      return (rows + of_warp * warps - 1) / (of_warp * warps);
  }
  return 0;
}

// A row for a block or a cluster: `held` vectors a thread. False if that is not possible.
inline bool share_row(const KDLoss& p, const Device& device, int64_t vectors, int cluster, int held,
                      Plan& plan) {
  const int64_t threads = (vectors + held * cluster - 1) / (held * cluster);
  plan.cluster = cluster;
  plan.launch.held = held;
  plan.threads = static_cast<int>((threads + kWarpSize - 1) / kWarpSize * kWarpSize);
  if (threads > staged_threads(0) || (cluster > 1 && plan.threads < 2 * kWarpSize)) return false;
  const int warps = plan.threads / kWarpSize;
  const int64_t bytes = kScratch + table_bytes(4, p.num_teachers, warps == 1, warps) +
                        (p.num_teachers + int64_t{1}) * held * plan.threads * kVector *
                            bytes_of(p.student.dtype);
  plan.shared_bytes = static_cast<int>(std::min<int64_t>(bytes, INT32_MAX / 2));
  return bytes <= device.shared_per_block && staged_residents(plan, device) > 0;
}

// The smallest cluster, and the fewest threads, of which a multiprocessor has two blocks or more
// and enough threads in all; else what has the most threads.
inline bool share_rows(const KDLoss& p, const Device& device, int64_t vectors, Plan& plan) {
  const int64_t rows = std::max<int64_t>(p.rows, 1);
  const int most = std::min(kMaxStagedCluster, device.largest_cluster);
  int least = 1;  // a larger one where there are few rows for many multiprocessors
  while (least < most && rows * least * 2 <= device.processors &&
         vectors > least * 2 * kWarpSize * held_vectors(p.divergence, 0))
    least *= 2;
  Plan best;
  int best_threads = 0;
  for (int cluster = least; cluster <= most; cluster *= 2)
    for (int held = held_vectors(p.divergence, 0); held > 0; --held) {
      if (!share_row(p, device, vectors, cluster, held, plan)) continue;
      const int blocks = staged_residents(plan, device), threads = blocks * plan.threads;
      if (blocks > 1 && threads >= kEnoughThreads) return true;
      if (threads <= best_threads) continue;
      best = plan;
      best_threads = threads;
    }
  plan = best;
  return best_threads > 0;
}

// Whether rows may be plain: known on the host but for numbers in the device's memory.
inline bool may_be_plain(const KDLoss& p) {
  if (p.divergence != Divergence::ForwardKL) return false;
  if (p.weighting != Weighting::Mean &&
      (p.weighting != Weighting::Given || p.weight_row_stride != 0))
    return false;
  return p.numbers || (p.label_smoothing == 0 &&
                       std::all_of(p.teachers, p.teachers + p.num_teachers, [&](const Teacher& t) {
                         return t.temperature == p.teachers[0].temperature;
                       }));
}

// False if no cluster can hold a row.
inline bool plan_staged(const KDLoss& p, const Device& device, Plan& plan) {
  const int64_t size = bytes_of(p.student.dtype), rows = std::max<int64_t>(p.rows, 1);
  plan.launch.aligned = reinterpret_cast<int64_t>(p.student.data) % (kVector * size) == 0 &&
                        p.student.row_stride % kVector == 0;
  const int64_t vectors = (p.classes + (plan.launch.aligned ? 7 : 14)) / kVector;
  plan.staged = plan.vectors = true;
  plan.cluster = 1;
  const bool plain = may_be_plain(p);
  int64_t groups = 0;
  const auto share = [&](int lanes, int held) {
    if (groups > 0) return;
    plan.lanes = lanes;
    plan.plain = plain ? held : 0;
    groups = share_warps(p, device, vectors, held, plan);
  };
  if (may_share_warps(p.divergence) && p.num_teachers <= kLanes) share(kLanes, 2);
  if (plain) {
    share(kWarpSize, 2);
    share(kWarpSize, 4);
  }
  if (groups == 0) {
    plan.lanes = 0;
    plan.plain = plain ? 4 : 0;
    if (!share_rows(p, device, vectors, plan)) return false;
    groups = rows;
  }
  const int64_t most = std::min(device.processors * std::max(staged_residents(plan, device), 1),
                                kMaxBlocks);
  plan.blocks = static_cast<int>(std::min(groups, std::max<int64_t>(most / plan.cluster, 1))) *
                plan.cluster;
  return true;
}

inline Plan make_plan(const KDLoss& p, const Device& device) {
  Plan plan = {};
  if (!allows_staging(p) || !plan_staged(p, device, plan)) plan = general_plan(p, device);
  plan.launch.counted = p.reduction == Reduction::Mean && p.rows > kMaxInlineCount;
  if (plan.launch.counted || has_lists(p))
    plan.prepare_blocks = p.num_teachers + (plan.launch.counted ? kCountBlocks : 0);
  return plan;
}

}  // namespace edufast::cuda
