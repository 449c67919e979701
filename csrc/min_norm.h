// AEKD's weights as the backends see them: raw pointers and numbers, no torch type.
// Specification: edufast/ops/reference/min_norm.py.
#pragma once

#include "logits.h"

namespace edufast {

struct GradientGram : StudentAndTeachers {  // the teachers' `grad` is not used
  double* gram = nullptr;  // (K, K): sums of g_i g_j over rows and classes, g_k = T_k (p_k - q_k)
};

namespace cpu {
void gradient_gram(const GradientGram& problem);
// weights = argmin w' gram w, with sum w = 1 and 0 <= w <= cap.
void min_norm_weights(const double* gram, int64_t num_teachers, double cap, float* weights);
}  // namespace cpu

}  // namespace edufast
