// The weights of the teachers on one row. `local[k]` is the column of the label, -1 where teacher k
// does not know it.
#pragma once

#include "cpu/simd.h"
#include "kd_loss.h"

namespace edufast::EDUFAST_ISA {
namespace {

// The weights that need no logits; for the others: which teachers take part.
template <class A>
void initial_weights(const KDLoss& p, int64_t row, const int64_t* local, A* weight) {
  const int64_t teachers = p.num_teachers;
  int64_t owners = 0;
  for (int64_t k = 0; k < teachers; ++k) owners += local[k] >= 0;
  for (int64_t k = 0; k < teachers; ++k) {
    switch (p.weighting) {
      case Weighting::Given:
        weight[k] = p.weights[row * p.weight_row_stride + k * p.weight_col_stride];
        break;
      case Weighting::Mean: weight[k] = A(1) / A(teachers); break;
      case Weighting::Entropy: weight[k] = 1; break;
      case Weighting::Routed: weight[k] = local[k] >= 0 ? A(1) / A(owners) : 0; break;
      case Weighting::Confidence: weight[k] = local[k] >= 0; break;
    }
  }
}

template <class A> void entropy_weights(int64_t teachers, const double* entropy, A* weight) {
  if (teachers == 1) return;
  double total = 0;
  for (int64_t k = 0; k < teachers; ++k) total += entropy[k];
  for (int64_t k = 0; k < teachers; ++k) {
    const double share = total == 0 ? 1.0 / double(teachers) : entropy[k] / total;
    weight[k] = A((1 - share) / double(teachers - 1));
  }
}

// `cost[k]`: cross-entropy of teacher k with the label; used up.
template <class A>
void confidence_weights(int64_t teachers, const int64_t* local, double* cost, A* weight) {
  constexpr double kLargest = 1e30;  // for a label the teacher masks: inf - inf would be NaN
  int64_t owners = 0;
  double most = -kInf<double>, total = 0;
  for (int64_t k = 0; k < teachers; ++k) {
    if (local[k] < 0) continue;
    ++owners;
    if (cost[k] > kLargest) cost[k] = kLargest;
    if (!(cost[k] <= most)) most = cost[k];
  }
  if (owners < 2) return;
  for (int64_t k = 0; k < teachers; ++k)
    if (local[k] >= 0) total += cost[k] = scalar_exp(cost[k] - most);
  for (int64_t k = 0; k < teachers; ++k)
    if (local[k] >= 0) weight[k] = A((1 - cost[k] / total) / double(owners - 1));
}

}  // namespace
}  // namespace edufast::EDUFAST_ISA
