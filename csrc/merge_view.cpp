#include "merge_view.h"

#include <algorithm>
#include <functional>
#include <iterator>
#include <map>
#include <numeric>
#include <utility>

namespace edufast {
namespace {

// False: the type is none that can be merged.
bool find_dtype(int32_t dtype, DType& type) {
  static const std::pair<int32_t, DType> known[] = {
      {aoti_torch_dtype_float32(), DType::F32}, {aoti_torch_dtype_bfloat16(), DType::BF16},
      {aoti_torch_dtype_float16(), DType::F16}, {aoti_torch_dtype_float64(), DType::F64},
      {aoti_torch_dtype_int64(), DType::I64},   {aoti_torch_dtype_int32(), DType::I32},
      {aoti_torch_dtype_int16(), DType::I16},   {aoti_torch_dtype_int8(), DType::I8},
      {aoti_torch_dtype_uint8(), DType::U8},    {aoti_torch_dtype_bool(), DType::U8}};
  const auto* found = std::find_if(std::begin(known), std::end(known),
                                   [&](const auto& k) { return k.first == dtype; });
  if (found == std::end(known)) return false;
  type = found->second;
  return true;
}

const char* data_of(AtenTensorHandle tensor) {
  const void* data;
  TORCH_ERROR_CODE_CHECK(torch_get_const_data_ptr(tensor, &data));
  return static_cast<const char*>(data);
}

// Sizes, strides and dtype, which a tensor may change like its memory.
struct Form {
  int64_t dim;
  int64_t *sizes, *strides;  // borrowed from the tensor
  int32_t dtype;

  explicit Form(AtenTensorHandle tensor) {
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_dim(tensor, &dim));
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_sizes(tensor, &sizes));
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_strides(tensor, &strides));
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(tensor, &dtype));
  }
};

}  // namespace

View::View(AtenTensorHandle tensor) : data(data_of(tensor)) {
  const Form form(tensor);
  sizes = {form.sizes, static_cast<size_t>(form.dim)};
  strides = {form.strides, static_cast<size_t>(form.dim)};
  // No product of sizes beside a 0: it may be larger than any number.
  const bool empty = std::find(sizes.begin(), sizes.end(), 0) != sizes.end();
  size = empty ? 0 : std::accumulate(sizes.begin(), sizes.end(), int64_t{1}, std::multiplies<>());
  dtype = form.dtype;
  supported = find_dtype(dtype, type);
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(tensor, &device.type));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(tensor, &device.index));
}

Tensor shared(const OwnedTensor& tensor) {
  AtenTensorHandle another;
  TORCH_ERROR_CODE_CHECK(aoti_torch_new_tensor_handle(tensor.get(), &another));
  return Tensor(another);
}

bool View::contiguous() const {
  if (size == 0) return true;
  int64_t expected = 1;
  for (size_t d = sizes.size(); d-- > 0;) {
    if (sizes[d] > 1 && strides[d] != expected) return false;
    expected *= sizes[d];
  }
  return true;
}

namespace {

// Dimensions longer than one, from the smallest stride to the largest.
std::vector<size_t> by_stride(const View& v) {
  std::vector<size_t> order;
  for (size_t d = 0; d < v.sizes.size(); ++d)
    if (v.sizes[d] > 1) order.push_back(d);
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return v.strides[a] < v.strides[b]; });
  return order;
}

// A distance in memory that can be gone a number of times, from `fewest` to `most`.
struct Step {
  int64_t bytes, fewest, most;
};
using Steps = std::vector<Step>;  // from the longest to the shortest

constexpr int kTries = 10000;  // views of practice need a few for each dimension

int64_t rounded_down(int64_t a, int64_t b) { return a / b - (a % b < 0); }
int64_t rounded_up(int64_t a, int64_t b) { return -rounded_down(-a, b); }

