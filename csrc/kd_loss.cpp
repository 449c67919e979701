// The operator kd_loss: its schema, its checks (once, here; the backends trust what they get) and its
// dispatch.
#include "kd_loss.h"

#include "checks.h"
#include "stable_abi.h"

#include <tuple>
#include <vector>

namespace edufast {
namespace {

using torch::stable::new_empty;

void check_labels(const KDLoss& p) {
  for (int64_t row = 0; row < p.rows; ++row) {
    const int64_t y = p.labels[row * p.label_stride];
    STD_TORCH_CHECK(y == p.ignore_index || (y >= 0 && y < p.classes), "labels[", row, "] is ", y,
                    "; expected 0 to ", p.classes - 1, " or ignore_index ", p.ignore_index);
  }
}

using KDLossResult = std::tuple<Tensor, Tensor, std::vector<Tensor>>;

KDLossResult kd_loss(Tensor student, std::vector<Tensor> teachers, Tensor labels,
                     std::optional<Tensor> weights, std::vector<Tensor> columns,
                     std::vector<int64_t> starts, std::vector<double> temperatures, double alpha,
                     int64_t weighting, int64_t divergence, std::vector<double> divergence_params,
                     double label_smoothing, int64_t ignore_index, int64_t reduction,
                     bool teacher_grad) {
  STD_TORCH_CHECK(student.dim() == 2, "student has shape ", shape(student), "; expected (B, C)");
  const int64_t rows = student.size(0), classes = student.size(1);
  const int64_t k = static_cast<int64_t>(teachers.size());
  STD_TORCH_CHECK(k >= 1 && k <= kMaxTeachers, "there are ", k, " teachers; expected 1 to ",
                  kMaxTeachers);
  STD_TORCH_CHECK(classes >= 1 && classes <= INT32_MAX, "student has ", classes, " classes");
  STD_TORCH_CHECK(labels.dim() == 1 && labels.size(0) == rows &&
                      labels.scalar_type() == ScalarType::Long &&
                      labels.device() == student.device(),
                  "labels has shape ", shape(labels), "; expected int64 of shape (", rows,
                  ",) on student's device");
  STD_TORCH_CHECK(static_cast<int64_t>(starts.size()) == k &&
                      static_cast<int64_t>(temperatures.size()) == k &&
                      (columns.empty() || static_cast<int64_t>(columns.size()) == k),
                  "starts, temperatures and columns need one entry for each of ", k, " teachers");
  STD_TORCH_CHECK(divergence_params.size() <= 2, "divergence_params has ",
                  divergence_params.size(), " entries; expected at most 2");

  KDLoss p;
  p.student = logits_of(student, "student");
  p.rows = rows;
  p.classes = static_cast<int32_t>(classes);
  p.num_teachers = static_cast<int32_t>(k);
  p.labels = static_cast<const int64_t*>(labels.const_data_ptr());
  p.label_stride = labels.stride(0);
  p.ignore_index = ignore_index;
  p.weighting = static_cast<Weighting>(weighting);
  p.divergence = static_cast<Divergence>(divergence);
  for (size_t i = 0; i < divergence_params.size(); ++i)
    p.divergence_params[i] = static_cast<float>(divergence_params[i]);
  p.alpha = static_cast<float>(alpha);
  p.label_smoothing = static_cast<float>(label_smoothing);
  p.reduction = static_cast<Reduction>(reduction);

  if (p.weighting == Weighting::Given) {
    STD_TORCH_CHECK(weights.has_value(), "weighting is a tensor, but weights is missing");
    const Tensor& w = *weights;
    const bool per_row = w.dim() == 2 && w.size(0) == rows && w.size(1) == k;
    STD_TORCH_CHECK((per_row || (w.dim() == 1 && w.size(0) == k)) &&
                        w.scalar_type() == ScalarType::Float && w.device() == student.device(),
                    "weights has shape ", shape(w), "; expected float32 of shape (", k, ",) or (",
                    rows, ", ", k, ") on student's device");
    p.weights = static_cast<const float*>(w.const_data_ptr());
    p.weight_row_stride = per_row ? w.stride(0) : 0;
    p.weight_col_stride = w.stride(per_row ? 1 : 0);
  }

  std::vector<Tensor> teacher_grads;
  for (int64_t i = 0; i < k; ++i) {
    p.teachers[i] = teacher_of(teachers[i], student, columns, i, starts[i], temperatures[i]);
    if (teacher_grad) {
      teacher_grads.push_back(new_empty(teachers[i], {rows, teachers[i].size(1)},
                                        stored_grad_dtype(teachers[i])));
      p.teachers[i].grad = teacher_grads.back().mutable_data_ptr();
    }
  }

  const auto grad_dtype = stored_grad_dtype(student);
  const auto loss_dtype =
      student.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  Tensor grad = new_empty(student, {rows, classes}, grad_dtype);
  Tensor loss = p.reduction == Reduction::None ? new_empty(student, {rows}, loss_dtype)
                                               : new_empty(student, {}, loss_dtype);
  p.grad = grad.mutable_data_ptr();
  p.grad_dtype = logit_dtype(grad, "grad");
  p.loss = loss.mutable_data_ptr();

  if (student.is_cpu()) {
    check_labels(p);
    check_columns(p.teachers, p.num_teachers, p.classes);
    cpu::kd_loss(p);
#ifdef EDUFAST_HAS_CUDA
  } else if (student.is_cuda()) {
    torch::stable::accelerator::DeviceGuard guard(student.get_device_index());
    Tensor workspace = new_empty(student, {cuda::kd_loss_workspace(p)}, ScalarType::Byte);
    cuda::kd_loss(p, workspace.mutable_data_ptr(), current_cuda_stream(student.get_device_index()));
#endif
  } else {
    STD_TORCH_CHECK(false, "this build of EduFast has no kernel for student's device");
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
      "int reduction, bool teacher_grad) -> (Tensor loss, Tensor grad, Tensor[] teacher_grads)");
}
STABLE_TORCH_LIBRARY_IMPL(edufast, CPU, m) { m.impl("kd_loss", TORCH_BOX(&edufast::kd_loss)); }
#ifdef EDUFAST_HAS_CUDA
STABLE_TORCH_LIBRARY_IMPL(edufast, CUDA, m) { m.impl("kd_loss", TORCH_BOX(&edufast::kd_loss)); }
#endif
