#include "cuda/scale.cuh"

#include <cuda_runtime.h>

#include <algorithm>
#include <stdexcept>
#include <string>

namespace edufast::cuda {
namespace {

void check(cudaError_t status) {
  if (status != cudaSuccess)
    throw std::runtime_error(std::string("scale_: ") + cudaGetErrorString(status));
}

}  // namespace

void scale(const Scale& p, void* stream) {
  if (p.elements == 0) return;
  int device = 0, processors = 0;
  check(cudaGetDevice(&device));
  check(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device));
  const int64_t block = int64_t(kScaleThreads) * kScaleVectors * 16 / bytes_of(p.dtype);
  const int64_t blocks = std::min<int64_t>((p.elements + block - 1) / block, processors * 8);
  scale_kernel<<<static_cast<unsigned>(blocks), kScaleThreads, 0,
                 static_cast<cudaStream_t>(stream)>>>(p);
  check(cudaGetLastError());
}

}  // namespace edufast::cuda
