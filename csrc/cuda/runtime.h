// What every launch asks of the CUDA runtime.
#pragma once

#include <cuda_runtime.h>

#include <stdexcept>
#include <string>

namespace edufast::cuda {

inline void check(cudaError_t status, const char* operation) {
  if (status != cudaSuccess)
    throw std::runtime_error(std::string(operation) + ": " + cudaGetErrorString(status));
}

// Multiprocessors of the current device.
inline int processors(const char* operation) {
  int device = 0, count = 0;
  check(cudaGetDevice(&device), operation);
  check(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device), operation);
  return count;
}

}  // namespace edufast::cuda
