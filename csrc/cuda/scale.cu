#include "cuda/runtime.h"
#include "cuda/scale.cuh"

#include <algorithm>

namespace edufast::cuda {

void scale(const Scale& p, void* stream) {
  if (p.elements == 0) return;
  const int64_t block = int64_t(kScaleThreads) * kScaleVectors * 16 / bytes_of(p.dtype);
  const int64_t blocks = std::min<int64_t>((p.elements + block - 1) / block,
                                           processors("scale_") * 8);
  scale_kernel<<<static_cast<unsigned>(blocks), kScaleThreads, 0,
                 static_cast<cudaStream_t>(stream)>>>(p);
  check(cudaGetLastError(), "scale_");
}

}  // namespace edufast::cuda
