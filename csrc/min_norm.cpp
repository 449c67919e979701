// The operators gradient_gram and min_norm_weights: their schemas, their checks and their dispatch.
#include "min_norm.h"

#include "checks.h"

namespace edufast {
namespace {

using torch::stable::new_empty;

Tensor gradient_gram(Tensor student, std::vector<Tensor> teachers, std::vector<Tensor> columns,
                     std::vector<int64_t> starts, std::vector<double> temperatures) {
  GradientGram p{student_and_teachers(student, teachers, columns, starts, temperatures)};
  check_columns(p);
  Tensor gram = new_empty(student, {p.num_teachers, p.num_teachers}, ScalarType::Double);
  p.gram = static_cast<double*>(gram.mutable_data_ptr());
  cpu::gradient_gram(p);
  return gram;
}

Tensor min_norm_weights(Tensor gram, double cap) {
  const int64_t k = gram.dim() > 0 ? gram.size(0) : 0;
  EDUFAST_CHECK(gram.dim() == 2 && gram.size(1) == k && k >= 1 && k <= kMaxTeachers &&
                    gram.scalar_type() == ScalarType::Double && gram.is_contiguous(),
                "gram has shape ", shape(gram), " and dtype ", dtype_name(gram),
                "; expected contiguous float64 (K, K), K from 1 to ", kMaxTeachers);
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
      "float[] temperatures) -> Tensor");
  m.def("min_norm_weights(Tensor gram, float cap) -> Tensor");
}
STABLE_TORCH_LIBRARY_IMPL(edufast, CPU, m) {
  m.impl("gradient_gram", TORCH_BOX(&edufast::gradient_gram));
  m.impl("min_norm_weights", TORCH_BOX(&edufast::min_norm_weights));
}
