// The boundary between the threads (min_norm.cpp) and the row loops (min_norm_rows.cpp), which
// exist once per instruction set.
#pragma once

#include "min_norm.h"

#define EDUFAST_DECLARE_GRAM(isa)                                                       \
  namespace edufast::isa {                                                              \
  /* Bytes of scratch that one call of gram_rows needs. */                              \
  int64_t gram_scratch(const GradientGram& problem);                                    \
  /* Adds the rows [begin, end) to the lower triangle of `gram`. */                     \
  void gram_rows(const GradientGram& problem, int64_t begin, int64_t end, double* gram, \
                 void* scratch);                                                        \
  }
