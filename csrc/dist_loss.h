// DIST as the backends see it: raw pointers and numbers, no torch type.
// Specification: edufast/ops/reference/dist_loss.py.
#pragma once

#include "logits.h"

namespace edufast {

constexpr double kDistEpsilon = 1e-8;  // of the correlation's denominator
constexpr double kDistFlat = 1e-6;     // deviations up to this part of the mean count as none

struct DistLoss {
  Logits student, teacher;  // (B, C)
  int64_t rows = 0;
  int32_t classes = 0;
  double temperature = 1;  // loss = T^2 (beta (1 - mean of row correlations) +
  double beta = 1;         //             gamma (1 - mean of column correlations))
  double gamma = 1;
  // CUDA only, device memory: the three, which then count for nothing above. Out of range: a loss
  // of NaN.
  const double* numbers = nullptr;

  // Outputs. grad is contiguous (B, C) in grad_dtype: d loss / d student, for an upstream gradient
  // of one. loss is one float, or one double where the student is F64.
  void* loss = nullptr;
  void* grad = nullptr;
  DType grad_dtype = DType::F32;
};

namespace cpu {
void dist_loss(const DistLoss& problem);
}
#ifdef EDUFAST_HAS_CUDA
namespace cuda {
// `workspace` is dist_loss_workspace(problem) bytes of device memory; see csrc/cuda/dist_loss.cu.
int64_t dist_loss_workspace(const DistLoss& problem);
void dist_loss(const DistLoss& problem, void* workspace, void* stream);
}  // namespace cuda
#endif

}  // namespace edufast
