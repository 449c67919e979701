// The operator dist_loss: its schema, its checks and its dispatch.
#include "dist_loss.h"

#include "checks.h"

#include <tuple>

namespace edufast {
namespace {

using torch::stable::new_empty;

std::tuple<Tensor, Tensor> dist_loss(Tensor student, Tensor teacher, double temperature,
                                     double beta, double gamma) {
  check_student(student);
  const int64_t rows = student.size(0), classes = student.size(1);
  EDUFAST_CHECK(teacher.dim() == 2 && teacher.size(0) == rows && teacher.size(1) == classes,
                "teacher has shape ", shape(teacher), "; expected ", shape(student),
                " like student");
  check_device({"teacher"}, teacher, student);
  check_temperature({"temperature"}, temperature);
  check_range({"beta"}, beta, 0, kMaxNumber);
  check_range({"gamma"}, gamma, 0, kMaxNumber);

  DistLoss p;
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
  p.grad_dtype = logits_of({"grad"}, grad).dtype;
  cpu::dist_loss(p);
  return {loss, grad};
}

}  // namespace
}  // namespace edufast

STABLE_TORCH_LIBRARY_FRAGMENT(edufast, m) {
  m.def(
      "dist_loss(Tensor student, Tensor teacher, float temperature, float beta, float gamma) "
      "-> (Tensor loss, Tensor grad)");
}
STABLE_TORCH_LIBRARY_IMPL(edufast, CPU, m) { m.impl("dist_loss", TORCH_BOX(&edufast::dist_loss)); }
