// The boundary between the threads (merge.cpp) and the loops (merge_blocks.cpp), which exist once
// per instruction set.
#pragma once

#include "merge.h"

namespace edufast::cpu {
// Threads take parts of items that begin at multiples of this many elements; accumulators of this
// size stay in L1.
constexpr int64_t kMergeBlock = 1024;
}  // namespace edufast::cpu

#define EDUFAST_DECLARE_MERGE_RANGE(isa)                                                     \
  namespace edufast::isa {                                                                   \
  /* `stream`: targets bypass the cache, which they would not fit into. */                   \
  void merge_range(const Merge& problem, const MergeItem& item, int64_t begin, int64_t size, \
                   bool stream);                                                             \
  }
