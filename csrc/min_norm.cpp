// The operators gradient_gram and min_norm_weights: their schemas, their checks and their dispatch.
#include "min_norm.h"

#include "checks.h"

#include <optional>

namespace edufast {
namespace {

using torch::stable::new_empty;

Tensor gradient_gram(Tensor student, std::vector<Tensor> teachers, std::vector<Tensor> columns,
                     std::vector<int64_t> starts, std::vector<double> temperatures,
                     std::optional<Tensor> numbers) {
  if (numbers) {
    EDUFAST_CHECK(temperatures.empty(), "numbers is given; expected no floats beside it");
    const double* row = check_numbers(*numbers, teachers.size(), student);
    temperatures.assign(row, row + teachers.size());
  }
  GradientGram p{student_and_teachers(student, teachers, columns, starts, temperatures)};
  check_columns(p);
  Tensor gram = new_empty(student, {p.num_teachers, p.num_teachers}, ScalarType::Double);
  p.gram = static_cast<double*>(gram.mutable_data_ptr());
  cpu::gradient_gram(p);
  return gram;
}

Tensor min_norm_weights(Tensor gram, double cap, std::optional<Tensor> numbers) {
  const int64_t k = gram.dim() > 0 ? gram.size(0) : 0;
  EDUFAST_CHECK(gram.dim() == 2 && gram.size(1) == k && k >= 1 && k <= kMaxTeachers &&
                    gram.scalar_type() == ScalarType::Double && gram.is_contiguous(),
                "gram has shape ", shape(gram), " and dtype ", dtype_name(gram),
                "; expected contiguous float64 (K, K), K from 1 to ", kMaxTeachers);
  if (numbers) {
    EDUFAST_CHECK(cap == 0, "numbers is given; expected no floats beside it");
    cap = *check_numbers(*numbers, 1, gram);
  }
  // At 1/K a single point is left, and the method would divide by 0.
  EDUFAST_CHECK(cap <= 1 && (cap * static_cast<double>(k) > 1 + 1e-6 || cap == 1), "cap is ",
                Number{cap}, "; expected more than 1/K, at most 1");
  Tensor weights = new_empty(gram, {k}, ScalarType::Float);
  cpu::min_norm_weights(static_cast<const double*>(gram.const_data_ptr()), k, cap,
                        static_cast<float*>(weights.mutable_data_ptr()));
  return weights;
}

}  // namespace
}  // namespace edufast

STABLE_TORCH_LIBRARY_FRAGMENT(edufast, m) {
  m.def(
      "gradient_gram(Tensor student, Tensor[] teachers, Tensor[] columns, int[] starts, "
      "float[] temperatures, Tensor? numbers=None) -> Tensor");
  m.def("min_norm_weights(Tensor gram, float cap, Tensor? numbers=None) -> Tensor");
}
STABLE_TORCH_LIBRARY_IMPL(edufast, CPU, m) {
  m.impl("gradient_gram", TORCH_BOX(&edufast::gradient_gram));
  m.impl("min_norm_weights", TORCH_BOX(&edufast::min_norm_weights));
}
