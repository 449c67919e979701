// The boundary between the threads (kd_loss.cpp) and the row loops (kd_loss_rows.cpp), which exist
// once per instruction set.
#pragma once

#include "kd_loss.h"

#define EDUFAST_DECLARE_ROWS(isa)                                                              \
  namespace edufast::isa {                                                                     \
  /* Bytes of scratch that one call of kd_loss_rows needs. */                                  \
  int64_t kd_loss_scratch(const KDLoss& problem);                                              \
  /* Rows [begin, end): writes their gradients, scaled by `scale`, and unscaled row losses. */ \
  void kd_loss_rows(const KDLoss& problem, int64_t begin, int64_t end, double scale,           \
                    double* row_loss, void* scratch);                                          \
  }
