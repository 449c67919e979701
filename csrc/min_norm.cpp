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
  const double* on_device = nullptr;
  if (numbers) {
    EDUFAST_CHECK(temperatures.empty(), "numbers is given; expected no floats beside it");
    const double* row = check_numbers(*numbers, teachers.size(), student);
    if (!numbers->is_cpu()) on_device = row;
    // What the kernel reads itself is anything that gets past the checks.
    if (on_device) temperatures.assign(teachers.size(), 1);
    else temperatures.assign(row, row + teachers.size());
  }
  GradientGram p{student_and_teachers(student, teachers, columns, starts, temperatures)};
  p.numbers = on_device;
  Tensor gram = new_empty(student, {p.num_teachers, p.num_teachers}, ScalarType::Double);
  p.gram = static_cast<double*>(gram.mutable_data_ptr());
  if (student.is_cpu()) {
    check_columns(p);
    cpu::gradient_gram(p);
#ifdef EDUFAST_HAS_CUDA
  } else if (student.is_cuda()) {
    torch::stable::accelerator::DeviceGuard guard(student.get_device_index());
    Tensor workspace = new_empty(student, {cuda::gradient_gram_workspace(p)}, ScalarType::Byte);
    cuda::gradient_gram(p, workspace.mutable_data_ptr(),
                        current_cuda_stream(student.get_device_index()));
#endif
  } else {
    fail_for_device({"student"}, student);
  }
  return gram;
}

Tensor min_norm_weights(Tensor gram, double cap, std::optional<Tensor> numbers) {
  const int64_t k = gram.dim() > 0 ? gram.size(0) : 0;
  EDUFAST_CHECK(gram.dim() == 2 && gram.size(1) == k && k >= 1 && k <= kMaxTeachers &&
                    gram.scalar_type() == ScalarType::Double && gram.is_contiguous(),
                "gram has shape ", shape(gram), " and dtype ", dtype_name(gram),
                "; expected contiguous float64 (K, K), K from 1 to ", kMaxTeachers);
  const double* on_device = nullptr;
  if (numbers) {
    EDUFAST_CHECK(cap == 0, "numbers is given; expected no floats beside it");
    const double* number = check_numbers(*numbers, 1, gram, "gram");
    if (!numbers->is_cpu()) on_device = number;
    cap = on_device ? 1 : *number;
  }
  // At 1/K a single point is left, and the method would divide by 0.
  EDUFAST_CHECK(cap <= 1 && (cap * static_cast<double>(k) > 1 + 1e-6 || cap == 1), "cap is ",
                Number{cap}, "; expected more than 1/K, at most 1");
  Tensor weights = new_empty(gram, {k}, ScalarType::Float);
  const auto* entries = static_cast<const double*>(gram.const_data_ptr());
  auto* out = static_cast<float*>(weights.mutable_data_ptr());
  if (gram.is_cpu()) {
    cpu::min_norm_weights(entries, k, cap, out);
#ifdef EDUFAST_HAS_CUDA
  } else if (gram.is_cuda()) {
    torch::stable::accelerator::DeviceGuard guard(gram.get_device_index());
    cuda::min_norm_weights(entries, k, cap, on_device, out,
                           current_cuda_stream(gram.get_device_index()));
#endif
  } else {
    fail_for_device({"gram"}, gram);
  }
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
#ifdef EDUFAST_HAS_CUDA
STABLE_TORCH_LIBRARY_IMPL(edufast, CUDA, m) {
  m.impl("gradient_gram", TORCH_BOX(&edufast::gradient_gram));
  m.impl("min_norm_weights", TORCH_BOX(&edufast::min_norm_weights));
}
#endif
