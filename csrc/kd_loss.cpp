// The operator kd_loss: its schema, its checks (once, here; the backends trust what they get) and
// its dispatch.
#include "kd_loss.h"

#include "checks.h"

#include <algorithm>
#include <initializer_list>
#include <optional>
#include <tuple>
#include <utility>
#include <vector>

namespace edufast {
namespace {

using torch::stable::new_empty;

using KDLossResult = std::tuple<Tensor, Tensor, std::vector<Tensor>>;

void set_labels(KDLoss& p, const Tensor& student, const Tensor& labels, int64_t ignore_index) {
  EDUFAST_CHECK(labels.dim() == 1 && labels.size(0) == p.rows &&
                    labels.scalar_type() == ScalarType::Long,
                "labels has shape ", shape(labels), " and dtype ", dtype_name(labels),
                "; expected int64 of shape (", p.rows, ")");
  check_device({"labels"}, labels, student);
  p.labels = static_cast<const int64_t*>(labels.const_data_ptr());
  p.label_stride = labels.stride(0);
  p.ignore_index = ignore_index;
}

// Like check_columns: a CUDA kernel looks itself, and makes the row's loss NaN.
void check_labels(const KDLoss& p) {
  for (int64_t row = 0; row < p.rows; ++row) {
    const int64_t y = p.labels[row * p.label_stride];
    EDUFAST_CHECK(y == p.ignore_index || (y >= 0 && y < p.classes), Argument{"labels", row}, " is ",
                  y, "; expected 0 to ", p.classes - 1, " or ignore_index ", p.ignore_index);
  }
}

void set_weights(KDLoss& p, const Tensor& student, int64_t weighting,
                 const std::optional<Tensor>& weights) {
  check_choice({"weighting"}, weighting, 5);
  p.weighting = static_cast<Weighting>(weighting);
  const bool given = p.weighting == Weighting::Given;
  EDUFAST_CHECK(weights.has_value() == given, "weights is ", given ? "missing" : "given",
                "; expected ", given ? "a tensor" : "none", " with weighting ", weighting);
  if (!given) return;
  const Tensor& w = *weights;
  const bool per_row = w.dim() == 2 && w.size(0) == p.rows && w.size(1) == p.num_teachers;
  EDUFAST_CHECK((per_row || (w.dim() == 1 && w.size(0) == p.num_teachers)) &&
                    w.scalar_type() == ScalarType::Float,
                "weights has shape ", shape(w), " and dtype ", dtype_name(w),
                "; expected float32 of shape (", p.num_teachers, ") or (", p.rows, ", ",
                p.num_teachers, ")");
  check_device({"weights"}, w, student);
  p.weights = static_cast<const float*>(w.const_data_ptr());
  p.weight_row_stride = per_row ? w.stride(0) : 0;
  p.weight_col_stride = w.stride(per_row ? 1 : 0);
}

void set_divergence(KDLoss& p, int64_t divergence, const std::vector<double>& params) {
  check_choice({"divergence"}, divergence, 4);
  p.divergence = static_cast<Divergence>(divergence);
  const size_t count = traits_of(p.divergence).params;
  EDUFAST_CHECK(params.size() == count, "divergence_params has ", params.size(),
                " numbers; expected ", count, " for divergence ", divergence);
  const auto set = [&p](std::initializer_list<double> numbers) {
    std::copy(numbers.begin(), numbers.end(), p.divergence_params);
  };
  if (p.divergence == Divergence::JS) {
    const double beta = params[0];
    EDUFAST_CHECK(beta >= 1 / kMaxNumber && beta < 1, "divergence_params[0] is ", Number{beta},
                  "; expected ", Number{1 / kMaxNumber}, " <= beta < 1");
    set({beta, 1 - beta});  // in float32 the difference would lose its digits for a beta near 1
  } else if (p.divergence == Divergence::DKD) {
    check_range({"divergence_params", 0}, params[0], 0, kMaxNumber);
    check_range({"divergence_params", 1}, params[1], 0, kMaxNumber);
    set({params[0], params[1]});
  }
}

void set_terms(KDLoss& p, double alpha, double label_smoothing) {
  check_range({"alpha"}, alpha, 0, 1);
  EDUFAST_CHECK(label_smoothing >= 0 && label_smoothing < 1, "label_smoothing is ",
                Number{label_smoothing}, "; expected a number in [0, 1)");
  p.alpha = static_cast<float>(alpha);
  p.label_smoothing = static_cast<float>(label_smoothing);
}

// The arguments that may change from call to call.
struct Numbers {
  std::vector<double> temperatures;
  double alpha, label_smoothing;
  std::vector<double> divergence_params;
  const double* on_device = nullptr;
};

// The same from a tensor that replaces them: read here, or where the kernel is.
void replace(Numbers& n, const Tensor& numbers, const Tensor& student, size_t teachers,
             int64_t divergence) {
  EDUFAST_CHECK(n.temperatures.empty() && n.divergence_params.empty() && n.alpha == 0 &&
                    n.label_smoothing == 0,
                "numbers is given; expected no floats beside it");
  check_choice({"divergence"}, divergence, 4);
  const Divergence kind = static_cast<Divergence>(divergence);
  const size_t params = traits_of(kind).params;
  const double* row = check_numbers(numbers, teachers + 2 + params, student);
  // What the kernel reads itself is anything that gets past the checks.
  std::vector<double> host(teachers + 2 + params, 0.5);
  if (numbers.is_cpu()) std::copy_n(row, host.size(), host.begin());
  else n.on_device = row;
  const auto after = host.begin() + static_cast<std::ptrdiff_t>(teachers);
  n.temperatures.assign(host.begin(), after);
  n.alpha = after[0];
  n.label_smoothing = after[1];
  n.divergence_params.assign(after + 2, host.end());
}

KDLossResult kd_loss(Tensor student, std::vector<Tensor> teachers, Tensor labels,
                     std::optional<Tensor> weights, std::vector<Tensor> columns,
                     std::vector<int64_t> starts, std::vector<double> temperatures, double alpha,
                     int64_t weighting, int64_t divergence, std::vector<double> divergence_params,
                     double label_smoothing, int64_t ignore_index, int64_t reduction,
                     bool teacher_grad, std::optional<Tensor> numbers) {
  Numbers n{std::move(temperatures), alpha, label_smoothing, std::move(divergence_params)};
  if (numbers) replace(n, *numbers, student, teachers.size(), divergence);
  KDLoss p{student_and_teachers(student, teachers, columns, starts, n.temperatures)};
  set_labels(p, student, labels, ignore_index);
  set_weights(p, student, weighting, weights);
  set_divergence(p, divergence, n.divergence_params);
  set_terms(p, n.alpha, n.label_smoothing);
  p.numbers = n.on_device;
  check_choice({"reduction"}, reduction, 3);
  p.reduction = static_cast<Reduction>(reduction);
  if (student.is_cpu()) {
    check_columns(p);
    check_labels(p);
  }

  std::vector<Tensor> teacher_grads;
  for (size_t k = 0; teacher_grad && k < teachers.size(); ++k) {
    const Tensor& t = teachers[k];
    teacher_grads.push_back(new_empty(t, {p.rows, t.size(1)}, stored_grad_dtype(t)));
    p.teachers[k].grad = teacher_grads.back().mutable_data_ptr();
  }
  const auto loss_dtype = p.student.dtype == DType::F64 ? ScalarType::Double : ScalarType::Float;
  Tensor grad = new_empty(student, {p.rows, p.classes}, stored_grad_dtype(student));
  Tensor loss = p.reduction == Reduction::None ? new_empty(student, {p.rows}, loss_dtype)
                                               : new_empty(student, {}, loss_dtype);
  p.grad = grad.mutable_data_ptr();
  p.grad_dtype = stored_grad(p.student.dtype);
  p.loss = loss.mutable_data_ptr();

  if (student.is_cpu()) {
    cpu::kd_loss(p);
#ifdef EDUFAST_HAS_CUDA
  } else if (student.is_cuda()) {
    torch::stable::accelerator::DeviceGuard guard(student.get_device_index());
    Tensor workspace = new_empty(student, {cuda::kd_loss_workspace(p)}, ScalarType::Byte);
    cuda::kd_loss(p, workspace.mutable_data_ptr(), current_cuda_stream(student.get_device_index()));
#endif
  } else {
    fail_for_device({"student"}, student);
  }
  return {loss, grad, teacher_grads};
}

}  // namespace
}  // namespace edufast

STABLE_TORCH_LIBRARY_FRAGMENT(edufast, m) {
  m.def(
      "kd_loss(Tensor student, Tensor[] teachers, Tensor labels, Tensor? weights, "
      "Tensor[] columns, int[] starts, float[] temperatures, float alpha, int weighting, "
      "int divergence, float[] divergence_params, float label_smoothing, int ignore_index, "
      "int reduction, bool teacher_grad, Tensor? numbers=None) "
      "-> (Tensor loss, Tensor grad, Tensor[] teacher_grads)");
}
STABLE_TORCH_LIBRARY_IMPL(edufast, CPU, m) { m.impl("kd_loss", TORCH_BOX(&edufast::kd_loss)); }
#ifdef EDUFAST_HAS_CUDA
STABLE_TORCH_LIBRARY_IMPL(edufast, CUDA, m) { m.impl("kd_loss", TORCH_BOX(&edufast::kd_loss)); }
#endif
