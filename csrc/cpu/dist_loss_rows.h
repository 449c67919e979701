// The boundary between the threads (dist_loss.cpp) and the loops (dist_loss_rows.cpp), which exist
// once per instruction set.
#pragma once

#include "dist_loss.h"

namespace edufast::cpu {

// Rows whose columns are summed together, whatever the number of threads: the same bits for all.
constexpr int64_t kDistRows = 32;
// Columns that are in the cache together, a strip.
constexpr int64_t kDistColumns = 1024;
constexpr int64_t dist_strips(int64_t classes) {
  return (classes + kDistColumns - 1) / kDistColumns;
}

// Of p and q about their means: sums of squares, and of products.
struct Moments {
  double pp = 0, qq = 0, pq = 0;
};

// What the first pass leaves of a row for the second: its two softmaxes, and the derivative of its
// correlation, `of_teacher` q + `of_student` p up to a constant.
struct DistRow {
  double p_shift, p_inverse, q_shift, q_inverse, of_teacher, of_student, correlation;
};

// Memory of a call. Element type A: float, or double where the student is F64.
struct DistMemory {
  DistRow* rows;         // (B)
  Moments* moments;      // (B, strips), of the rows
  void* partials;        // A (blocks of rows, 5, C): mean p, mean q, centred sums of pp, qq and pq
  void* columns;         // A (4, C): mean p, mean q, and the derivative as above
  double* correlations;  // (C), of the columns
};

}  // namespace edufast::cpu

#define EDUFAST_DECLARE_DIST(isa)                                                               \
  namespace edufast::isa {                                                                      \
  /* Bytes of scratch that a call of dist_softmaxes, dist_sums or dist_gradient needs. */       \
  int64_t dist_scratch(const DistLoss& problem);                                                \
  /* Before pass 1, where there are several strips, rows [begin, end): the softmaxes in       \
     memory.rows. */ \
  void dist_softmaxes(const DistLoss& problem, int64_t begin, int64_t end,                      \
                      const cpu::DistMemory& memory, void* scratch);                            \
  /* Pass 1, strip t % strips of block t / strips of kDistRows rows, for t in [begin, end):   \
     fills memory.moments and memory.partials, and where there is one strip the softmaxes. */ \
  void dist_sums(const DistLoss& problem, int64_t begin, int64_t end,                           \
                 const cpu::DistMemory& memory, void* scratch);                                 \
  /* Between the passes, columns [begin, end): partials to columns and correlations. */         \
  void dist_columns(const DistLoss& problem, int64_t begin, int64_t end,                        \
                    const cpu::DistMemory& memory);                                             \
  /* Pass 2, rows [begin, end): writes their gradients. */                                      \
  void dist_gradient(const DistLoss& problem, int64_t begin, int64_t end,                       \
                     const cpu::DistMemory& memory, void* scratch);                             \
  }
