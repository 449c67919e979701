// csrc/cuda/kd_loss.cu with the launches emulated; called by tests/ops/test_kd_loss_cuda.py.
#include "cuda_emulation.h"

#include "cuda/kd_loss.cuh"

using namespace edufast;

extern "C" int64_t problem_bytes() { return sizeof(KDLoss); }

extern "C" int64_t workspace_bytes(const KDLoss* p) { return cuda::workspace_bytes(*p); }

// What was chosen, for tests that mean to reach a certain path: cluster size, shared memory for
// rows, and bits for a warp per row, 16-byte accesses, float64, a first launch, the staged program,
// and there rows that may be plain, and the lanes of a warp that share a row.
struct Choice {
  int32_t blocks, threads, cluster, cache_bytes, flags;
};

extern "C" Choice kd_loss(const KDLoss* p, void* workspace, const cuda::Device* device,
                          unsigned order, uint64_t token) {
  cuda::Plan plan = cuda::make_plan(*p, *device);
  plan.launch.workspace = cuda::carve_workspace(workspace);
  plan.launch.token = token;
  const auto range = [&](const Logits& x) -> emulation::Range {
    const auto* first = static_cast<const char*>(x.data);
    const int64_t elements = (p->rows - 1) * x.row_stride + p->classes;
    return {first, first + elements * bytes_of(x.dtype)};
  };
  emulation::readable = {range(p->student)};
  for (int k = 0; k < p->num_teachers; ++k)
    emulation::readable.push_back(range(p->teachers[k].logits));
  if (plan.prepare_blocks > 0)
    emulation::run(plan.prepare_blocks, cuda::kMaxThreads, 1, cuda::kPrepareShared, order,
                   [&] { cuda::prepare_kernel(*p, plan.launch); });
  const cuda::Kernel kernel = cuda::kernel_of(*p, plan);
  emulation::run(plan.blocks, plan.threads, plan.cluster, plan.shared_bytes, order,
                 [&] { kernel(*p, plan.launch); });
  const int flags = plan.warp_per_row | plan.vectors << 1 | plan.doubles << 2 |
                    (plan.prepare_blocks > 0) << 3 | plan.staged << 4 | (plan.plain > 0) << 5 |
                    plan.lanes << 6;
  return {plan.blocks, plan.threads, plan.cluster, plan.launch.cache_bytes, flags};
}
