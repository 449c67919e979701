// csrc/cuda/merge.cu with the launches emulated, behind the operator's own checks and table: built
// with csrc/merge.cpp and csrc/merge_arguments.cpp, it registers edufast_emulated::merge_.
#include "cuda_emulation.h"

inline __half __float2half_rn(float x) {
  return {std::bit_cast<uint16_t>(static_cast<_Float16>(x))};
}

#include "stable_abi.h"
#include "cuda/merge_table.h"

namespace edufast {
namespace {

constexpr int kMaxBlocks = 3;  // fewer than tiles, so that blocks take several

template <class Table>
int64_t launch(const Merge& p, int64_t first) {
  Table table;
  const int64_t last = cuda::pack_merge(p, first, table);
  emulation::run(std::min(table.header.num_tiles, kMaxBlocks), cuda::kMergeThreads, 1, 0, /*order=*/0,
                 [&] { cuda::merge_tiles({table.header, table.bytes}); });
  return last;
}

}  // namespace

// Tables of this size hold few entries, so that several launches are needed.
void cpu::merge(const Merge& p) {
  for (int64_t i = 0; i < p.num_items;) i = launch<cuda::MergeTable<1600>>(p, i);
}

void merge_(std::vector<AtenTensorHandle>, std::vector<AtenTensorHandle>, std::vector<double>, double,
            std::vector<double>, std::vector<int64_t>, std::vector<double>);

}  // namespace edufast

STABLE_TORCH_LIBRARY(edufast_emulated, m) {
  m.def(
      "merge_(Tensor(a!)[] targets, Tensor[] sources, float[] weights, float keep, float[] fill, "
      "int[] moments, float[] moment_weights) -> ()");
}
STABLE_TORCH_LIBRARY_IMPL(edufast_emulated, CPU, m) {
  m.impl("merge_", TORCH_BOX(&edufast::merge_));
}
