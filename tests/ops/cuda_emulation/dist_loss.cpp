// csrc/cuda/dist_loss.cu with the launches emulated, in place of the CPU's kernel behind the
// operator's own checks: edufast_emulated::dist_loss (load_operator of driver.py).
#include "cuda_emulation.h"

#include "cuda/dist_loss.cuh"

// Two multiprocessors: blocks then take several rows.
void edufast::cpu::dist_loss(const DistLoss& problem) {
  DistLoss p = problem;
  const double numbers[] = {p.temperature, emulation_numbers == 2 ? -1 : p.beta, p.gamma};
  if (emulation_numbers > 0) {
    p.numbers = numbers;
    p.temperature = p.beta = p.gamma = NAN;
  }
  const cuda::DistPlan plan = cuda::make_dist_plan(p, /*processors=*/2);
  const auto workspace = emulation::workspace(cuda::dist_memory_bytes(p, plan));
  if (p.rows == 0) {
    std::memset(p.loss, 0, bytes_of(cuda::dist_loss_dtype(p)));
    return;
  }
  cuda::launch_dist(p, plan, reinterpret_cast<char*>(workspace.get()),
                    [&](auto kernel, cuda::DistLaunch launch, auto... arguments) {
                      emulation::run(launch.blocks, launch.threads, 1, launch.shared,
                                     emulation_order, [&] { kernel(arguments...); });
                    });
}
