// What this build is, and what it plans. Operators are not reached through here: they register with
// the dispatcher when edufast.ops loads libedufast.so, which lies beside this module.
#include "cuda/kd_loss_plan.h"

#include <pybind11/pybind11.h>

namespace {

// How kd_loss on CUDA would lay out full slices in contiguous rows; for edufast bench kd --model.
pybind11::dict kd_loss_plan(int64_t rows, int32_t classes, int32_t teachers, bool half,
                            int processors, int shared_per_processor, int shared_per_block) {
  const edufast::DType dtype = half ? edufast::DType::BF16 : edufast::DType::F32;
  edufast::KDLoss p;
  p.student = {nullptr, classes, 1, dtype};
  p.rows = rows;
  p.classes = classes;
  p.num_teachers = teachers;
  p.grad_dtype = dtype;
  for (int k = 0; k < teachers; ++k) p.teachers[k] = {p.student, classes};
  const auto plan = edufast::cuda::make_plan(p, {processors, shared_per_processor, shared_per_block,
                                                 /*largest_cluster=*/16});
  pybind11::dict d;
  d["staged"] = plan.staged;
  d["lanes"] = plan.lanes;
  d["warp_per_row"] = plan.warp_per_row;
  d["vectors"] = plan.vectors;
  d["threads"] = plan.threads;
  d["blocks"] = plan.blocks;
  d["cluster"] = plan.cluster;
  d["held"] = plan.launch.held;
  d["shared_bytes"] = plan.shared_bytes;
  d["launches"] = 1 + (plan.prepare_blocks > 0);
  return d;
}

}  // namespace

PYBIND11_MODULE(_native, m) {
  m.doc() = "Build information of EduFast's compiled operators";
  m.attr("version") = EDUFAST_VERSION;
  m.attr("torch") = EDUFAST_TORCH;
  m.attr("torch_target") = EDUFAST_TORCH_TARGET;
  m.attr("cuda") = EDUFAST_CUDA;
  m.attr("cxx") = EDUFAST_CXX;
  m.attr("cpu_isas") = EDUFAST_CPU_ISAS;
  m.attr("sanitize") = EDUFAST_SANITIZE;
  m.def("kd_loss_plan", &kd_loss_plan);
}
