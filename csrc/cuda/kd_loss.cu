// The launches of the CUDA backend. Nothing here waits for the device, allocates or clears memory,
// so a call can be captured into a graph: one kernel, or two where class lists have to be inverted
// or very many labels counted.
#include "cuda/kd_loss.cuh"

#include <cuda_runtime.h>

#include <atomic>
#include <random>
#include <stdexcept>
#include <string>

namespace edufast::cuda {
namespace {

void check(cudaError_t status) {
  if (status != cudaSuccess)
    throw std::runtime_error(std::string("kd_loss: ") + cudaGetErrorString(status));
}

Device current_device() {
  int id = 0;
  check(cudaGetDevice(&id));
  const auto attribute = [&](cudaDeviceAttr name) {
    int value = 0;
    check(cudaDeviceGetAttribute(&value, name, id));
    return value;
  };
  return {attribute(cudaDevAttrMultiProcessorCount),
          attribute(cudaDevAttrMaxSharedMemoryPerMultiprocessor),
          attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin),
          attribute(cudaDevAttrComputeCapabilityMajor) >= 9};
}

// Unlike every other call's in this process, and unlike what uninitialised memory may hold.
unsigned long long next_token() {
  static std::atomic<unsigned long long> last{[] {
    std::random_device random;
    return (static_cast<unsigned long long>(random()) << 32) | random();
  }()};
  const unsigned long long token = last.fetch_add(0x9e3779b97f4a7c15ull);
  return token ? token : last.fetch_add(0x9e3779b97f4a7c15ull);
}

using Kernel = void (*)(const KDLoss, const Launch);

// float64 is for checking gradients: one program without the fast paths.
template <Divergence D>
Kernel kernel_of(const Plan& plan) {
  if (plan.doubles) return kd_loss_kernel<double, D, false, false>;
  if (plan.warp_per_row)
    return plan.vectors ? kd_loss_kernel<float, D, true, true>
                        : kd_loss_kernel<float, D, true, false>;
  return plan.vectors ? kd_loss_kernel<float, D, false, true>
                      : kd_loss_kernel<float, D, false, false>;
}

Kernel kernel_of(const KDLoss& p, const Plan& plan) {
  switch (p.divergence) {
    case Divergence::ForwardKL: return kernel_of<Divergence::ForwardKL>(plan);
    case Divergence::ReverseKL: return kernel_of<Divergence::ReverseKL>(plan);
    case Divergence::JS: return kernel_of<Divergence::JS>(plan);
    case Divergence::DKD: return kernel_of<Divergence::DKD>(plan);
  }
  throw std::runtime_error("kd_loss: unknown divergence");
}

}  // namespace

static_assert(sizeof(KDLoss) + sizeof(Launch) <= 4096, "kernel parameters are limited to 4 KB");

int64_t kd_loss_workspace(const KDLoss& p) { return workspace_bytes(p); }

void kd_loss(const KDLoss& p, void* workspace, void* stream) {
  Plan plan = make_plan(p, current_device());
  plan.launch.workspace = carve_workspace(workspace);
  plan.launch.token = next_token();
  const auto cuda_stream = static_cast<cudaStream_t>(stream);
  if (plan.prepare_blocks > 0) {
    prepare_kernel<<<plan.prepare_blocks, kMaxThreads, kPrepareShared, cuda_stream>>>(p,
                                                                                      plan.launch);
    check(cudaGetLastError());
  }

  const Kernel kernel = kernel_of(p, plan);
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             plan.shared_bytes));
  cudaLaunchAttribute cluster = {};
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim = {static_cast<unsigned>(plan.cluster), 1, 1};
  cudaLaunchConfig_t config = {};
  config.gridDim = static_cast<unsigned>(plan.blocks);
  config.blockDim = static_cast<unsigned>(plan.threads);
  config.dynamicSmemBytes = static_cast<size_t>(plan.shared_bytes);
  config.stream = cuda_stream;
  config.attrs = &cluster;
  config.numAttrs = plan.cluster > 1 ? 1 : 0;
  check(cudaLaunchKernelEx(&config, kernel, p, plan.launch));
}

}  // namespace edufast::cuda
