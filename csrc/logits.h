// Logits and teachers as the backends see them: raw pointers and numbers, no torch type.
#pragma once

#include "dtype.h"

namespace edufast {

// Teachers travel to a CUDA kernel by value, inside its 4 KB of parameters.
constexpr int kMaxTeachers = 32;
// Columns are counted in 32 bits, which must also hold a row rounded up to whole spans of threads.
constexpr int64_t kMaxClasses = int64_t{1} << 30;
// Of temperatures and weights of terms: their squares, and the inverse of a temperature's square,
// are normal float32 numbers up to here.
constexpr double kMaxNumber = 1e18;

struct Logits {
  const void* data = nullptr;
  int64_t row_stride = 0;  // in elements
  int64_t col_stride = 0;
  DType dtype = DType::F32;
};

struct Teacher {
  Logits logits;  // (B, classes)
  int32_t classes = 0;
  int32_t start = 0;                 // column j stands for class start + j ...
  const int64_t* columns = nullptr;  // ... or, when given, for class columns[j]
  float temperature = 1;
  void* grad = nullptr;  // (B, classes) contiguous, the teacher's dtype (fp16: fp32); null: unasked
};

// What losses with several teachers have in common.
struct StudentAndTeachers {
  Logits student;  // (B, C)
  int64_t rows = 0;
  int32_t classes = 0;
  int32_t num_teachers = 0;
  Teacher teachers[kMaxTeachers];
};

}  // namespace edufast
