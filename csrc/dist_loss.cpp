// The operator dist_loss: its schema, its checks and its dispatch.
#include "dist_loss.h"

#include "checks.h"

#include <optional>
#include <tuple>

namespace edufast {
namespace {

using torch::stable::new_empty;

std::tuple<Tensor, Tensor> dist_loss(Tensor student, Tensor teacher, double temperature,
                                     double beta, double gamma, std::optional<Tensor> numbers) {
  check_student(student);
  DistLoss p;
  if (numbers) {
    EDUFAST_CHECK(temperature == 0 && beta == 0 && gamma == 0,
                  "numbers is given; expected no floats beside it");
    const double* row = check_numbers(*numbers, 3, student);
    p.numbers = numbers->is_cpu() ? nullptr : row;
    // What the kernel reads itself is anything that gets past the checks.
    temperature = p.numbers ? 1 : row[0];
    beta = p.numbers ? 1 : row[1];
    gamma = p.numbers ? 1 : row[2];
  }
  const int64_t rows = student.size(0), classes = student.size(1);
  EDUFAST_CHECK(teacher.dim() == 2 && teacher.size(0) == rows && teacher.size(1) == classes,
                "teacher has shape ", shape(teacher), "; expected ", shape(student),
                " like student");
  check_device({"teacher"}, teacher, student);
  check_temperature({"temperature"}, temperature);
  check_range({"beta"}, beta, 0, kMaxNumber);
  check_range({"gamma"}, gamma, 0, kMaxNumber);

  p.student = logits_of({"student"}, student);
  p.teacher = logits_of({"teacher"}, teacher);
  p.rows = rows;
  p.classes = static_cast<int32_t>(classes);
  p.temperature = temperature;
  p.beta = beta;
  p.gamma = gamma;
  const bool doubles = p.student.dtype == DType::F64;
  Tensor loss = new_empty(student, {}, doubles ? ScalarType::Double : ScalarType::Float);
  Tensor grad = new_empty(student, {rows, classes}, stored_grad_dtype(student));
  p.loss = loss.mutable_data_ptr();
  p.grad = grad.mutable_data_ptr();
  p.grad_dtype = stored_grad(p.student.dtype);
  if (student.is_cpu()) {
    cpu::dist_loss(p);
#ifdef EDUFAST_HAS_CUDA
  } else if (student.is_cuda()) {
    torch::stable::accelerator::DeviceGuard guard(student.get_device_index());
    Tensor workspace = new_empty(student, {cuda::dist_loss_workspace(p)}, ScalarType::Byte);
    cuda::dist_loss(p, workspace.mutable_data_ptr(),
                    current_cuda_stream(student.get_device_index()));
#endif
  } else {
    fail_for_device({"student"}, student);
  }
  return {loss, grad};
}

}  // namespace
}  // namespace edufast

STABLE_TORCH_LIBRARY_FRAGMENT(edufast, m) {
  m.def(
      "dist_loss(Tensor student, Tensor teacher, float temperature, float beta, float gamma, "
      "Tensor? numbers=None) "
      "-> (Tensor loss, Tensor grad)");
}
STABLE_TORCH_LIBRARY_IMPL(edufast, CPU, m) { m.impl("dist_loss", TORCH_BOX(&edufast::dist_loss)); }
#ifdef EDUFAST_HAS_CUDA
STABLE_TORCH_LIBRARY_IMPL(edufast, CUDA, m) { m.impl("dist_loss", TORCH_BOX(&edufast::dist_loss)); }
#endif
