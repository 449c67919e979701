// What merge_ is asked to do, and its checks: once, whatever the backend.
#pragma once

#include "checks.h"
#include "merge.h"
#include "merge_view.h"

#include <vector>

namespace edufast {

#define MERGE_CHECK(condition, ...) EDUFAST_CHECK(condition, "merge_: ", __VA_ARGS__)

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

struct MergeWeights {
  std::vector<double> weights;  // one for each list of sources
  double keep;
  std::vector<double> moment_weights;  // likewise, for `moments`; empty: the weights

  void check(const MergeArguments& arguments) const;
  const std::vector<double>& of_moments() const {
    return moment_weights.empty() ? weights : moment_weights;
  }
};

inline Argument target_name(int64_t i) { return {"targets", i}; }
inline Argument source_name(int64_t n, int64_t i) { return {"sources", n, i}; }

}  // namespace edufast
