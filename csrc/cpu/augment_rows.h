// The boundary between the threads (augment.cpp) and the loops (augment_rows.cpp), which exist once
// per instruction set.
#pragma once

#include "augment.h"

#define EDUFAST_DECLARE_AUGMENT_IMAGES(isa)                                               \
  namespace edufast::isa {                                                                \
  /* Images [begin, end) of the batch. */                                                 \
  void augment_images(const Augment& problem, int64_t begin, int64_t end, void* scratch); \
  int64_t augment_scratch(const Augment& problem); /* bytes */                            \
  }
