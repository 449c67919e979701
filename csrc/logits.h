// Logits and teachers as the backends see them: raw pointers and numbers, no torch type.
#pragma once

#include "dtype.h"

namespace edufast {

// Teachers travel to a CUDA kernel by value, inside its 4 KB of parameters.
constexpr int kMaxTeachers = 32;

struct Logits {
  const void* data = nullptr;
  int64_t row_stride = 0;  // in elements
  int64_t col_stride = 0;
  DType dtype = DType::F32;
};

struct Teacher {
  Logits logits;                     // (B, classes)
  int32_t classes = 0;
  int32_t start = 0;                 // column j stands for class start + j ...
  const int64_t* columns = nullptr;  // ... or, when given, for class columns[j]
  float temperature = 1;
  void* grad = nullptr;  // (B, classes) contiguous, the teacher's dtype (fp16: fp32); null: unasked
};

}  // namespace edufast
