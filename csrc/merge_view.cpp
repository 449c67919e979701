#include "merge_view.h"

#include <algorithm>
#include <functional>
#include <iterator>
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

}  // namespace

bool View::overlaps_itself() const {
  if (contiguous()) return false;
  int64_t extent = 1;
  for (const size_t d : by_stride(*this)) {
    if (strides[d] < extent) return true;
    extent += (sizes[d] - 1) * strides[d];
  }
  return false;
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
