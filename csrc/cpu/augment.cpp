// augment on the CPU: which thread takes which images.
#include "cpu/augment_rows.h"
#include "cpu/isa.h"
#include "cpu/scratch.h"
#include "parallel.h"

EDUFAST_FOR_EACH_ISA(EDUFAST_DECLARE_AUGMENT_IMAGES)

namespace edufast::cpu {
namespace {

// Below some ten microseconds of work, waking a thread does not pay.
constexpr int64_t kBytesPerThread = 32768;

}  // namespace

void augment(const Augment& p) {
  const auto augment_images = EDUFAST_LOOPS(augment_images);
  const int64_t bytes = EDUFAST_LOOPS(augment_scratch)(p);
  parallel_for(0, p.batch, 1 + kBytesPerThread / p.image_bytes(), [&](int64_t begin, int64_t end) {
    const Scratch scratch(bytes);
    augment_images(p, begin, end, scratch.get());
  });
}

}  // namespace edufast::cpu
