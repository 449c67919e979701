// What merge_ is asked to do, and its checks: once, whatever the backend.
#pragma once

#include "stable_abi.h"
#include "merge.h"

#include <memory>
#include <string>
#include <vector>

namespace edufast {

#define MERGE_CHECK(condition, ...) STD_TORCH_CHECK(condition, "merge_: ", __VA_ARGS__)

constexpr int32_t kCpu = -1;

// Owns a tensor, as torch::stable::Tensor does, but without counting who else does: that is half of
// the time of a list of small tensors.
struct DeleteTensor {
  void operator()(AtenTensorHandle tensor) const { aoti_torch_delete_tensor_object(tensor); }
};
using OwnedTensor = std::unique_ptr<AtenTensorOpaque, DeleteTensor>;

// What the operators are given: tensors that are theirs.
using TensorHandles = std::vector<AtenTensorHandle>;

// What is known of a tensor.
struct View {
  using Sizes = torch::headeronly::IntHeaderOnlyArrayRef;

  const char* data;
  Sizes sizes, strides;  // borrowed from the tensor
  int64_t size = 1;
  int32_t dtype;   // as the stable ABI numbers them
  int32_t device;  // index of the CUDA device, or kCpu
  DType type = DType::F32;
  bool supported;  // else there is no `type`

  explicit View(AtenTensorHandle t);
  int64_t rows() const { return sizes.empty() ? 1 : sizes[0]; }
  int64_t row_size() const { return rows() ? size / rows() : 0; }
  bool contiguous() const;
  bool dense() const;       // its elements lie in memory without gaps, in any order
  bool dense_rows() const;  // so do its first n rows and the rest, for every n
};

// Whether equal positions in memory are equal positions in the tensors, given equal sizes.
bool same_strides(const View& a, const View& b);

// The tensors of a merge. Sources are list after list; sources[n][i] goes to targets[i].
struct MergeArguments {
  std::vector<OwnedTensor> targets, sources;
  int64_t num_sources;
  std::vector<double> fill;      // per target; NaN: leave the rows; empty: leave all
  std::vector<int64_t> moments;  // indices of mean, variance, mean, variance ...
  std::vector<View> target_views, source_views;

  MergeArguments(const TensorHandles& targets, const TensorHandles& sources, int64_t num_sources,
                 std::vector<double> fill, std::vector<int64_t> moments);
  // Looks at the tensors and checks everything that does not depend on the weights.
  void look();
  int64_t pairs() const { return static_cast<int64_t>(targets.size()); }
  size_t index(int64_t n, int64_t i) const { return n * targets.size() + i; }
};

// Where and what the tensors were when a plan was made: asked before every run, whose time it rules
// where tensors are small, and therefore less than a View.
class Snapshot {
 public:
  explicit Snapshot(const MergeArguments& arguments);  // whose tensors it does not keep alive
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

struct MergeWeights {
  std::vector<double> weights;  // one for each list of sources
  double keep;
  std::vector<double> moment_weights;  // likewise, for `moments`; empty: the weights

  void check(const MergeArguments& arguments) const;
  const std::vector<double>& of_moments() const {
    return moment_weights.empty() ? weights : moment_weights;
  }
};

std::string target_name(int64_t i);
std::string source_name(int64_t n, int64_t i);

}  // namespace edufast
