// What the backward pass of a fused loss asks of a kernel: the gradient times the upstream one.
#pragma once

#include <cstdint>

#include "dtype.h"

namespace edufast {

struct Scale {
  void* data;  // contiguous, at a multiple of 16 bytes
  int64_t elements;
  DType dtype;
  const void* factor;  // one number
  DType factor_dtype;  // F32 or F64
};

namespace cuda {
void scale(const Scale& p, void* stream);
}

}  // namespace edufast
