// The boundary between the threads (merge.cpp) and the loops (merge_blocks.cpp), which exist once
// per instruction set.
#pragma once

#include "../merge.h"

namespace edufast::cpu {
// A block is part of one item and starts at a multiple of this many elements. Threads take whole
// blocks, so results do not depend on their number; an accumulator of this size stays in L1.
constexpr int64_t kMergeBlock = 1024;
}

#define EDUFAST_DECLARE_MERGE_BLOCKS(isa)                                       \
  namespace edufast::isa {                                                      \
  /* Elements [begin, begin + size) of an item, at most kMergeBlock of them. */ \
  void merge_block(const Merge& problem, const MergeItem& item, int64_t begin, int64_t size); \
  }
