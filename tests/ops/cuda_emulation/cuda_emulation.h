// Runs CUDA kernels on a CPU, one fiber per thread, to test them where no GPU is.
//
// Blocks run one after the other (the blocks of a cluster together). A fiber runs until its next
// barrier or warp operation, and a warp as far ahead of the others as barriers allow; the order of
// blocks and threads is the caller's, so that a missing barrier shows as a result that depends on it.
// Threads that wait at different barriers, or for a thread that has left, end the run with an error,
// and shared memory starts as NaN.
#pragma once

#include <ucontext.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <numeric>
#include <random>
#include <type_traits>
#include <vector>

#define EDUFAST_CUDA_EMULATION
#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __noinline__
#define __grid_constant__
#define __launch_bounds__(...)

struct uint4 {
  unsigned x, y, z, w;
};

struct float2 {
  float x, y;
};

namespace emulation {

struct Index {
  unsigned x;
};

enum class Wait { None, Warp, Block, Cluster, Left };

struct Copy {  // that nobody has waited for
  void* to;
  const void* from;
  int group;
};

struct Fiber {
  ucontext_t context;
  std::unique_ptr<char[]> stack;
  Index thread, block;
  int block_in_cluster;
  Wait wait = Wait::None;
  const char* operation = "";
  int exchanges = 0;
  std::vector<Copy> copies;  // not waited for yet
  int copy_groups = 0;       // committed
};

struct Launch {
  Index grid, threads;
  int cluster;
  std::function<void()> kernel;
  std::vector<Fiber> fibers;  // of the running cluster
  std::vector<std::vector<uint4>> shared;
  std::vector<uint64_t> exchange;  // two slots per fiber
  ucontext_t scheduler;
};

inline Launch* launch = nullptr;
inline Fiber* self = nullptr;

struct Range {
  const char *first, *last;
};
inline std::vector<Range> readable;  // by copies

[[noreturn]] inline void fail(const char* message) {
  std::fprintf(stderr, "cuda emulation: %s (%s)\n", message, self ? self->operation : "");
  std::abort();
}

inline void wait(Wait kind, const char* operation) {
  Fiber* fiber = self;
  fiber->wait = kind;
  fiber->operation = operation;
  swapcontext(&fiber->context, &launch->scheduler);
}

inline int fiber_index() { return static_cast<int>(self - launch->fibers.data()); }

// Every lane shows a value and looks at another's.
template <class T>
T exchange(T value, int source_lane, const char* operation) {
  static_assert(sizeof(T) <= 8);
  const int parity = self->exchanges++ % 2, mine = fiber_index(), warp = mine - mine % 32;
  std::memcpy(&launch->exchange[2 * mine + parity], &value, sizeof(T));
  wait(Wait::Warp, operation);
  std::memcpy(&value, &launch->exchange[2 * (warp + source_lane) + parity], sizeof(T));
  return value;
}

inline int lane() { return self->thread.x % 32; }

inline void enter() {
  launch->kernel();
  self->wait = Wait::Left;
  swapcontext(&self->context, &launch->scheduler);
}

// Releases the group of `size` fibers around one, if all wait for the same.
inline bool release(size_t fiber, size_t size, Wait kind) {
  const auto first = launch->fibers.begin() + fiber / size * size, last = first + size;
  if (!std::all_of(first, last, [&](const Fiber& f) { return f.wait == kind; })) return false;
  for (auto f = first; f != last; ++f) {
    self = &*f;
    if (std::strcmp(f->operation, first->operation)) fail("a warp is at different operations");
    f->wait = Wait::None;
  }
  return true;
}

inline void run_cluster(int first_block, int shared_bytes, unsigned order) {
  const size_t threads = launch->threads.x, count = threads * launch->cluster;
  launch->fibers = std::vector<Fiber>(count);
  launch->exchange.assign(2 * count, 0);
  launch->shared.assign(launch->cluster, {});
  for (auto& s : launch->shared) {
    s.resize((shared_bytes + 15) / 16);
    std::memset(s.data(), 0xff, s.size() * sizeof(uint4));
  }
  constexpr size_t kStack = 128 * 1024;
  for (size_t i = 0; i < count; ++i) {
    Fiber& f = launch->fibers[i];
    f.thread.x = i % threads;
    f.block_in_cluster = static_cast<int>(i / threads);
    f.block.x = first_block + f.block_in_cluster;
    f.stack.reset(new char[kStack]);
    getcontext(&f.context);
    f.context.uc_stack.ss_sp = f.stack.get();
    f.context.uc_stack.ss_size = kStack;
    f.context.uc_link = nullptr;
    makecontext(&f.context, enter, 0);
  }
  std::vector<size_t> lanes(32), warps(count / 32);
  std::iota(lanes.begin(), lanes.end(), 0);
  std::iota(warps.begin(), warps.end(), 0);
  if (order == 1) {
    std::reverse(lanes.begin(), lanes.end());
    std::reverse(warps.begin(), warps.end());
  }
  std::mt19937 random(order);
  const auto runs = [](const Fiber& f) { return f.wait == Wait::None; };
  for (;;) {
    if (order > 1) {
      std::shuffle(lanes.begin(), lanes.end(), random);
      std::shuffle(warps.begin(), warps.end(), random);
    }
    // One warp as far as it gets: the others then are as far behind as barriers allow.
    const auto warp = std::find_if(warps.begin(), warps.end(), [&](size_t w) {
      const auto first = launch->fibers.begin() + w * 32;
      return std::any_of(first, first + 32, runs);
    });
    if (warp == warps.end()) break;
    for (const size_t lane : lanes) {
      self = &launch->fibers[*warp * 32 + lane];
      if (runs(*self)) swapcontext(&launch->scheduler, &self->context);
    }
    const size_t fiber = *warp * 32;
    release(fiber, 32, Wait::Warp) || release(fiber, threads, Wait::Block) ||
        release(fiber, count, Wait::Cluster);
  }
  for (Fiber& f : launch->fibers) {
    self = &f;
    if (f.wait != Wait::Left) fail("threads wait for each other");
  }
}

// order: of blocks and threads; 0 ascending, 1 descending, more: random.
inline void run(int blocks, int threads, int cluster, int shared_bytes, unsigned order,
                std::function<void()> kernel) {
  Launch state = {{static_cast<unsigned>(blocks)},
                  {static_cast<unsigned>(threads)},
                  cluster,
                  std::move(kernel),
                  {},
                  {},
                  {},
                  {}};
  launch = &state;
  std::vector<int> clusters(blocks / cluster);
  std::iota(clusters.begin(), clusters.end(), 0);
  if (order == 1) std::reverse(clusters.begin(), clusters.end());
  if (order > 1) std::shuffle(clusters.begin(), clusters.end(), std::mt19937(order));
  for (const int c : clusters) run_cluster(c * cluster, shared_bytes, order);
  launch = nullptr;
  self = nullptr;
}

// Memory of the device that nobody has written yet.
inline std::unique_ptr<uint4[]> workspace(int64_t bytes) {
  std::unique_ptr<uint4[]> memory(new uint4[bytes / 16 + 1]);
  std::memset(memory.get(), 0xff, bytes);
  return memory;
}

}  // namespace emulation

