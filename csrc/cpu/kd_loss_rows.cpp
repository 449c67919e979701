// The row loops of the fused loss, compiled once per instruction set (cmake/cpu_isa.cmake).
#include "cpu/kd_loss_rows.h"

#include "cpu/kd_loss_gradient.h"
#include "cpu/kd_loss_sums.h"

EDUFAST_DECLARE_ROWS(EDUFAST_ISA)

namespace edufast::EDUFAST_ISA {
namespace {

template <class A>
void run(const KDLoss& problem, int64_t begin, int64_t end, double scale, double* row_loss,
         void* scratch) {
  Rows<A> rows(problem, scratch);
  for (int64_t r = begin; r < end; ++r) row_loss[r] = rows(r, A(scale));
}

}  // namespace

int64_t kd_loss_scratch(const KDLoss& problem) {
  return problem.student.dtype == DType::F64 ? Rows<double>(problem, nullptr).bytes()
                                             : Rows<float>(problem, nullptr).bytes();
}

void kd_loss_rows(const KDLoss& problem, int64_t begin, int64_t end, double scale, double* row_loss,
                  void* scratch) {
  (problem.student.dtype == DType::F64 ? run<double> : run<float>)(problem, begin, end, scale,
                                                                   row_loss, scratch);
}

}  // namespace edufast::EDUFAST_ISA
