// The fused loss on the CPU: which thread takes which rows.
#include "cpu/isa.h"
#include "cpu/kd_loss_rows.h"
#include "cpu/scratch.h"
#include "parallel.h"

#include <vector>

EDUFAST_FOR_EACH_ISA(EDUFAST_DECLARE_ROWS)

namespace edufast::cpu {
namespace {

int64_t count_rows(const KDLoss& p) {  // that are not ignored
  int64_t count = 0;
  for (int64_t row = 0; row < p.rows; ++row)
    count += p.labels[row * p.label_stride] != p.ignore_index;
  return count;
}

// Rows per thread: below some ten microseconds of work, waking a thread does not pay. What a row
// costs besides its logits, for each softmax, is that of some 32 of them.
int64_t grain(const KDLoss& p) {
  int64_t logits = 32 + p.classes;
  for (int64_t k = 0; k < p.num_teachers; ++k) logits += 32 + p.teachers[k].classes;
  return 1 + 32768 / logits;
}

}  // namespace

void kd_loss(const KDLoss& p) {
  const int64_t counted = p.reduction == Reduction::Mean ? count_rows(p) : 1;
  const double scale = 1.0 / static_cast<double>(counted > 0 ? counted : 1);
  std::vector<double> row_loss(p.rows);
  const int64_t bytes = EDUFAST_LOOPS(kd_loss_scratch)(p);
  parallel_for(0, p.rows, grain(p), [&](int64_t begin, int64_t end) {
    EDUFAST_LOOPS(kd_loss_rows)(p, begin, end, scale, row_loss.data(), Scratch(bytes).get());
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
