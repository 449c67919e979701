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
  if (numbers) {
    EDUFAST_CHECK(temperature == 0 && beta == 0 && gamma == 0,
                  "numbers is given; expected no floats beside it");
    const double* row = check_numbers(*numbers, 3, student);
    temperature = row[0];
    beta = row[1];
    gamma = row[2];
  }
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
      "dist_loss(Tensor student, Tensor teacher, float temperature, float beta, float gamma, "
      "Tensor? numbers=None) "
      "-> (Tensor loss, Tensor grad)");
}
STABLE_TORCH_LIBRARY_IMPL(edufast, CPU, m) { m.impl("dist_loss", TORCH_BOX(&edufast::dist_loss)); }
