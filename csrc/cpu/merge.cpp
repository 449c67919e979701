// merge_ on the CPU: which thread takes which blocks.
#include "cpu/isa.h"
#include "cpu/merge_blocks.h"
#include "parallel.h"

#include <algorithm>
#include <vector>

EDUFAST_FOR_EACH_ISA(EDUFAST_DECLARE_MERGE_RANGE)

namespace edufast::cpu {
namespace {

// A thread gets at least some fifty microseconds of work: less does not pay for waking it, and for
// waiting until it runs on a machine that is busy.
constexpr int64_t kElementsPerThread = 1 << 18;
// Beyond the size of most caches.
constexpr int64_t kStreamedElements = 1 << 24;

}  // namespace

void merge(const Merge& p) {
  const auto merge_range = EDUFAST_LOOPS(merge_range);
  // All tensors make one range of blocks, cut into equal parts: hundreds of small tensors cost one
  // parallel region, and one large tensor occupies every thread.
  std::vector<int64_t> first_block(p.num_items + 1, 0);
  int64_t elements = 0;  // to read and write
  for (int64_t i = 0; i < p.num_items; ++i) {
    first_block[i + 1] = first_block[i] + (p.items[i].size + kMergeBlock - 1) / kMergeBlock;
    elements += p.items[i].size * (p.num_sources + 1);
  }
  const int64_t blocks = first_block.back();
  const int64_t grain = 1 + blocks * kElementsPerThread / (elements + 1);
  const bool stream = elements > kStreamedElements;
  parallel_for(0, blocks, grain, [&](int64_t begin, int64_t end) {
    int64_t i = std::upper_bound(first_block.begin(), first_block.end(), begin) -
                first_block.begin() - 1;
    for (; i < p.num_items && first_block[i] < end; ++i) {
      const MergeItem& item = p.items[i];
      const int64_t start = std::max<int64_t>(0, begin - first_block[i]) * kMergeBlock;
      const int64_t stop = std::min(item.size, (end - first_block[i]) * kMergeBlock);
      merge_range(p, item, start, stop - start, stream);
    }
  });
}

}  // namespace edufast::cpu
