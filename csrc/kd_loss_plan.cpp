// How kd_loss on CUDA lays out a call, for edufast bench kd --model, which needs no GPU and calls
// this by ctypes.
#include "cuda/kd_loss_plan.h"

// Mirrored by edufast/bench/kd_loss_model.py.
struct EdufastPlan {
  int32_t staged, lanes, warp_per_row, vectors, threads, blocks, cluster, held, shared_bytes,
      launches;
};

// Of full slices in contiguous rows, all of one type: bfloat16 if `half`, else float32. With label
// smoothing, so that rows are not plain.
extern "C" __attribute__((visibility("default"))) EdufastPlan edufast_kd_loss_plan(
    int64_t rows, int32_t classes, int32_t teachers, bool half, int32_t processors,
    int32_t shared_per_processor, int32_t shared_per_block) {
  const edufast::DType dtype = half ? edufast::DType::BF16 : edufast::DType::F32;
  edufast::KDLoss p;
  p.student = {nullptr, classes, 1, dtype};
  p.rows = rows;
  p.classes = classes;
  p.label_smoothing = 0.1f;
  p.num_teachers = teachers;
  p.grad_dtype = dtype;
  for (int k = 0; k < teachers; ++k) p.teachers[k] = {p.student, classes};
  const auto plan = edufast::cuda::make_plan(p, {processors, shared_per_processor, shared_per_block,
                                                 /*largest_cluster=*/16});
  return {plan.staged,       plan.lanes,
          plan.warp_per_row, plan.vectors,
          plan.threads,      plan.blocks,
          plan.cluster,      plan.launch.held,
          plan.shared_bytes, 1 + (plan.prepare_blocks > 0)};
}
