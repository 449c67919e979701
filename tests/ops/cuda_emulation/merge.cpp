// csrc/cuda/merge.cu with the launches emulated, in place of the CPU's kernel behind the operator's
// own checks: built with csrc/merge*.cpp, as edufast_emulated::merge_ (load_operator of driver.py).
#include "cuda_emulation.h"

#include "cuda/merge_table.h"

namespace edufast {
namespace {

constexpr int kMaxBlocks = 3;  // fewer than tiles, so that blocks take several

template <class Table>
int64_t launch(const Merge& p, int64_t first) {
  Table table;
  const int64_t last = cuda::pack_merge(p, first, table);
  emulation::run(std::min(table.header.num_tiles, kMaxBlocks), cuda::kMergeThreads, 1, 0,
                 /*order=*/0, [&] { cuda::merge_tiles({table.header, table.bytes}); });
  return last;
}

}  // namespace

// Tables of this size hold few entries, so that several launches are needed.
void cpu::merge(const Merge& p) {
  for (int64_t i = 0; i < p.num_items;) i = launch<cuda::MergeTable<1600>>(p, i);
}

}  // namespace edufast