// Of operators that are emulated behind their own checks; set by the tests. The order of blocks and
// threads; and whether numbers are in the device's memory: 1 yes, 2 yes and one is out of range.
#define EDUFAST_OF_TESTS extern "C" __attribute__((visibility("default"))) inline
EDUFAST_OF_TESTS unsigned emulation_order = 0;
EDUFAST_OF_TESTS unsigned emulation_numbers = 0;

#define threadIdx (emulation::self->thread)
#define blockIdx (emulation::self->block)
#define blockDim (emulation::launch->threads)
#define gridDim (emulation::launch->grid)

inline char* dynamic_shared() {
  auto& shared = emulation::launch->shared[emulation::self->block_in_cluster];
  return reinterpret_cast<char*>(shared.data());
}

inline void __syncthreads() { emulation::wait(emulation::Wait::Block, "__syncthreads"); }
inline void __syncwarp() { emulation::wait(emulation::Wait::Warp, "__syncwarp"); }
inline void __threadfence() {}
inline void let_next_launch_begin() {}
inline void wait_for_launch_ahead() {}
inline unsigned long long atomicCAS(unsigned long long* word, unsigned long long expected,
                                    unsigned long long desired) {
  const unsigned long long found = *word;
  if (found == expected) *word = desired;
  return found;
}

