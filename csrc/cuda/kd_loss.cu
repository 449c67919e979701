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

cudaLaunchConfig_t configure(const Plan& plan, bool overlaps, cudaLaunchAttribute (&attributes)[2],
                             cudaStream_t stream) {
  cudaLaunchConfig_t config = {};
  const auto add = [&](cudaLaunchAttributeID id) -> cudaLaunchAttributeValue& {
    attributes[config.numAttrs] = {id};
    return attributes[config.numAttrs++].val;
  };
  if (plan.cluster > 1)
    add(cudaLaunchAttributeClusterDimension).clusterDim = {static_cast<unsigned>(plan.cluster), 1,
                                                           1};
  if (overlaps)
    add(cudaLaunchAttributeProgrammaticStreamSerialization).programmaticStreamSerializationAllowed =
        1;
  config.gridDim = static_cast<unsigned>(plan.blocks);
  config.blockDim = static_cast<unsigned>(plan.threads);
  config.dynamicSmemBytes = static_cast<size_t>(plan.shared_bytes);
  config.stream = stream;
  config.attrs = attributes;
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
  cudaLaunchAttribute attributes[2];
  cudaLaunchConfig_t config;
  for (;;) {
    plan = make_plan(p, device);
    kernel = kernel_of(p, plan);
    const bool clusters = prepare(kernel, id, device);
    // The staged program copies its first rows while the first launch counts labels.
    const bool overlaps = clusters && plan.staged && plan.prepare_blocks > 0;
    config = configure(plan, overlaps, attributes, cuda_stream);
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
