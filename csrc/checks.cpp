#include "checks.h"

#include <charconv>
#include <cmath>

namespace edufast {

// --- messages -----------------------------------------------------------------------------------

std::ostream& operator<<(std::ostream& out, Argument argument) {
  out << argument.name;
  for (const int64_t index : {argument.index, argument.second_index})
    if (index >= 0) out << '[' << index << ']';
  return out;
}

std::ostream& operator<<(std::ostream& out, Number number) {
  char text[32];
  return out.write(text, std::to_chars(text, text + sizeof text, number.value).ptr - text);
}

std::string shape(torch::headeronly::IntHeaderOnlyArrayRef sizes) {
  std::string text = "(";
  for (size_t i = 0; i < sizes.size(); ++i) text += (i ? ", " : "") + std::to_string(sizes[i]);
  return text + ")";
}

std::string dtype_name(const Tensor& t) {
  switch (t.scalar_type()) {
    case ScalarType::Float: return "float32";
    case ScalarType::BFloat16: return "bfloat16";
    case ScalarType::Half: return "float16";
    case ScalarType::Double: return "float64";
    case ScalarType::Long: return "int64";
    case ScalarType::Int: return "int32";
    default: return torch::headeronly::toString(t.scalar_type());
  }
}

std::string device_name(const Tensor& t) {
  using torch::headeronly::DeviceType;
  const auto device = t.device();
  switch (device.type()) {
    case DeviceType::CPU: return "cpu";
    case DeviceType::CUDA: return "cuda:" + std::to_string(device.index());
    case DeviceType::Meta: return "meta";
    default: return "a device of another type";
  }
}

// --- numbers ------------------------------------------------------------------------------------

void check_range(Argument argument, double value, double low, double high) {
  EDUFAST_CHECK(value >= low && value <= high, argument, " is ", Number{value},
                "; expected a number from ", Number{low}, " to ", Number{high});
}

void check_choice(Argument argument, int64_t value, int64_t count) {
  EDUFAST_CHECK(value >= 0 && value < count, argument, " is ", value, "; expected 0 to ",
                count - 1);
}

void check_temperature(Argument argument, double temperature) {
  check_range(argument, temperature, 1 / kMaxNumber, kMaxNumber);
}

// --- tensors ------------------------------------------------------------------------------------

void check_student(const Tensor& student) {
  EDUFAST_CHECK(student.dim() == 2, "student has shape ", shape(student), "; expected (B, C)");
  EDUFAST_CHECK(student.size(1) >= 1 && student.size(1) <= kMaxClasses, "student has ",
                student.size(1), " classes; expected 1 to ", kMaxClasses);
}

void check_device(Argument argument, const Tensor& t, const Tensor& other, const char* name) {
  EDUFAST_CHECK(t.device() == other.device(), argument, " is on ", device_name(t), "; expected ",
                device_name(other), ", like ", name);
}

void fail_for_device(Argument argument, const Tensor& t) {
  fail(argument, " is on ", device_name(t), "; expected a device that this build has a kernel for");
}

const double* check_numbers(const Tensor& numbers, size_t count, const Tensor& other,
                            const char* name) {
  EDUFAST_CHECK(numbers.scalar_type() == ScalarType::Double && numbers.dim() == 1 &&
                    numbers.size(0) == static_cast<int64_t>(count) && numbers.is_contiguous(),
                "numbers has shape ", shape(numbers), " and dtype ", dtype_name(numbers),
                "; expected contiguous float64 of shape (", count, ")");
  if (!numbers.is_cpu()) check_device({"numbers"}, numbers, other, name);
  return static_cast<const double*>(numbers.const_data_ptr());
}

Logits logits_of(Argument argument, const Tensor& t) {
  const auto dtype = [&] {
    switch (t.scalar_type()) {
      case ScalarType::Float: return DType::F32;
      case ScalarType::BFloat16: return DType::BF16;
      case ScalarType::Half: return DType::F16;
      case ScalarType::Double: return DType::F64;
      default:
        fail(argument, " has dtype ", dtype_name(t),
             "; expected float32, bfloat16, float16 or float64");
    }
  };
  return {t.const_data_ptr(), t.stride(0), t.stride(1), dtype()};
}

ScalarType stored_grad_dtype(const Tensor& logits) {
  const ScalarType dtype = logits.scalar_type();
  return dtype == ScalarType::Half ? ScalarType::Float : dtype;
}

namespace {

Teacher teacher_of(const Tensor& t, const Tensor& student, const std::vector<Tensor>& columns,
                   int64_t k, int64_t start, double temperature) {
  const Argument name{"teachers", k};
  const int64_t classes = student.size(1);
  EDUFAST_CHECK(t.dim() == 2 && t.size(0) == student.size(0) && t.size(1) >= 1 &&
                    t.size(1) <= classes,
                name, " has shape ", shape(t), "; expected (", student.size(0),
                ", C_k) like student, with 1 <= C_k <= ", classes);
  check_device(name, t, student);
  check_temperature({"temperatures", k}, temperature);
  Teacher teacher;
  teacher.logits = logits_of(name, t);
  teacher.classes = static_cast<int32_t>(t.size(1));
  teacher.temperature = static_cast<float>(temperature);
  int64_t last_start = classes - t.size(1);
  if (!columns.empty()) {
    const Tensor& index = columns[k];
    const Argument list{"columns", k};
    EDUFAST_CHECK(index.scalar_type() == ScalarType::Long && index.dim() == 1 &&
                      index.is_contiguous() && (index.size(0) == 0 || index.size(0) == t.size(1)),
                  list, " has shape ", shape(index), " and dtype ", dtype_name(index),
                  "; expected contiguous int64 of shape (", t.size(1), ") like ", name,
                  ", or (0) for a range");
    check_device(list, index, student);
    if (index.size(0) > 0) {
      teacher.columns = static_cast<const int64_t*>(index.const_data_ptr());
      last_start = 0;
    }
  }
  EDUFAST_CHECK(start >= 0 && start <= last_start, Argument{"starts", k}, " is ", start,
                "; expected 0 to ", last_start, " for ", t.size(1), " of ", classes, " classes");
  teacher.start = static_cast<int32_t>(start);
  return teacher;
}

}  // namespace

StudentAndTeachers student_and_teachers(const Tensor& student, const std::vector<Tensor>& teachers,
                                        const std::vector<Tensor>& columns,
                                        const std::vector<int64_t>& starts,
                                        const std::vector<double>& temperatures) {
  check_student(student);
  const size_t k = teachers.size();
  EDUFAST_CHECK(k >= 1 && k <= kMaxTeachers, "teachers has ", k, " tensors; expected 1 to ",
                kMaxTeachers);
  EDUFAST_CHECK(columns.empty() || columns.size() == k, "columns has ", columns.size(),
                " tensors; expected none, or ", k, " like teachers");
  EDUFAST_CHECK(starts.size() == k, "starts has ", starts.size(), " numbers; expected ", k,
                " like teachers");
  EDUFAST_CHECK(temperatures.size() == k, "temperatures has ", temperatures.size(),
                " numbers; expected ", k, " like teachers");
  StudentAndTeachers p;
  p.student = logits_of({"student"}, student);
  p.rows = student.size(0);
  p.classes = static_cast<int32_t>(student.size(1));
  p.num_teachers = static_cast<int32_t>(k);
  for (size_t i = 0; i < k; ++i)
    p.teachers[i] = teacher_of(teachers[i], student, columns, static_cast<int64_t>(i), starts[i],
                               temperatures[i]);
  return p;
}

void check_columns(const StudentAndTeachers& p) {
  for (int32_t k = 0; k < p.num_teachers; ++k) {
    const Teacher& t = p.teachers[k];
    if (!t.columns) continue;
    std::vector<bool> named(p.classes, false);
    for (int32_t j = 0; j < t.classes; ++j) {
      const int64_t c = t.columns[j];
      EDUFAST_CHECK(c >= 0 && c < p.classes, Argument{"columns", k}, " names class ", c,
                    "; expected 0 to ", p.classes - 1);
      EDUFAST_CHECK(!named[c], Argument{"columns", k}, " names class ", c,
                    " twice; expected each class once");
      named[c] = true;
    }
  }
}

}  // namespace edufast
