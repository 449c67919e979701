// The fused multi-teacher loss as the backends see it: raw pointers and numbers, no torch type.
// Specification: edufast/ops/reference/kd_loss.py.
#pragma once

#include "logits.h"

namespace edufast {

// The numbers are part of the operator's schema; edufast/ops/reference holds the same lists.
enum class Weighting : int64_t { Given = 0, Mean = 1, Routed = 2, Entropy = 3, Confidence = 4 };
enum class Divergence : int64_t { ForwardKL = 0, ReverseKL = 1, JS = 2, DKD = 3 };
enum class Reduction : int64_t { None = 0, Mean = 1, Sum = 2 };

// What a divergence of student p and teacher q asks of a row.
struct DivergenceTraits {
  int params = 0;              // how many divergence_params the operator takes
  bool student_first = false;  // p is its first argument, as in KL(p || q)
  bool mixture = false;        // it compares both with m = beta q + (1 - beta) p
  bool without_label = false;  // p and q are over the other classes; the label is treated apart
};

EDUFAST_HOST_DEVICE constexpr DivergenceTraits traits_of(Divergence divergence) {
  switch (divergence) {
    case Divergence::ReverseKL: return {.student_first = true};
    case Divergence::JS: return {.params = 1, .mixture = true};
    case Divergence::DKD: return {.params = 2, .without_label = true};
    default: return {};
  }
}

// A divergence above counts as infinite: sums of float overflow, sooner or later by their order.
constexpr double kLargestDivergence = 1e32;
// An entropy below counts as 0: it underflows.
constexpr double kLeastEntropy = 1e-30;

struct KDLoss : StudentAndTeachers {
  // (B). Other than ignore_index or 0 to classes - 1: an error before a CPU kernel runs; on CUDA,
  // where nobody may wait to look, a row of NaN.
  const int64_t* labels = nullptr;
  int64_t label_stride = 1;
  int64_t ignore_index = -100;
  const float* weights = nullptr;  // Weighting::Given only: w[row * row_stride + k * col_stride]
  int64_t weight_row_stride = 0;   // 0: one weight per teacher
  int64_t weight_col_stride = 1;

  Weighting weighting = Weighting::Mean;
  Divergence divergence = Divergence::ForwardKL;
  float divergence_params[2] = {0, 0};  // JS: beta, 1 - beta; DKD: target_weight, rest_weight
  float alpha = 0;                      // alpha * CE + (1 - alpha) * sum_k w_k T_k^2 D_k
  float label_smoothing = 0;
  // CUDA only, device memory: the temperatures, alpha, label_smoothing and the divergence_params of
  // the operator, which then count for nothing above. Out of range: a loss of NaN, as for labels.
  const double* numbers = nullptr;
  Reduction reduction = Reduction::Mean;

  // Outputs. grad is contiguous (B, C) in the dtype grad_dtype and holds d loss / d student for an
  // upstream gradient of one, for every row (zeros where the label is ignored).
  void* loss = nullptr;  // float (double for F64 students): (B) for Reduction::None, else one value
  void* grad = nullptr;
  DType grad_dtype = DType::F32;
};

namespace cpu {
void kd_loss(const KDLoss& problem);
}
#ifdef EDUFAST_HAS_CUDA
namespace cuda {
// `workspace` is kd_loss_workspace(problem) bytes of device memory; see csrc/cuda/kd_loss.cu.
int64_t kd_loss_workspace(const KDLoss& problem);
void kd_loss(const KDLoss& problem, void* workspace, void* stream);
}  // namespace cuda
#endif

}  // namespace edufast
