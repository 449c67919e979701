// What merge_ needs to know of a tensor, asked of torch once.
#pragma once

#include "dtype.h"
#include "stable_abi.h"

#include <memory>
#include <vector>

namespace edufast {

// Owns a tensor, as torch::stable::Tensor does, but without counting who else does: that is half of
// the time of a list of small tensors.
struct DeleteTensor {
  void operator()(AtenTensorHandle tensor) const { aoti_torch_delete_tensor_object(tensor); }
};
using OwnedTensor = std::unique_ptr<AtenTensorOpaque, DeleteTensor>;

// What the operators are given: tensors that are theirs.
using TensorHandles = std::vector<AtenTensorHandle>;

// As the stable ABI numbers them.
struct Device {
  int32_t type, index;
  bool operator==(const Device&) const = default;
};

// What is known of a tensor.
struct View {
  using Sizes = torch::headeronly::IntHeaderOnlyArrayRef;

  const char* data;
  Sizes sizes, strides;  // borrowed from the tensor
  int64_t size;
  int32_t dtype;  // as the stable ABI numbers them
  Device device;
  DType type = DType::F32;
  bool supported;  // else there is no `type`

  explicit View(AtenTensorHandle t);
  int64_t rows() const { return sizes.empty() ? 1 : sizes[0]; }
  int64_t row_size() const { return rows() ? size / rows() : 0; }
  bool has_memory() const { return size > 0 && device.type != aoti_torch_device_type_meta(); }
  bool contiguous() const;
  bool dense() const;            // its elements lie in memory without gaps, in any order
  bool dense_rows() const;       // so do its first n rows and the rest, for every n
  bool overlaps_itself() const;  // exact like share_memory
};

// Another owner of the same tensor.
Tensor shared(const OwnedTensor& tensor);

// Whether equal positions in memory are equal positions in the tensors, given equal sizes.
bool same_strides(const View& a, const View& b);

// Whether an element of one view and an element of the other have a byte in common. Exact, but for
// views with so many odd strides that it would take long to tell: then true.
bool share_memory(const View& a, const View& b);

// Where and what the tensors were when a plan was made: asked before every run, whose time it rules
// where tensors are small, and therefore less than a View.
class Snapshot {
 public:
  // Does not keep the tensors alive.
  Snapshot(const std::vector<OwnedTensor>& targets, const std::vector<OwnedTensor>& sources);
  // Whether a tensor was given other memory or another form (`p.data = ...`) since.
  bool outdated() const;

 private:
  struct Entry {
    AtenTensorHandle tensor;
    const void* data;
    size_t layout;  // where copies of the sizes begin in `layouts_`; those of the strides follow
    int64_t dim;
    int32_t dtype;
  };

  std::vector<Entry> entries_;
  std::vector<int64_t> layouts_;
};

}  // namespace edufast
