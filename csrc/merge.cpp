// The operators merge_, merge_check and merge_plan*: their schemas and their dispatch, once or as a
// plan that is carried out again and again.
#include "merge_items.h"

#include <map>
#include <memory>
#include <mutex>
#include <utility>

namespace edufast {
namespace {

// Whether there is a kernel for every target, before any is written.
void check_kernels(const MergeArguments& a) {
  for (int64_t i = 0; i < a.pairs(); ++i) {
    const int32_t type = a.target_views[i].device.type;
#ifdef EDUFAST_HAS_CUDA
    const bool cuda = type == aoti_torch_device_type_cuda();
    MERGE_CHECK(!cuda || a.num_sources <= kMaxCudaSources, "there are ", a.num_sources,
                " lists of sources; expected at most ", kMaxCudaSources, " on CUDA");
    MERGE_CHECK(cuda || type == aoti_torch_device_type_cpu(), target_name(i), " is on ",
                device_name(shared(a.targets[i])), "; expected cpu or cuda");
#else
    MERGE_CHECK(type == aoti_torch_device_type_cpu(), target_name(i), " is on ",
                device_name(shared(a.targets[i])),
                "; expected cpu, for which this build has kernels");
#endif
  }
}

class Plan {
 public:
  explicit Plan(MergeArguments arguments) : arguments_(std::move(arguments)) { prepare(); }

  // By one thread at a time: threads run it without Python's lock.
  void run(const MergeWeights& weights) {
    const std::lock_guard lock(mutex_);
    weights.check(arguments_);
    if (!items_ || !items_->reusable() || snapshot_->outdated()) {
      items_.reset();
      arguments_.look();
      prepare();
    }
    items_->run(weights);
  }

 private:
  void prepare() {
    check_kernels(arguments_);
    snapshot_ = std::make_unique<Snapshot>(arguments_.targets, arguments_.sources);
    items_ = std::make_unique<MergeItems>(arguments_);
  }

  std::mutex mutex_;
  MergeArguments arguments_;
  std::unique_ptr<Snapshot> snapshot_;
  std::unique_ptr<MergeItems> items_;  // none: the arguments do not fit any more
};

// Plans live here, and Python holds their numbers: the stable ABI has no class of its own.
struct Plans {
  std::mutex mutex;
  std::map<int64_t, std::shared_ptr<Plan>> by_number;
  int64_t last = 0;
};

Plans& plans() {
  static Plans* const all = new Plans;  // never destroyed: tensors must not outlive torch at exit
  return *all;
}

// --- operators; `sources` is list after list, one list for each of the weights ------------------

void merge_check(TensorHandles targets, TensorHandles sources, std::vector<double> weights,
                 double keep, std::vector<double> fill, std::vector<int64_t> moments,
                 std::vector<double> moment_weights) {
  const int64_t n = static_cast<int64_t>(weights.size());
  const MergeArguments arguments(targets, sources, n, std::move(fill), std::move(moments));
  MergeWeights{std::move(weights), keep, std::move(moment_weights)}.check(arguments);
}

void merge_(TensorHandles targets, TensorHandles sources, std::vector<double> weights, double keep,
            std::vector<double> fill, std::vector<int64_t> moments,
            std::vector<double> moment_weights) {
  const int64_t n = static_cast<int64_t>(weights.size());
  const MergeArguments arguments(targets, sources, n, std::move(fill), std::move(moments));
  check_kernels(arguments);
  const MergeWeights numbers{std::move(weights), keep, std::move(moment_weights)};
  numbers.check(arguments);
  MergeItems(arguments).run(numbers);
}

int64_t merge_plan(TensorHandles targets, TensorHandles sources, int64_t num_sources,
                   std::vector<double> fill, std::vector<int64_t> moments) {
  auto plan = std::make_shared<Plan>(MergeArguments(targets, sources, num_sources, std::move(fill),
                                                    std::move(moments)));
  const std::lock_guard lock(plans().mutex);
  plans().by_number[++plans().last] = std::move(plan);
  return plans().last;
}

void merge_plan_run(int64_t number, std::vector<double> weights, double keep,
                    std::vector<double> moment_weights) {
  std::shared_ptr<Plan> plan;
  {
    const std::lock_guard lock(plans().mutex);
    const auto found = plans().by_number.find(number);
    MERGE_CHECK(found != plans().by_number.end(), "there is no plan ", number,
                "; expected a number that merge_plan returned");
    plan = found->second;
  }
  plan->run({std::move(weights), keep, std::move(moment_weights)});
}

void merge_plan_free(int64_t number) {
  const std::lock_guard lock(plans().mutex);
  MERGE_CHECK(plans().by_number.erase(number) == 1, "there is no plan ", number,
              "; expected a number that merge_plan returned, once");
}

}  // namespace
}  // namespace edufast

STABLE_TORCH_LIBRARY_FRAGMENT(edufast, m) {
  m.def(
      "merge_(Tensor(a!)[] targets, Tensor[] sources, float[] weights, float keep, float[] fill, "
      "int[] moments, float[] moment_weights) -> ()");
  m.def(
      "merge_check(Tensor[] targets, Tensor[] sources, float[] weights, float keep, float[] fill, "
      "int[] moments, float[] moment_weights) -> ()");
  m.def(
      "merge_plan(Tensor[] targets, Tensor[] sources, int num_sources, float[] fill, "
      "int[] moments) -> int");
  m.def("merge_plan_run(int plan, float[] weights, float keep, float[] moment_weights) -> ()");
  m.def("merge_plan_free(int plan) -> ()");
}
STABLE_TORCH_LIBRARY_IMPL(edufast, CPU, m) { m.impl("merge_", TORCH_BOX(&edufast::merge_)); }
#ifdef EDUFAST_HAS_CUDA
STABLE_TORCH_LIBRARY_IMPL(edufast, CUDA, m) { m.impl("merge_", TORCH_BOX(&edufast::merge_)); }
#endif
// These have no kernel of a device: one looks, the others know the device from the plan.
STABLE_TORCH_LIBRARY_IMPL(edufast, CompositeExplicitAutograd, m) {
  m.impl("merge_check", TORCH_BOX(&edufast::merge_check));
  m.impl("merge_plan", TORCH_BOX(&edufast::merge_plan));
  m.impl("merge_plan_run", TORCH_BOX(&edufast::merge_plan_run));
  m.impl("merge_plan_free", TORCH_BOX(&edufast::merge_plan_free));
}
