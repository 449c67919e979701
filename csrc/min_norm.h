// AEKD's weights as the backends see them: raw pointers and numbers, no torch type.
// Specification: edufast/ops/reference/min_norm.py.
#pragma once

#include "logits.h"

namespace edufast {

// Of the interior-point method; edufast/ops/reference/min_norm.py says why.
constexpr int kMinNormIterations = 24;
constexpr double kMinNormSigma = 0.1, kMinNormFloor = 1e-13, kMinNormToBoundary = 0.99,
                 kMinNormNegligible = 1e-6;

struct GradientGram : StudentAndTeachers {  // the teachers' `grad` is not used
  // CUDA only, device memory: the K temperatures, which then count for nothing above. Out of range:
  // a matrix with NaN, as where a list names a class twice or one that there is not.
  const double* numbers = nullptr;
  double* gram = nullptr;  // (K, K): sums of g_i g_j over rows and classes, g_k = T_k (p_k - q_k)
};

namespace cpu {
void gradient_gram(const GradientGram& problem);
// weights = argmin w' gram w, with sum w = 1 and 0 <= w <= cap.
void min_norm_weights(const double* gram, int64_t num_teachers, double cap, float* weights);
}  // namespace cpu
#ifdef EDUFAST_HAS_CUDA
namespace cuda {
// `workspace` is gradient_gram_workspace(problem) bytes of device memory; see csrc/cuda/min_norm.cu.
int64_t gradient_gram_workspace(const GradientGram& problem);
void gradient_gram(const GradientGram& problem, void* workspace, void* stream);
// `number`, in device memory, takes the place of the cap where it is given.
void min_norm_weights(const double* gram, int64_t num_teachers, double cap, const double* number,
                      float* weights, void* stream);
}  // namespace cuda
#endif

}  // namespace edufast
