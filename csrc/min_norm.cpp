// The operators gradient_gram and min_norm_weights: their schemas, their checks and their dispatch.
#include "min_norm.h"

#include "checks.h"

namespace edufast {
namespace {

using torch::stable::new_empty;

Tensor gradient_gram(Tensor student, std::vector<Tensor> teachers, std::vector<Tensor> columns,
                     std::vector<int64_t> starts, std::vector<double> temperatures) {
  STD_TORCH_CHECK(student.dim() == 2, "student has shape ", shape(student), "; expected (B, C)");
  const int64_t k = static_cast<int64_t>(teachers.size()), classes = student.size(1);
  STD_TORCH_CHECK(k >= 1 && k <= kMaxTeachers, "there are ", k, " teachers; expected 1 to ",
                  kMaxTeachers);
  STD_TORCH_CHECK(classes >= 1 && classes <= INT32_MAX, "student has ", classes, " classes");
  STD_TORCH_CHECK(static_cast<int64_t>(starts.size()) == k &&
                      static_cast<int64_t>(temperatures.size()) == k &&
                      (columns.empty() || static_cast<int64_t>(columns.size()) == k),
                  "starts, temperatures and columns need one entry for each of ", k, " teachers");
  GradientGram p;
  p.student = logits_of(student, "student");
  p.rows = student.size(0);
  p.classes = static_cast<int32_t>(classes);
  p.num_teachers = static_cast<int32_t>(k);
  for (int64_t i = 0; i < k; ++i)
    p.teachers[i] = teacher_of(teachers[i], student, columns, i, starts[i], temperatures[i]);
  Tensor gram = new_empty(student, {k, k}, ScalarType::Double);
  p.gram = static_cast<double*>(gram.mutable_data_ptr());
  STD_TORCH_CHECK(student.is_cpu(), "this build of EduFast has no kernel for student's device");
  check_columns(p.teachers, p.num_teachers, p.classes);
  cpu::gradient_gram(p);
  return gram;
}

Tensor min_norm_weights(Tensor gram, double cap) {
  const int64_t k = gram.dim() > 0 ? gram.size(0) : 0;
  STD_TORCH_CHECK(gram.dim() == 2 && gram.size(1) == k && k >= 1 && k <= kMaxTeachers &&
                      gram.scalar_type() == ScalarType::Double && gram.is_contiguous(),
                  "gram has shape ", shape(gram), "; expected contiguous float64 (K, K), K from 1 to ",
                  kMaxTeachers);
  STD_TORCH_CHECK(cap <= 1 && (cap * static_cast<double>(k) > 1 || k == 1), "cap is ", cap,
                  "; expected more than 1/K, at most 1");
  STD_TORCH_CHECK(gram.is_cpu(), "this build of EduFast has no kernel for gram's device");
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
