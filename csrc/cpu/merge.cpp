// merge_ on the CPU: which instruction set, which thread takes which blocks.
#include "../common.h"
#include "merge_blocks.h"

#include <algorithm>
#include <vector>

EDUFAST_DECLARE_MERGE_BLOCKS(baseline)
#ifdef __x86_64__
EDUFAST_DECLARE_MERGE_BLOCKS(x86_64_v3)
EDUFAST_DECLARE_MERGE_BLOCKS(x86_64_v4)
#endif

namespace edufast::cpu {
namespace {

decltype(&baseline::merge_block) best_implementation() {
#ifdef __x86_64__
  if (__builtin_cpu_supports("x86-64-v4")) return x86_64_v4::merge_block;
  if (__builtin_cpu_supports("x86-64-v3")) return x86_64_v3::merge_block;
#endif
  return baseline::merge_block;
}

// Blocks per thread, so that each gets some ten microseconds of work: less does not pay for waking
// it.
int64_t grain(const Merge& p, int64_t blocks) {
  constexpr int64_t kElementsPerThread = 1 << 16;
  int64_t elements = 1;
  for (int64_t i = 0; i < p.num_items; ++i) elements += p.items[i].size * (p.num_sources + 1);
  return 1 + blocks * kElementsPerThread / elements;
}

}  // namespace

void merge(const Merge& p) {
  static const auto merge_block = best_implementation();
  // All tensors make one range of blocks, cut into equal parts: hundreds of small tensors cost one
  // parallel region, and one large tensor occupies every thread.
  std::vector<int64_t> first_block(p.num_items + 1, 0);
  for (int64_t i = 0; i < p.num_items; ++i)
    first_block[i + 1] = first_block[i] + (p.items[i].size + kMergeBlock - 1) / kMergeBlock;
  torch::stable::parallel_for(0, first_block.back(), grain(p, first_block.back()),
                              [&](int64_t begin, int64_t end) {
    int64_t i = std::upper_bound(first_block.begin(), first_block.end(), begin) -
                first_block.begin() - 1;
    for (; i < p.num_items && first_block[i] < end; ++i) {
      const MergeItem& item = p.items[i];
      const int64_t stop = std::min(item.size, (end - first_block[i]) * kMergeBlock);
      for (int64_t at = std::max<int64_t>(0, begin - first_block[i]) * kMergeBlock; at < stop;
           at += kMergeBlock)
        merge_block(p, item, at, std::min(kMergeBlock, stop - at));
    }
  });
}

}  // namespace edufast::cpu
