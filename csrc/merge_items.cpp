#include "merge_items.h"

#include <cmath>

namespace edufast {

MergeItems::MergeItems(const MergeArguments& arguments) : a_(arguments) {
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

void MergeItems::run(const MergeWeights& weights) {
  for (auto& [cuda_device, items] : items_) {
    const Merge problem{items.data(),
                        static_cast<int64_t>(items.size()),
                        static_cast<int32_t>(a_.num_sources),
                        weights.weights.data(),
                        weights.keep,
                        weights.of_moments().data()};
    if (cuda_device == kCpu) {
      cpu::merge(problem);
      continue;
    }
#ifdef EDUFAST_HAS_CUDA
    torch::stable::accelerator::DeviceGuard guard(cuda_device);
    cuda::merge(problem, current_cuda_stream(cuda_device));
#endif
  }
  for (auto& [region, line] : written_back_) torch::stable::copy_(region, line);
  for (auto& [region, value] : filled_) torch::stable::fill_(region, value);
}

MergeItem MergeItems::head(int64_t i, bool contiguous_only) {
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

void MergeItems::tail(int64_t i) {
  const View &t = a_.target_views[i], &s = a_.source_views[i];
  if (a_.fill.empty() || std::isnan(a_.fill[i])) return;
  if (t.rows() == s.rows() || t.row_size() == 0) return;
  if (!t.dense_rows()) {
    filled_.emplace_back(rows(i, s.rows(), t.rows()), a_.fill[i]);
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

Tensor MergeItems::rows(int64_t i, int64_t begin, int64_t end) {
  Tensor target = shared(a_.targets[i]);
  return target.dim() ? torch::stable::narrow(target, 0, begin, end - begin) : target;
}

void MergeItems::push(int64_t i, const MergeItem& item) {
  if (item.size == 0) return;
  const Device& device = a_.target_views[i].device;
  items_[device.type == aoti_torch_device_type_cpu() ? kCpu : device.index].push_back(item);
}

}  // namespace edufast
