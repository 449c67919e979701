// DIST on the CPU: which thread takes which rows and columns.
#include "cpu/dist_loss_rows.h"
#include "cpu/isa.h"
#include "cpu/scratch.h"
#include "parallel.h"

#include <vector>

EDUFAST_FOR_EACH_ISA(EDUFAST_DECLARE_DIST)

namespace edufast::cpu {
namespace {

// Below some ten microseconds of work, waking a thread does not pay.
constexpr int64_t kLogitsPerThread = 16384;

}  // namespace

void dist_loss(const DistLoss& p) {
  const int64_t classes = p.classes, strips = dist_strips(classes);
  const int64_t blocks = (p.rows + kDistRows - 1) / kDistRows;
  const int64_t element = p.student.dtype == DType::F64 ? sizeof(double) : sizeof(float);
  double row_total = 0, column_total = 0;
  if (p.rows > 0) {
    std::vector<DistRow> rows(p.rows);
    std::vector<Moments> moments(p.rows * strips);
    std::vector<double> correlations(classes);
    const Scratch partials(blocks * 5 * classes * element), columns(4 * classes * element);
    const DistMemory memory{rows.data(), moments.data(), partials.get(), columns.get(),
                            correlations.data()};
    const int64_t bytes = EDUFAST_LOOPS(dist_scratch)(p);
    const int64_t grain = 1 + kLogitsPerThread / classes;

    if (strips > 1) {
      parallel_for(0, p.rows, grain, [&](int64_t begin, int64_t end) {
        EDUFAST_LOOPS(dist_softmaxes)(p, begin, end, memory, Scratch(bytes).get());
      });
    }
    parallel_for(0, blocks * strips, 1 + grain / kDistRows, [&](int64_t begin, int64_t end) {
      EDUFAST_LOOPS(dist_sums)(p, begin, end, memory, Scratch(bytes).get());
    });
    const int64_t column_grain = 1 + kLogitsPerThread / blocks;
    parallel_for(0, classes, column_grain, [&](int64_t begin, int64_t end) {
      EDUFAST_LOOPS(dist_columns)(p, begin, end, memory);
    });
    parallel_for(0, p.rows, grain, [&](int64_t begin, int64_t end) {
      EDUFAST_LOOPS(dist_gradient)(p, begin, end, memory, Scratch(bytes).get());
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
