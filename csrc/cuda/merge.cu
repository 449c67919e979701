// merge_ on the GPU: one launch, or several where kernel parameters cannot hold the table.
#include "cuda/merge_table.h"
#include "cuda/runtime.h"

namespace edufast::cuda {
namespace {

template <class Table>
__global__ void __launch_bounds__(kMergeThreads, kMergeBlocks)
    merge_kernel(const __grid_constant__ Table table) {
  merge_tiles({table.header, table.bytes});
}

void check(cudaError_t status) { cuda::check(status, "merge_"); }

template <class Table>
int64_t launch(const Merge& p, int64_t first, int processors, cudaStream_t stream) {
  Table table;
  const int64_t last = pack_merge(p, first, table);
  int resident = 0;
  check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&resident, merge_kernel<Table>, kMergeThreads,
                                                      0));
  const int blocks = std::min(table.header.num_tiles, resident * processors);
  merge_kernel<<<blocks, kMergeThreads, 0, stream>>>(table);
  check(cudaGetLastError());
  return last;
}

}  // namespace

void merge(const Merge& p, void* stream) {
  const int count = processors("merge_");
  int64_t entries = 0;
  for (int64_t i = 0; i < p.num_items; ++i) entries += merge_entries(p.items[i]);
  const auto cuda_stream = static_cast<cudaStream_t>(stream);
  if (entries <= merge_capacity<SmallMergeTable>(p.num_sources)) {
    launch<SmallMergeTable>(p, 0, count, cuda_stream);
    return;
  }
  for (int64_t i = 0; i < p.num_items;) i = launch<LargeMergeTable>(p, i, count, cuda_stream);
}

}  // namespace edufast::cuda
