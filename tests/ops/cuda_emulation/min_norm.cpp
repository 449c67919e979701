// csrc/cuda/min_norm.cu with the launches emulated, in place of the CPU's kernels behind the
// operators' own checks: edufast_emulated::gradient_gram and min_norm_weights (load_operator of driver.py).
#include "cuda_emulation.h"

#include "cuda/min_norm.cuh"
#include "cuda/min_norm_weights.cuh"

// Two multiprocessors: warps then take several rows.
void edufast::cpu::gradient_gram(const GradientGram& problem) {
  GradientGram p = problem;
  double numbers[kMaxTeachers];
  for (int k = 0; k < p.num_teachers; ++k) {
    numbers[k] = p.teachers[k].temperature;
    if (emulation_numbers > 0) p.teachers[k].temperature = NAN;
  }
  if (emulation_numbers == 2) numbers[0] = 0;
  if (emulation_numbers > 0) p.numbers = numbers;
  const cuda::GramPlan plan = cuda::make_gram_plan(p, /*processors=*/2);
  const auto workspace = emulation::workspace(cuda::gram_memory_bytes(p, plan));
  if (p.rows == 0) {
    std::fill_n(p.gram, p.num_teachers * p.num_teachers, 0.0);
    return;
  }
  cuda::launch_gram(p, plan, reinterpret_cast<char*>(workspace.get()),
                    [&](auto kernel, cuda::GramLaunch launch, auto... arguments) {
                      emulation::run(launch.blocks, cuda::kGramThreads, 1, launch.shared,
                                     emulation_order, [&] { kernel(arguments...); });
                    });
}

void edufast::cpu::min_norm_weights(const double* gram, int64_t num_teachers, double cap,
                                    float* weights) {
  const int k = static_cast<int>(num_teachers);
  const double number = emulation_numbers == 2 ? 2 : cap;
  cuda::launch_min_norm(k, [&](auto kernel) {
    emulation::run(1, cuda::kWarpSize, 1, 0, emulation_order,
                   [&] { kernel(gram, k, cap, emulation_numbers > 0 ? &number : nullptr, weights); });
  });
}
