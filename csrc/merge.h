// merge_ as the backends see it: a table of raw pointers and numbers, no torch type.
// Specification: edufast/ops/reference/merge.py.
#pragma once

#include "dtype.h"

namespace edufast {

enum class Rule : uint8_t {
  Average,  // keep * target + sum_n weights[n] * source_n; in fp64 if one of them is, else in fp32
  Largest,  // the largest source: integers have no average
  Moments,  // mean and variance of the mixture of what the sources' moments describe; in fp64
  Fill,     // no source: every element becomes `fill`
};

// A CUDA kernel has room for this many lists of sources in its parameters.
constexpr int kMaxCudaSources = 32;

struct MergeSource {
  const void* data = nullptr;
  DType type = DType::F32;
};

// One row of the table: `size` elements in a line, of one target.
struct MergeItem {
  void* data = nullptr;
  int64_t size = 0;
  const MergeSource* sources = nullptr;  // N; Moments: N means, then N variances
  void* variance = nullptr;              // Moments: `data` is the mean
  double fill = 0;
  Rule rule = Rule::Average;
  DType type = DType::F32;
  DType variance_type = DType::F32;
};

struct Merge {
  const MergeItem* items = nullptr;
  int64_t num_items = 0;
  int32_t num_sources = 0;          // N
  const double* weights = nullptr;  // N
  double keep = 0;
  const double* moment_weights = nullptr;  // N, the weights of Moments
};

// Nothing to compute: the bytes of the only source.
constexpr bool is_copy(const Merge& p, const MergeItem& item) {
  if (p.num_sources != 1 || item.rule == Rule::Moments || item.rule == Rule::Fill) return false;
  return item.rule == Rule::Largest ||
         (p.weights[0] == 1 && p.keep == 0 && item.sources[0].type == item.type);
}

namespace cpu {
void merge(const Merge& problem);
}
#ifdef EDUFAST_HAS_CUDA
namespace cuda {
void merge(const Merge& problem, void* stream);  // one launch for each part that fits; merge.cu
}
#endif

}  // namespace edufast
