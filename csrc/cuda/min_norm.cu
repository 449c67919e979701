// The launches of AEKD's weights on the GPU. Nothing here waits for the device, allocates or reads
// memory, so a call can be captured into a graph.
#include "cuda/min_norm.cuh"
#include "cuda/runtime.h"

#include "cuda/min_norm_weights.cuh"

namespace edufast::cuda {
namespace {

void check(cudaError_t status) { cuda::check(status, "min_norm_weights"); }

GramPlan plan_of(const GradientGram& p) {
  return make_gram_plan(p, processors("min_norm_weights"));
}

}  // namespace

int64_t gradient_gram_workspace(const GradientGram& p) { return gram_memory_bytes(p, plan_of(p)); }

void gradient_gram(const GradientGram& p, void* workspace, void* stream) {
  const auto cuda_stream = static_cast<cudaStream_t>(stream);
  if (p.rows == 0) {
    check(cudaMemsetAsync(p.gram, 0, sizeof(double) * p.num_teachers * p.num_teachers,
                          cuda_stream));
    return;
  }
  launch_gram(p, plan_of(p), static_cast<char*>(workspace),
              [&](auto kernel, GramLaunch launch, auto... arguments) {
                kernel<<<launch.blocks, kGramThreads, launch.shared, cuda_stream>>>(arguments...);
                check(cudaGetLastError());
              });
}

void min_norm_weights(const double* gram, int64_t num_teachers, double cap, const double* number,
                      float* weights, void* stream) {
  const int k = static_cast<int>(num_teachers);
  launch_min_norm(k, [&](auto kernel) {
    kernel<<<1, kWarpSize, 0, static_cast<cudaStream_t>(stream)>>>(gram, k, cap, number, weights);
    check(cudaGetLastError());
  });
}

}  // namespace edufast::cuda
