// Checks of tensors, and what they become for the kernels: what the operators on logits share.
#pragma once

#include "stable_abi.h"
#include "logits.h"

#include <string>
#include <vector>

namespace edufast {

inline std::string shape(const Tensor& t) {
  std::string text = "(";
  for (int64_t i = 0; i < t.dim(); ++i) text += (i ? ", " : "") + std::to_string(t.size(i));
  return text + ")";
}

inline DType logit_dtype(const Tensor& t, const std::string& name) {
  switch (t.scalar_type()) {
    case ScalarType::Float: return DType::F32;
    case ScalarType::BFloat16: return DType::BF16;
    case ScalarType::Half: return DType::F16;
    case ScalarType::Double: return DType::F64;
    default:
      STD_TORCH_CHECK(false, name, " must be float32, bfloat16, float16 or float64");
  }
}

inline Logits logits_of(const Tensor& t, const std::string& name) {
  return {t.const_data_ptr(), t.stride(0), t.stride(1), logit_dtype(t, name)};
}

// Half-precision gradients are kept in fp32 until the backward pass has multiplied them with the
// upstream gradient: divided by the batch they would underflow before a gradient scaler reaches
// them. bfloat16 has fp32's range and needs no such care.
inline ScalarType stored_grad_dtype(const Tensor& t) {
  return t.scalar_type() == ScalarType::Half ? ScalarType::Float : t.scalar_type();
}

inline Teacher teacher_of(const Tensor& t, const Tensor& student,
                          const std::vector<Tensor>& columns, int64_t k, int64_t start,
                          double temperature) {
  const std::string name = "teachers[" + std::to_string(k) + "]";
  STD_TORCH_CHECK(t.dim() == 2 && t.size(0) == student.size(0), name, " has shape ", shape(t),
                  "; expected (", student.size(0), ", classes) like student");
  STD_TORCH_CHECK(t.device() == student.device(), name, " is on another device than student");
  STD_TORCH_CHECK(temperature > 0, "temperature of ", name, " is ", temperature,
                  "; expected a number above 0");
  Teacher teacher;
  teacher.logits = logits_of(t, name);
  teacher.classes = static_cast<int32_t>(t.size(1));
  teacher.temperature = static_cast<float>(temperature);
  if (!columns.empty() && columns[k].numel() > 0) {
    const Tensor& index = columns[k];
    STD_TORCH_CHECK(index.scalar_type() == ScalarType::Long && index.dim() == 1 &&
                        index.is_contiguous() && index.device() == student.device(),
                    "columns[", k, "] must be a contiguous 1-d int64 tensor on student's device");
    STD_TORCH_CHECK(index.numel() == t.size(1), "columns[", k, "] names ", index.numel(),
                    " classes, but ", name, " has ", t.size(1), " logits");
    teacher.columns = static_cast<const int64_t*>(index.const_data_ptr());
  } else {
    STD_TORCH_CHECK(start >= 0 && start + t.size(1) <= student.size(1), name, " covers classes ",
                    start, " to ", start + t.size(1), ", but student has ", student.size(1));
    teacher.start = static_cast<int32_t>(start);
  }
  STD_TORCH_CHECK(t.size(1) > 0, name, " has no classes");
  return teacher;
}

// What is in a list of classes can be looked at on the CPU only; a CUDA kernel makes the loss NaN.
inline void check_columns(const Teacher* teachers, int32_t count, int32_t classes) {
  for (int32_t k = 0; k < count; ++k) {
    const Teacher& t = teachers[k];
    for (int64_t j = 0; t.columns && j < t.classes; ++j)
      STD_TORCH_CHECK(t.columns[j] >= 0 && t.columns[j] < classes, "columns[", k, "] names class ",
                      t.columns[j], "; expected 0 to ", classes - 1);
  }
}

}  // namespace edufast
