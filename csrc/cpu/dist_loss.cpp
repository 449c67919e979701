// DIST on the CPU: which instruction set, which thread takes which rows and columns.
#include "../common.h"
#include "dist_loss_rows.h"

#include <memory>
#include <new>
#include <vector>

EDUFAST_DECLARE_DIST(baseline)
#ifdef __x86_64__
EDUFAST_DECLARE_DIST(x86_64_v3)
EDUFAST_DECLARE_DIST(x86_64_v4)
#endif

namespace edufast::cpu {
namespace {

struct Implementation {
  decltype(&baseline::dist_scratch) scratch;
  decltype(&baseline::dist_sums) sums;
  decltype(&baseline::dist_columns) columns;
  decltype(&baseline::dist_gradient) gradient;
};

Implementation best_implementation() {
#ifdef __x86_64__
  if (__builtin_cpu_supports("x86-64-v4"))
    return {x86_64_v4::dist_scratch, x86_64_v4::dist_sums, x86_64_v4::dist_columns,
            x86_64_v4::dist_gradient};
  if (__builtin_cpu_supports("x86-64-v3"))
    return {x86_64_v3::dist_scratch, x86_64_v3::dist_sums, x86_64_v3::dist_columns,
            x86_64_v3::dist_gradient};
#endif
  return {baseline::dist_scratch, baseline::dist_sums, baseline::dist_columns,
          baseline::dist_gradient};
}

// Below some ten microseconds of work, waking a thread does not pay.
constexpr int64_t kLogitsPerThread = 16384;

struct Scratch {
  static constexpr std::align_val_t kCacheLine{64};
  explicit Scratch(int64_t bytes) : data(::operator new(bytes, kCacheLine)) {}
  ~Scratch() { ::operator delete(data, kCacheLine); }
  Scratch(const Scratch&) = delete;
  void* data;
};

}  // namespace

void dist_loss(const DistLoss& p) {
  static const Implementation implementation = best_implementation();
  const int64_t classes = p.classes, blocks = (p.rows + kDistRows - 1) / kDistRows;
  const int64_t element = p.student.dtype == DType::F64 ? sizeof(double) : sizeof(float);
  double row_total = 0, column_total = 0;
  if (p.rows > 0) {
    std::vector<DistRow> rows(p.rows);
    std::vector<double> correlations(classes);
    const Scratch partials(blocks * 5 * classes * element), columns(4 * classes * element);
    const DistMemory memory{rows.data(), partials.data, columns.data, correlations.data()};
    const int64_t bytes = implementation.scratch(p);
    const int64_t grain = 1 + kLogitsPerThread / classes;

    torch::stable::parallel_for(0, blocks, 1 + grain / kDistRows, [&](int64_t begin, int64_t end) {
      implementation.sums(p, begin, end, memory, Scratch(bytes).data);
    });
    const int64_t column_grain = 1 + kLogitsPerThread / blocks;
    torch::stable::parallel_for(0, classes, column_grain, [&](int64_t begin, int64_t end) {
      implementation.columns(p, begin, end, memory);
    });
    torch::stable::parallel_for(0, p.rows, grain, [&](int64_t begin, int64_t end) {
      implementation.gradient(p, begin, end, memory, Scratch(bytes).data);
    });

    for (const DistRow& row : rows) row_total += 1 - row.correlation;
    for (const double correlation : correlations) column_total += 1 - correlation;
    row_total /= static_cast<double>(p.rows);
    column_total /= static_cast<double>(classes);
  }
  const double loss = p.temperature * p.temperature * (p.beta * row_total + p.gamma * column_total);
  if (p.student.dtype == DType::F64) *static_cast<double*>(p.loss) = loss;
  else *static_cast<float*>(p.loss) = static_cast<float>(loss);
}

}  // namespace edufast::cpu
