// The launches of DIST on the GPU. Nothing here waits for the device, allocates or reads memory, so
// a call can be captured into a graph.
#include "cuda/dist_loss.cuh"
#include "cuda/runtime.h"

namespace edufast::cuda {
namespace {

void check(cudaError_t status) { cuda::check(status, "dist_loss"); }

DistPlan plan_of(const DistLoss& p) { return make_dist_plan(p, processors("dist_loss")); }

struct Launcher {
  cudaStream_t stream;

  template <class... Parameters, class... Arguments>
  void operator()(void (*kernel)(Parameters...), DistLaunch launch, Arguments... arguments) const {
    if (launch.shared > 48 << 10)
      check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                 launch.shared));
    kernel<<<launch.blocks, launch.threads, launch.shared, stream>>>(arguments...);
    check(cudaGetLastError());
  }
};

}  // namespace

int64_t dist_loss_workspace(const DistLoss& p) { return dist_memory_bytes(p, plan_of(p)); }

void dist_loss(const DistLoss& p, void* workspace, void* stream) {
  const auto cuda_stream = static_cast<cudaStream_t>(stream);
  if (p.rows == 0) {
    check(cudaMemsetAsync(p.loss, 0, bytes_of(dist_loss_dtype(p)), cuda_stream));
    return;
  }
  launch_dist(p, plan_of(p), static_cast<char*>(workspace), Launcher{cuda_stream});
}

}  // namespace edufast::cuda