// Whether the steps can lead exactly `distance` far: only a few numbers of a long step leave a rest
// that the shorter ones can make up for.
bool can_lead(Steps::const_iterator step, Steps::const_iterator end, int64_t distance, int& tries) {
  if (step == end) return distance == 0;
  if (--tries < 0) return true;
  int64_t lowest = 0, highest = 0;  // as far as the shorter steps lead
  for (auto s = step + 1; s != end; ++s) {
    lowest += s->bytes * s->fewest;
    highest += s->bytes * s->most;
  }
  const int64_t first = std::max(step->fewest, rounded_up(distance - highest, step->bytes));
  const int64_t last = std::min(step->most, rounded_down(distance - lowest, step->bytes));
  for (int64_t times = first; times <= last; ++times)
    if (can_lead(step + 1, end, distance - times * step->bytes, tries)) return true;
  return false;
}

}  // namespace

bool View::overlaps_itself() const {
  if (contiguous()) return false;
  std::vector<size_t> order = by_stride(*this);
  int64_t extent = 1;
  const bool nested = std::all_of(order.begin(), order.end(), [&](size_t d) {
    const bool beyond = strides[d] >= extent;
    extent += (sizes[d] - 1) * strides[d];
    return beyond;
  });
  if (nested) return false;
  if (strides[order[0]] == 0) return true;
  // From one element to another at no distance: some step forward in the longest dimension in which
  // they differ, and any in the shorter ones.
  std::reverse(order.begin(), order.end());
  Steps steps;
  for (const size_t d : order) steps.push_back({strides[d], 1 - sizes[d], sizes[d] - 1});
  int tries = kTries;
  for (auto longest = steps.begin(); longest != steps.end(); ++longest) {
    longest->fewest = 1;
    if (can_lead(longest, steps.end(), 0, tries)) return true;
  }
  return false;
}

bool share_memory(const View& a, const View& b) {
  std::map<int64_t, Step, std::greater<>> by_bytes;
  const auto add = [&](int64_t bytes, int64_t fewest, int64_t most) {
    Step& step = by_bytes.try_emplace(bytes, Step{bytes, 0, 0}).first->second;
    step.fewest += fewest;
    step.most += most;
  };
  for (size_t d = 0; d < a.sizes.size(); ++d)
    if (a.sizes[d] > 1 && a.strides[d]) add(a.strides[d] * bytes_of(a.type), 1 - a.sizes[d], 0);
  for (size_t d = 0; d < b.sizes.size(); ++d)
    if (b.sizes[d] > 1 && b.strides[d]) add(b.strides[d] * bytes_of(b.type), 0, b.sizes[d] - 1);
  add(1, 1 - bytes_of(a.type), bytes_of(b.type) - 1);
  Steps steps;
  for (const auto& [bytes, step] : by_bytes) steps.push_back(step);
  int tries = kTries;
  return can_lead(steps.begin(), steps.end(), a.data - b.data, tries);
}

bool View::dense() const {
  if (contiguous()) return true;
  int64_t expected = 1;
  for (const size_t d : by_stride(*this)) {
    if (strides[d] != expected) return false;
    expected *= sizes[d];
  }
  return true;
}

bool View::dense_rows() const {
  return contiguous() || (dense() && (rows() <= 1 || by_stride(*this).back() == 0));
}

bool same_strides(const View& a, const View& b) {
  for (size_t d = 0; d < b.sizes.size(); ++d)
    if (b.sizes[d] > 1 && a.strides[d] != b.strides[d]) return false;
  return true;
}

Snapshot::Snapshot(const std::vector<OwnedTensor>& targets,
                   const std::vector<OwnedTensor>& sources) {
  entries_.reserve(targets.size() + sources.size());
  for (const auto* tensors : {&targets, &sources}) {
    for (const OwnedTensor& t : *tensors) {
      const Form form(t.get());
      entries_.push_back({t.get(), data_of(t.get()), layouts_.size(), form.dim, form.dtype});
      layouts_.insert(layouts_.end(), form.sizes, form.sizes + form.dim);
      layouts_.insert(layouts_.end(), form.strides, form.strides + form.dim);
    }
  }
}

bool Snapshot::outdated() const {
  return !std::all_of(entries_.begin(), entries_.end(), [&](const Entry& old) {
    if (data_of(old.tensor) != old.data) return false;
    const Form now(old.tensor);
    const int64_t* layout = layouts_.data() + old.layout;
    return now.dim == old.dim && now.dtype == old.dtype &&
           std::equal(now.sizes, now.sizes + now.dim, layout) &&
           std::equal(now.strides, now.strides + now.dim, layout + now.dim);
  });
}

}  // namespace edufast
