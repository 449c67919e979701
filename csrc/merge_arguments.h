// What merge_ is asked to do, and its checks: once, whatever the backend.
#pragma once

#include "common.h"
#include "merge.h"

#include <string>
#include <vector>

namespace edufast {

#define MERGE_CHECK(condition, ...) STD_TORCH_CHECK(condition, "merge_: ", __VA_ARGS__)

constexpr int32_t kCpu = -1;

// What is known of a tensor.
struct View {
  using Sizes = torch::headeronly::IntHeaderOnlyArrayRef;

  const char* data;
  Sizes sizes, strides;  // borrowed from the tensor
  int64_t size = 1;
  uint64_t layout = 0;  // hash of sizes and strides
  ScalarType dtype;
  int32_t device;  // index of the CUDA device, or kCpu

  explicit View(const Tensor& t);
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
  std::vector<Tensor> targets, sources;
  int64_t num_sources;
  std::vector<double> fill;      // per target; NaN: leave the rows; empty: leave all
  std::vector<int64_t> moments;  // indices of mean, variance, mean, variance ...
  std::vector<View> target_views, source_views;

  // Checks everything that does not depend on the weights.
  MergeArguments(std::vector<Tensor> targets, std::vector<Tensor> sources, int64_t num_sources,
                 std::vector<double> fill, std::vector<int64_t> moments);
  int64_t pairs() const { return static_cast<int64_t>(targets.size()); }
  size_t index(int64_t n, int64_t i) const { return n * targets.size() + i; }
  // Whether a tensor was given other memory (`p.data = ...`) since.
  bool moved() const;
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

Element element_of(ScalarType type, const std::string& name);
std::string target_name(int64_t i);
std::string source_name(int64_t n, int64_t i);

}  // namespace edufast
