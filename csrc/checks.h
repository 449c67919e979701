// Checks that operators share, and what the tensors become for the kernels. Every operator is
// public (torch.ops.edufast.*): what comes in is checked in C++, before a kernel sees it. Messages
// say `<argument> is <found>; expected <expected>`.
#pragma once

#include "logits.h"
#include "stable_abi.h"

#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace edufast {

// --- messages -----------------------------------------------------------------------------------

// An argument, or an entry of it, or an entry of that.
struct Argument {
  const char* name;
  int64_t index = -1, second_index = -1;
};
std::ostream& operator<<(std::ostream& out, Argument argument);

struct Number {  // written so that it reads back: what is found may differ from a bound by an ulp
  double value;
};
std::ostream& operator<<(std::ostream& out, Number number);

std::string shape(torch::headeronly::IntHeaderOnlyArrayRef sizes);
inline std::string shape(const Tensor& t) { return shape(t.sizes()); }
std::string dtype_name(const Tensor& t);
std::string device_name(const Tensor& t);

template <class... Parts>
[[noreturn]] void fail(const Parts&... parts) {
  std::ostringstream message;
  (message << ... << parts);
  throw std::runtime_error(message.str());
}
#define EDUFAST_CHECK(condition, ...)             \
  do {                                            \
    if (!(condition)) edufast::fail(__VA_ARGS__); \
  } while (false)

// --- numbers ------------------------------------------------------------------------------------

// NaN is in no range.
void check_range(Argument argument, double value, double low, double high);
void check_choice(Argument argument, int64_t value, int64_t count);  // 0 to count - 1
void check_temperature(Argument argument, double temperature);

// --- tensors ------------------------------------------------------------------------------------

void check_student(const Tensor& student);  // (B, C)
// That `t` is where `other` is, the argument called `name`.
void check_device(Argument argument, const Tensor& t, const Tensor& other,
                  const char* name = "student");
[[noreturn]] void fail_for_device(Argument argument, const Tensor& t);  // there is no kernel for it
// float64 (count) on the CPU or on the device of `other`.
const double* check_numbers(const Tensor& numbers, size_t count, const Tensor& other,
                            const char* name = "student");
Logits logits_of(Argument argument, const Tensor& t);  // (B, C), a float type

// Half-precision gradients are kept in fp32 until the backward pass has multiplied them with the
// upstream gradient: divided by the batch they would underflow before a gradient scaler reaches
// them. bfloat16 has fp32's range and needs no such care.
ScalarType stored_grad_dtype(const Tensor& logits);

StudentAndTeachers student_and_teachers(const Tensor& student, const std::vector<Tensor>& teachers,
                                        const std::vector<Tensor>& columns,
                                        const std::vector<int64_t>& starts,
                                        const std::vector<double>& temperatures);

// The classes in the lists. Only memory of the CPU can be looked at; a CUDA kernel looks itself,
// and makes the loss NaN.
void check_columns(const StudentAndTeachers& p);

}  // namespace edufast
