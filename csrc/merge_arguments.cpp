#include "merge_arguments.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

namespace edufast {

namespace {

bool same(View::Sizes a, View::Sizes b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end());
}

void check_tensor(const View& v, const OwnedTensor& tensor, Argument name) {
  MERGE_CHECK(v.supported, name, " has an unsupported dtype, ", dtype_name(shared(tensor)),
              "; expected float32, bfloat16, float16, float64, an integer type or bool");
}

void check_pair(const MergeArguments& a, int64_t n, int64_t i) {
  const OwnedTensor &target = a.targets[i], &source = a.sources[a.index(n, i)];
  const View &t = a.target_views[i], &s = a.source_views[a.index(n, i)];
  check_tensor(t, target, target_name(i));
  check_tensor(s, source, source_name(n, i));
  const bool fits = t.sizes.size() == s.sizes.size() && s.rows() <= t.rows() &&
                    std::equal(t.sizes.begin() + !t.sizes.empty(), t.sizes.end(),
                               s.sizes.begin() + !s.sizes.empty(), s.sizes.end());
  MERGE_CHECK(fits, target_name(i), " has shape ", shape(t.sizes), ", but ", source_name(n, i),
              " has shape ", shape(s.sizes), "; expected the same shape or fewer rows");
  const View& first = a.source_views[i];
  MERGE_CHECK(s.rows() == first.rows(), source_name(0, i), " has ", first.rows(), " rows, but ",
              source_name(n, i), " has ", s.rows(), "; expected the same number");
  MERGE_CHECK(t.device == s.device, target_name(i), " is on ", device_name(shared(target)),
              ", but ", source_name(n, i), " is on ", device_name(shared(source)),
              "; expected one device");
  MERGE_CHECK(t.dtype == s.dtype || (is_float(t.type) && is_float(s.type)), target_name(i), " and ",
              source_name(n, i), " have different dtypes, ", dtype_name(shared(target)), " and ",
              dtype_name(shared(source)), "; expected two floating point types or equal types");
}

struct Range {
  const char *begin, *end;
  int64_t index;
  const char* reached = nullptr;  // the largest end among the ranges sorted up to this one
};

Range range_of(const View& v, int64_t index) {
  int64_t last = 0;
  for (size_t d = 0; d < v.sizes.size(); ++d) last += (v.sizes[d] - 1) * v.strides[d];
  return {v.data, v.data + (last + 1) * bytes_of(v.type), index};
}

// A target may be its own source: each element is read before it is written. Any other shared
// memory would make the result depend on the order of the work.
void check_aliasing(const MergeArguments& a) {
  std::vector<Range> written;
  written.reserve(a.pairs());
  for (int64_t i = 0; i < a.pairs(); ++i) {
    if (!a.target_views[i].has_memory()) continue;
    MERGE_CHECK(
        !a.target_views[i].overlaps_itself(), target_name(i),
        " has several elements in one place of memory; expected one each (is it expanded?)");
    written.push_back(range_of(a.target_views[i], i));
  }
  std::sort(written.begin(), written.end(),
            [](const Range& x, const Range& y) { return x.begin < y.begin; });
  // Parts of one tensor, such as its columns, may lie between each other's bounds.
  for (size_t j = 0; j < written.size(); ++j) {
    Range& range = written[j];
    for (size_t k = j; k-- > 0 && written[k].reached > range.begin;)
      MERGE_CHECK(written[k].end <= range.begin ||
                      !share_memory(a.target_views[written[k].index], a.target_views[range.index]),
                  target_name(written[k].index), " and ", target_name(range.index),
                  " share memory; expected memory of their own");
    range.reached = j ? std::max(written[j - 1].reached, range.end) : range.end;
  }
  for (int64_t i = 0; i < a.pairs(); ++i) {
    for (int64_t n = 0; n < a.num_sources; ++n) {
      const View& s = a.source_views[a.index(n, i)];
      if (!s.has_memory()) continue;
      const Range r = range_of(s, i);
      auto next = std::partition_point(written.begin(), written.end(),
                                       [&](const Range& w) { return w.reached <= r.begin; });
      for (; next != written.end() && next->begin < r.end; ++next) {
        if (next->end <= r.begin) continue;
        const View& t = a.target_views[next->index];
        const bool itself = next->index == i && t.data == s.data && t.dtype == s.dtype &&
                            same(t.sizes, s.sizes) && same_strides(t, s);
        MERGE_CHECK(itself || !share_memory(t, s), target_name(next->index), " and ",
                    source_name(n, i), " share memory; expected other memory, or targets[", i,
                    "] itself");
      }
    }
  }
}

double largest_finite(DType type) {
  switch (type) {
    case DType::F16: return 65504;
    case DType::BF16: return 0x1.fep127;
    case DType::F32: return std::numeric_limits<float>::max();
    default: return std::numeric_limits<double>::max();
  }
}

bool holds(const View& v, double value) {
  if (is_float(v.type)) return std::isinf(value) || std::abs(value) <= largest_finite(v.type);
  if (v.dtype == aoti_torch_dtype_bool()) return value == 0 || value == 1;
  const double range = std::ldexp(1.0, 8 * static_cast<int>(bytes_of(v.type)));
  const bool is_unsigned = v.type == DType::U8;
  return value == std::trunc(value) && value >= (is_unsigned ? 0 : -range / 2) &&
         value < (is_unsigned ? range : range / 2);
}

void check_fill(const MergeArguments& a) {
  MERGE_CHECK(a.fill.empty() || a.fill.size() == a.targets.size(), "fill has ", a.fill.size(),
              " entries; expected one for each of ", a.pairs(), " targets");
  for (size_t i = 0; i < a.fill.size(); ++i)
    MERGE_CHECK(std::isnan(a.fill[i]) || holds(a.target_views[i], a.fill[i]), "fill is ",
                Number{a.fill[i]}, ", which the dtype of ", target_name(i),
                " does not hold; expected a number of ", dtype_name(shared(a.targets[i])));
}

void check_moments(const MergeArguments& a) {
  MERGE_CHECK(a.moments.size() % 2 == 0, "moments has ", a.moments.size(),
              " indices; expected pairs of a mean and its variance");
  std::vector<bool> used(a.targets.size(), false);
  for (size_t k = 0; k < a.moments.size(); ++k) {
    const int64_t i = a.moments[k];
    MERGE_CHECK(i >= 0 && i < a.pairs() && !used[i], "moments name target ", i,
                "; expected each index once, from 0 to ", a.pairs() - 1);
    used[i] = true;
    MERGE_CHECK(is_float(a.target_views[i].type), target_name(i), " is one of the moments, but ",
                dtype_name(shared(a.targets[i])), "; expected a floating point type");
    if (k % 2 == 0) continue;
    const int64_t mean = a.moments[k - 1];
    MERGE_CHECK(same(a.target_views[mean].sizes, a.target_views[i].sizes) &&
                    same(a.source_views[mean].sizes, a.source_views[i].sizes) &&
                    a.target_views[mean].device == a.target_views[i].device,
                target_name(mean), " and ", target_name(i),
                " are a mean and its variance of shapes ", shape(a.target_views[mean].sizes),
                " and ", shape(a.target_views[i].sizes), "; expected equal shapes on one device");
  }
}

std::vector<OwnedTensor> owned(const TensorHandles& handles) {
  return {handles.begin(), handles.end()};
}

}  // namespace

