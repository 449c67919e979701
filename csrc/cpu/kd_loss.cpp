// The fused loss on the CPU: which instruction set, which thread takes which rows.
#include "../common.h"
#include "kd_loss_rows.h"

#include <cstdlib>
#include <cstring>
#include <new>
#include <vector>

EDUFAST_DECLARE_ROWS(baseline)
#ifdef __x86_64__
EDUFAST_DECLARE_ROWS(x86_64_v3)
EDUFAST_DECLARE_ROWS(x86_64_v4)
#endif

namespace edufast::cpu {
namespace {

struct Implementation {
  const char* isa;
  bool supported;
  decltype(&baseline::kd_loss_scratch) scratch;
  decltype(&baseline::kd_loss_rows) rows;
};

// The best that the processor supports. EDUFAST_CPU_ISA names a lesser one: for tests of all of them.
Implementation choose_implementation() {
  const Implementation all[] = {
#ifdef __x86_64__
      {"x86-64-v4", __builtin_cpu_supports("x86-64-v4") != 0, x86_64_v4::kd_loss_scratch,
       x86_64_v4::kd_loss_rows},
      {"x86-64-v3", __builtin_cpu_supports("x86-64-v3") != 0, x86_64_v3::kd_loss_scratch,
       x86_64_v3::kd_loss_rows},
#endif
      {"baseline", true, baseline::kd_loss_scratch, baseline::kd_loss_rows},
  };
  const char* wanted = std::getenv("EDUFAST_CPU_ISA");
  for (const Implementation& one : all)
    if (one.supported && (!wanted || std::strcmp(wanted, one.isa) == 0)) return one;
  STD_TORCH_CHECK(false, "EDUFAST_CPU_ISA is '", wanted,
                  "'; expected baseline, x86-64-v3 or x86-64-v4, and a processor that has it");
}

// Indices are checked before anything is written. Returns the number of rows not ignored.
int64_t check_indices(const KDLoss& p) {
  int64_t valid = 0;
  for (int64_t row = 0; row < p.rows; ++row) {
    const int64_t y = p.labels[row * p.label_stride];
    if (y == p.ignore_index) continue;
    STD_TORCH_CHECK(y >= 0 && y < p.classes, "labels[", row, "] is ", y, "; expected 0 to ",
                    p.classes - 1, " or ignore_index ", p.ignore_index);
    ++valid;
  }
  for (int64_t k = 0; k < p.num_teachers; ++k) {
    const Teacher& t = p.teachers[k];
    for (int64_t j = 0; t.columns && j < t.classes; ++j)
      STD_TORCH_CHECK(t.columns[j] >= 0 && t.columns[j] < p.classes, "columns[", k, "] names class ",
                      t.columns[j], "; expected 0 to ", p.classes - 1);
  }
  return valid;
}

// Rows per thread: below some ten microseconds of work, waking a thread does not pay.
int64_t grain(const KDLoss& p) {
  int64_t logits = p.classes;
  for (int64_t k = 0; k < p.num_teachers; ++k) logits += p.teachers[k].classes;
  return 1 + 32768 / logits;
}

}  // namespace

void kd_loss(const KDLoss& p) {
  static const Implementation implementation = choose_implementation();
  const int64_t valid = check_indices(p);
  const double scale =
      p.reduction == Reduction::Mean ? 1.0 / static_cast<double>(valid > 0 ? valid : 1) : 1.0;
  std::vector<double> row_loss(p.rows);
  const int64_t bytes = implementation.scratch(p);
  torch::stable::parallel_for(0, p.rows, grain(p), [&](int64_t begin, int64_t end) {
    constexpr std::align_val_t kCacheLine{64};
    void* scratch = ::operator new(bytes, kCacheLine);
    implementation.rows(p, begin, end, scale, row_loss.data(), scratch);
    ::operator delete(scratch, kCacheLine);
  });

  const auto write = [&](int64_t i, double value) {
    if (p.student.dtype == DType::F64) static_cast<double*>(p.loss)[i] = value;
    else static_cast<float*>(p.loss)[i] = static_cast<float>(value);
  };
  if (p.reduction == Reduction::None) {
    for (int64_t row = 0; row < p.rows; ++row) write(row, row_loss[row]);
    return;
  }
  // Summed in the order of the rows: the same bits for any number of threads.
  double total = 0;
  for (const double loss : row_loss) total += loss;
  write(0, total * scale);
}

}  // namespace edufast::cpu