inline unsigned long long atomicAdd(unsigned long long* word, unsigned long long summand) {
  const unsigned long long found = *word;
  *word += summand;
  return found;
}

// Nothing arrives before it is waited for.
inline void copy_async(uint4* to, const void* from) {
  const auto* first = static_cast<const char*>(from);
  const auto holds = [first](const emulation::Range& x) {
    return first >= x.first && first + sizeof(uint4) <= x.last;
  };
  if (std::none_of(emulation::readable.begin(), emulation::readable.end(), holds))
    emulation::fail("a copy reads outside the tensors");
  emulation::self->copies.push_back({to, from, emulation::self->copy_groups});
}
inline void commit_copies() { ++emulation::self->copy_groups; }
inline void wait_for_copies_but(int groups) {
  std::erase_if(emulation::self->copies, [&](const emulation::Copy& c) {
    const bool due = c.group < emulation::self->copy_groups - groups;
    if (due) std::memcpy(c.to, c.from, sizeof(uint4));
    return due;
  });
}
inline void wait_for_copies() {
  commit_copies();
  wait_for_copies_but(0);
}

template <class T>
T __shfl_xor_sync(unsigned, T x, int mask) {
  return emulation::exchange(x, emulation::lane() ^ mask, "__shfl_xor_sync");
}
template <class T>
T __shfl_up_sync(unsigned, T x, int distance) {
  return emulation::exchange(x, std::max(emulation::lane() - distance, 0), "__shfl_up_sync");
}
template <class T>
T __shfl_sync(unsigned, T x, int lane) {
  return emulation::exchange(x, lane, "__shfl_sync");
}
inline unsigned __ballot_sync(unsigned mask, bool x) {
  unsigned bits = unsigned(x) << emulation::lane();
  for (int step = 16; step > 0; step /= 2) bits |= __shfl_xor_sync(mask, bits, step);
  return bits;
}
inline bool __any_sync(unsigned mask, bool x) { return __ballot_sync(mask, x) != 0; }

using std::max;
using std::min;
inline int __clz(int x) { return std::countl_zero(static_cast<unsigned>(x)); }
inline int __ffs(unsigned x) { return x ? std::countr_zero(x) + 1 : 0; }
inline int __popc(unsigned x) { return std::popcount(x); }
inline float __int_as_float(int x) { return std::bit_cast<float>(x); }

struct __nv_bfloat16 {
  uint16_t bits;
};
struct __half {
  uint16_t bits;
};
inline float __bfloat162float(__nv_bfloat16 x) {
  return std::bit_cast<float>(uint32_t(x.bits) << 16);
}
inline __nv_bfloat16 __float2bfloat16_rn(float x) {
  const auto bits = std::bit_cast<uint32_t>(x);
  if (x != x) return {0x7fff};
  return {static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}
inline float __half2float(__half x) { return static_cast<float>(std::bit_cast<_Float16>(x.bits)); }
inline __half __float2half_rn(float x) {
  return {std::bit_cast<uint16_t>(static_cast<_Float16>(x))};
}

namespace cooperative_groups {
struct Cluster {
  int num_blocks() const { return emulation::launch->cluster; }
  int block_rank() const { return emulation::self->block_in_cluster; }
  void sync() const { emulation::wait(emulation::Wait::Cluster, "cluster.sync"); }
  template <class T>
  T* map_shared_rank(T* address, int rank) const {
    const auto offset = reinterpret_cast<char*>(address) - ::dynamic_shared();
    return reinterpret_cast<T*>(reinterpret_cast<char*>(emulation::launch->shared[rank].data()) +
                                offset);
  }
};
inline Cluster this_cluster() { return {}; }
}  // namespace cooperative_groups
