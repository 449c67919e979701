// csrc/cuda/augment.cu with the launches emulated, in place of the CPU's kernel behind the operator's
// own checks: built with csrc/augment.cpp, as edufast_emulated::augment (load_operator of driver.py).
#include "cuda_emulation.h"

#include "cuda/augment.cuh"

namespace edufast {

constexpr int64_t kImages = 3;  // at a time: fewer than most batches have

void cpu::augment(const Augment& p) {
  const int64_t blocks = cuda::augment_blocks(p.image_bytes()) * std::min(p.batch, kImages);
  cuda::with_result(p, [&](auto type, auto channels) {
    emulation::run(static_cast<int>(blocks), cuda::kAugmentThreads, 1, 0, /*order=*/0,
                   [&] { cuda::augment_images<decltype(type), channels.value>(p); });
  });
}

}  // namespace edufast
