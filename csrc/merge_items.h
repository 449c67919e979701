// The work of a merge: lines of memory, for the backends of the devices they are on.
#pragma once

#include "merge_arguments.h"

#include <map>
#include <utility>
#include <vector>

namespace edufast {

// A tensor that is no line of memory goes through a contiguous copy, made anew in every run.
class MergeItems {
 public:
  explicit MergeItems(const MergeArguments& arguments);  // which must outlive the items
  // Whether they are good for another run: all are the tensors themselves.
  bool reusable() const { return staged_.empty() && written_back_.empty(); }
  void run(const MergeWeights& weights);

 private:
  MergeItem head(int64_t i, bool contiguous_only);  // the rows that have sources
  void tail(int64_t i);                             // the rows that growth has added
  Tensor rows(int64_t i, int64_t begin, int64_t end);
  void push(int64_t i, const MergeItem& item);

  const MergeArguments& a_;
  static constexpr int32_t kCpu = -1;
  std::map<int32_t, std::vector<MergeItem>> items_;  // by index of the CUDA device, or kCpu
  std::vector<MergeSource> sources_;                 // reserved in full: items point into it
  std::vector<Tensor> staged_;
  std::vector<std::pair<Tensor, Tensor>> written_back_;
  std::vector<std::pair<Tensor, double>> filled_;
};

}  // namespace edufast
