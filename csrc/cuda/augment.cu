// augment on the GPU: one launch.
#include <algorithm>

#include "cuda/augment.cuh"
#include "cuda/runtime.h"

namespace edufast::cuda {
namespace {

template <class T, int Channels>
__global__ void __launch_bounds__(kAugmentThreads)
    augment_kernel(const __grid_constant__ Augment problem) {
  augment_images<T, Channels>(problem);
}

}  // namespace

void augment(const Augment& p, void* stream) {
  if (p.batch == 0) return;
  const int64_t blocks = augment_blocks(p.image_bytes());
  const int64_t images = std::min(p.batch, ((int64_t{1} << 31) - 1) / blocks);
  const auto grid = static_cast<unsigned>(images * blocks);
  with_result(p, [&](auto type, auto channels) {
    augment_kernel<decltype(type), channels.value>
        <<<grid, kAugmentThreads, 0, static_cast<cudaStream_t>(stream)>>>(p);
  });
  check(cudaGetLastError(), "augment");
}

}  // namespace edufast::cuda