MergeArguments::MergeArguments(const TensorHandles& targets_, const TensorHandles& sources_,
                               int64_t num_sources_, std::vector<double> fill_,
                               std::vector<int64_t> moments_)
    : targets(owned(targets_)),
      sources(owned(sources_)),
      num_sources(num_sources_),
      fill(std::move(fill_)),
      moments(std::move(moments_)) {
  MERGE_CHECK(num_sources >= 1 && num_sources <= INT32_MAX, "there are ", num_sources,
              " lists of sources; expected 1 to ", INT32_MAX, ", with a weight for each");
  // Written with a division: the product of two numbers from outside may wrap around.
  const bool fits = targets.empty()
                        ? sources.empty()
                        : sources.size() % targets.size() == 0 &&
                              static_cast<int64_t>(sources.size() / targets.size()) == num_sources;
  MERGE_CHECK(fits, "sources has ", sources.size(), " tensors; expected ", num_sources,
              " lists of ", pairs(), " like targets");
  look();
}

void MergeArguments::look() {
  target_views.clear();
  source_views.clear();
  target_views.reserve(targets.size());
  source_views.reserve(sources.size());
  for (const OwnedTensor& t : targets) target_views.emplace_back(t.get());
  for (const OwnedTensor& s : sources) source_views.emplace_back(s.get());
  for (int64_t i = 0; i < pairs(); ++i)
    for (int64_t n = 0; n < num_sources; ++n) check_pair(*this, n, i);
  check_aliasing(*this);
  check_fill(*this);
  check_moments(*this);
}

namespace {

void check_finite(const char* name, const std::vector<double>& values) {
  for (size_t n = 0; n < values.size(); ++n)
    MERGE_CHECK(std::isfinite(values[n]), name, "[", n, "] is ", Number{values[n]},
                "; expected a finite number");
}

}  // namespace

void MergeWeights::check(const MergeArguments& a) const {
  const auto count = static_cast<size_t>(a.num_sources);
  MERGE_CHECK(weights.size() == count, "weights has ", weights.size(), " numbers; expected ", count,
              ", one for each list of sources");
  MERGE_CHECK(moment_weights.empty() || moment_weights.size() == count, "moment_weights has ",
              moment_weights.size(), " numbers; expected none, or ", count,
              ", one for each list of sources");
  check_finite("weights", weights);
  check_finite("moment_weights", moment_weights);
  MERGE_CHECK(std::isfinite(keep), "keep is ", Number{keep}, "; expected a finite number");
  if (a.moments.empty()) return;
  double sum = keep;
  for (const double w : of_moments()) sum += w;
  MERGE_CHECK(std::abs(sum - 1) < 1e-6, "keep and the weights of moments sum to ", Number{sum},
              "; expected 1: moments are those of a mixture");
}

}  // namespace edufast
