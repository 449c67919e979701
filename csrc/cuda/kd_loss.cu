// The launches of the CUDA backend. Nothing here waits for the device, allocates or clears memory,
// so a call can be captured into a graph: one kernel, or two where class lists have to be inverted
// or very many labels counted.
#include "cuda/kd_loss.cuh"
#include "cuda/runtime.h"

#include <atomic>
#include <map>
#include <mutex>
#include <random>
#include <stdexcept>
#include <tuple>
#include <utility>

namespace edufast::cuda {
namespace {

void check(cudaError_t status) { cuda::check(status, "kd_loss"); }

// Queries take a microsecond each: what does not change is asked once.
template <class Key, class Value>
class Known {
 public:
  template <class Find>
  Value get(const Key& key, Find find) {
    const std::lock_guard lock(mutex_);
    const auto found = values_.find(key);
    return found != values_.end() ? found->second : values_.emplace(key, find()).first->second;
  }

 private:
  std::mutex mutex_;
  std::map<Key, Value> values_;
};

Device device_of(int id) {
  static Known<int, Device> known;
  return known.get(id, [id] {
    const auto attribute = [&](cudaDeviceAttr name) {
      int value = 0;
      check(cudaDeviceGetAttribute(&value, name, id));
      return value;
    };
    return Device{attribute(cudaDevAttrMultiProcessorCount),
                  attribute(cudaDevAttrMaxSharedMemoryPerMultiprocessor),
                  attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin),
                  attribute(cudaDevAttrComputeCapabilityMajor) >= 9 ? kMaxStagedCluster : 1};
  });
}

// Unlike every other call's in this process, and unlike what uninitialised memory may hold.
unsigned long long next_token() {
  static std::atomic<unsigned long long> last{[] {
    std::random_device random;
    return (static_cast<unsigned long long>(random()) << 32) | random();
  }()};
  return last.fetch_add(0x9e3779b97f4a7c15ull) << kCountBits;
}

using Kernel = void (*)(const KDLoss, const Launch);

template <Divergence D, bool MayBePlain>
Kernel staged_kernel_of(DType dtype, int lanes) {
  const auto of = [&]<class Stored>() -> Kernel {
    if constexpr (may_share_warps(D))
      if (lanes == kLanes) return kd_loss_staged_kernel<Stored, D, kLanes, MayBePlain>;
    if constexpr (MayBePlain)
      if (lanes == kWarpSize) return kd_loss_staged_kernel<Stored, D, kWarpSize, true>;
    return kd_loss_staged_kernel<Stored, D, 0, MayBePlain>;
  };
  switch (dtype) {
    case DType::BF16: return of.template operator()<__nv_bfloat16>();
    case DType::F16: return of.template operator()<__half>();
    default: return of.template operator()<float>();
  }
}

// float64 is for checking gradients: one program without the fast paths.
template <Divergence D>
Kernel kernel_of(const KDLoss& p, const Plan& plan) {
  if constexpr (D == Divergence::ForwardKL)
    if (plan.may_be_plain) return staged_kernel_of<D, true>(p.student.dtype, plan.lanes);
  if constexpr (D != Divergence::JS)
    if (plan.staged) return staged_kernel_of<D, false>(p.student.dtype, plan.lanes);
  if (plan.doubles) return kd_loss_kernel<double, D, false, false>;
  if (plan.warp_per_row)
    return plan.vectors ? kd_loss_kernel<float, D, true, true>
                        : kd_loss_kernel<float, D, true, false>;
  return plan.vectors ? kd_loss_kernel<float, D, false, true>
                      : kd_loss_kernel<float, D, false, false>;
}

Kernel kernel_of(const KDLoss& p, const Plan& plan) {
  switch (p.divergence) {
    case Divergence::ForwardKL: return kernel_of<Divergence::ForwardKL>(p, plan);
    case Divergence::ReverseKL: return kernel_of<Divergence::ReverseKL>(p, plan);
    case Divergence::JS: return kernel_of<Divergence::JS>(p, plan);
    case Divergence::DKD: return kernel_of<Divergence::DKD>(p, plan);
  }
  throw std::runtime_error("kd_loss: unknown divergence");
}

// All shared memory there is, and not what a plan needs: another thread may be about to launch with
// more. And clusters of any size, where the machine code knows of clusters: code for an older
// architecture may have been translated for this one. Returns whether it does.
bool prepare(Kernel kernel, int id, const Device& device) {
  static Known<std::pair<Kernel, int>, bool> known;
  return known.get({kernel, id}, [&] {
    cudaFuncAttributes attributes;
    check(cudaFuncGetAttributes(&attributes, kernel));
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               device.shared_per_block));
    const bool clusters = device.largest_cluster > 1 && attributes.binaryVersion >= 90;
    if (clusters)
      check(cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1));
    return clusters;
  });
}

cudaLaunchConfig_t configure(const Plan& plan, cudaLaunchAttribute& cluster, cudaStream_t stream) {
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim = {static_cast<unsigned>(plan.cluster), 1, 1};
  cudaLaunchConfig_t config = {};
  config.gridDim = static_cast<unsigned>(plan.blocks);
  config.blockDim = static_cast<unsigned>(plan.threads);
  config.dynamicSmemBytes = static_cast<size_t>(plan.shared_bytes);
  config.stream = stream;
  config.attrs = &cluster;
  config.numAttrs = plan.cluster > 1 ? 1 : 0;
  return config;
}

// Whether the device has room for one of the plan's clusters.
bool has_room(Kernel kernel, int id, const Plan& plan, const cudaLaunchConfig_t& config) {
  static Known<std::tuple<Kernel, int, int, int, int>, bool> known;
  return known.get({kernel, id, plan.cluster, plan.threads, plan.shared_bytes}, [&] {
    int clusters = 0;
    const cudaError_t status = cudaOccupancyMaxActiveClusters(&clusters, kernel, &config);
    if (status != cudaSuccess) cudaGetLastError();  // it is an answer, too
    return status == cudaSuccess && clusters > 0;
  });
}

}  // namespace

static_assert(sizeof(KDLoss) + sizeof(Launch) <= 4096, "kernel parameters are limited to 4 KB");

int64_t kd_loss_workspace(const KDLoss& p) { return workspace_bytes(p); }

void kd_loss(const KDLoss& p, void* workspace, void* stream) {
  const auto cuda_stream = static_cast<cudaStream_t>(stream);
  int id = 0;
  check(cudaGetDevice(&id));
  Device device = device_of(id);
  Plan plan;
  Kernel kernel;
  cudaLaunchAttribute cluster = {};
  cudaLaunchConfig_t config;
  for (;;) {
    plan = make_plan(p, device);
    kernel = kernel_of(p, plan);
    const bool clusters = prepare(kernel, id, device);
    config = configure(plan, cluster, cuda_stream);
    if (plan.cluster == 1 || (clusters && has_room(kernel, id, plan, config))) break;
    device.largest_cluster = plan.cluster / 2;
  }
  plan.launch.workspace = carve_workspace(workspace);
  plan.launch.token = next_token();
  if (plan.prepare_blocks > 0) {
    prepare_kernel<<<plan.prepare_blocks, kMaxThreads, kPrepareShared, cuda_stream>>>(p,
                                                                                      plan.launch);
    check(cudaGetLastError());
  }
  check(cudaLaunchKernelEx(&config, kernel, p, plan.launch));
}

}  // namespace edufast::cuda
