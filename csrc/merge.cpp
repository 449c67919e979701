// merge_: the table of its work, once or as a plan that is carried out again and again.
#include "merge_arguments.h"

#include <cmath>
#include <map>
#include <memory>
#include <mutex>
#include <utility>

namespace edufast {
namespace {

Tensor shared(const OwnedTensor& tensor) {
  AtenTensorHandle another;
  TORCH_ERROR_CODE_CHECK(aoti_torch_new_tensor_handle(tensor.get(), &another));
  return Tensor(another);
}

// Lines of memory for the backends. A tensor that is none goes through a contiguous copy.
class Table {
 public:
  explicit Table(const MergeArguments& arguments) : a_(arguments) {
    sources_.reserve(a_.sources.size());
    std::vector<bool> done(a_.targets.size(), false);
    for (size_t k = 0; k < a_.moments.size(); k += 2) {
      const int64_t mean = a_.moments[k], variance = a_.moments[k + 1];
      MergeItem item = head(mean, true);
      const MergeItem other = head(variance, true);  // its sources follow those of the mean
      item.rule = Rule::Moments;
      item.variance = other.data;
      item.variance_type = other.type;
      push(mean, item);
      done[mean] = done[variance] = true;
    }
    for (int64_t i = 0; i < a_.pairs(); ++i) {
      if (!done[i]) push(i, head(i, false));
      tail(i);
    }
  }

  // Whether it is good for another run: its lines are the tensors themselves.
  bool reusable() const { return staged_.empty() && written_back_.empty() && !filled_; }

  void run(const MergeWeights& weights) {
    for (auto& [device, items] : items_) {
      const Merge problem{items.data(), static_cast<int64_t>(items.size()),
                          static_cast<int32_t>(a_.num_sources), weights.weights.data(),
                          weights.keep, weights.of_moments().data()};
      if (device == kCpu) {
        cpu::merge(problem);
        continue;
      }
#ifdef EDUFAST_HAS_CUDA
      torch::stable::accelerator::DeviceGuard guard(device);
      cuda::merge(problem, current_cuda_stream(device));
#endif
    }
    for (auto& [region, line] : written_back_) torch::stable::copy_(region, line);
  }

 private:
  // The rows that have sources.
  MergeItem head(int64_t i, bool contiguous_only) {
    const View &t = a_.target_views[i], &first = a_.source_views[i];
    bool direct = contiguous_only           ? t.contiguous()
                  : first.rows() < t.rows() ? t.dense_rows()
                                            : t.dense();
    for (int64_t n = 0; direct && n < a_.num_sources; ++n)
      direct = same_strides(t, a_.source_views[a_.index(n, i)]);

    MergeItem item;
    item.size = first.size;
    item.type = t.type;
    item.rule = is_float(item.type) ? Rule::Average : Rule::Largest;
    item.sources = sources_.data() + sources_.size();
    for (int64_t n = 0; n < a_.num_sources; ++n) {
      const size_t index = a_.index(n, i);
      const View& s = a_.source_views[index];
      const void* data = s.data;
      if (!direct && s.size && !s.contiguous()) {
        staged_.push_back(torch::stable::contiguous(shared(a_.sources[index])));
        data = staged_.back().const_data_ptr();
      }
      sources_.push_back({data, s.type});
    }
    item.data = const_cast<char*>(t.data);
    if (!direct && first.size && !t.contiguous()) {
      Tensor region = rows(i, 0, first.rows());
      Tensor line = torch::stable::contiguous(region);
      item.data = line.mutable_data_ptr();
      written_back_.emplace_back(std::move(region), std::move(line));
    }
    return item;
  }

  // The rows that growth has added.
  void tail(int64_t i) {
    const View &t = a_.target_views[i], &s = a_.source_views[i];
    if (a_.fill.empty() || std::isnan(a_.fill[i])) return;
    if (t.rows() == s.rows() || t.row_size() == 0) return;
    if (!t.dense_rows()) {
      Tensor region = rows(i, s.rows(), t.rows());
      torch::stable::fill_(region, a_.fill[i]);
      filled_ = true;
      return;
    }
    MergeItem item;
    item.rule = Rule::Fill;
    item.fill = a_.fill[i];
    item.type = t.type;
    const int64_t begin = s.rows() * t.row_size();
    item.data = const_cast<char*>(t.data) + begin * bytes_of(item.type);
    item.size = t.size - begin;
    push(i, item);
  }

  Tensor rows(int64_t i, int64_t begin, int64_t end) {
    Tensor target = shared(a_.targets[i]);
    return target.dim() ? torch::stable::narrow(target, 0, begin, end - begin) : target;
  }

  void push(int64_t i, const MergeItem& item) {
    if (item.size) items_[a_.target_views[i].device].push_back(item);
  }

  const MergeArguments& a_;
  std::map<int32_t, std::vector<MergeItem>> items_;  // by device
  std::vector<MergeSource> sources_;                 // reserved in full: items point into it
  std::vector<Tensor> staged_;
  std::vector<std::pair<Tensor, Tensor>> written_back_;
  bool filled_ = false;
};

void check_device(const MergeArguments& a) {
#ifndef EDUFAST_HAS_CUDA
  for (int64_t i = 0; i < a.pairs(); ++i)
    MERGE_CHECK(a.target_views[i].device == kCpu, target_name(i),
                " is on an accelerator; this build of EduFast has CPU kernels only");
#else
  (void)a;
#endif
}

class Plan {
 public:
  explicit Plan(MergeArguments arguments) : arguments_(std::move(arguments)) { prepare(); }

  void run(const MergeWeights& weights) {
    weights.check(arguments_);
    if (!table_ || !table_->reusable() || snapshot_->outdated()) {
      table_.reset();
      arguments_.look();
      prepare();
    }
    table_->run(weights);
  }

 private:
  void prepare() {
    check_device(arguments_);
    snapshot_ = std::make_unique<Snapshot>(arguments_);
    table_ = std::make_unique<Table>(arguments_);
  }

  MergeArguments arguments_;
  std::unique_ptr<Snapshot> snapshot_;
  std::unique_ptr<Table> table_;  // none: the arguments do not fit any more
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

}  // namespace

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
  check_device(arguments);
  const MergeWeights numbers{std::move(weights), keep, std::move(moment_weights)};
  numbers.check(arguments);
  Table(arguments).run(numbers);
}

int64_t merge_plan(TensorHandles targets, TensorHandles sources, int64_t num_sources,
                   std::vector<double> fill, std::vector<int64_t> moments) {
  auto plan = std::make_shared<Plan>(
      MergeArguments(targets, sources, num_sources, std::move(fill), std::move(moments)));
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
    MERGE_CHECK(found != plans().by_number.end(), "there is no plan ", number);
    plan = found->second;
  }
  plan->run({std::move(weights), keep, std::move(moment_weights)});
}

void merge_plan_free(int64_t number) {
  const std::lock_guard lock(plans().mutex);
  plans().by_number.erase(number);
}

}  // namespace edufast
