// Sizes that the host's plan and the kernels agree on.
#pragma once

#include "logits.h"

namespace edufast::cuda {

constexpr int kWarpSize = 32;
constexpr int kVector = 8;  // classes handled at a time: 16 bytes of a half type

// Whether 16-byte accesses reach the classes c, c + 1, ... c + 7 of every row for c a multiple of
// 8, and each such eight is inside or outside the slice [first, last).
inline bool allows_vectors(const Logits& x, int64_t first, int64_t last) {
  const int64_t size = bytes_of(x.dtype);
  return x.dtype != DType::F64 && x.col_stride == 1 && first % kVector == 0 &&
         last % kVector == 0 && reinterpret_cast<int64_t>(x.data) % 16 == 0 &&
         x.row_stride * size % 16 == 0;
}

// Of the structs in shared memory, for reals of 4 or 8 bytes; asserted where they are defined.
EDUFAST_HOST_DEVICE constexpr int sums_bytes(int real) { return 8 * real; }
EDUFAST_HOST_DEVICE constexpr int teacher_row_bytes(int real) { return 17 * real; }
EDUFAST_HOST_DEVICE constexpr int header_bytes(int real) { return 8 * real; }

// Of the tables of a group of threads: K teachers, and so many warps that have sums of their own.
EDUFAST_HOST_DEVICE constexpr int table_bytes(int real, int teachers, bool one_warp, int warps) {
  const int sums = one_warp ? teachers + 1 : (teachers + 1) * (warps + 3);
  const int size = sums * sums_bytes(real) + teachers * teacher_row_bytes(real) +
                   header_bytes(real);
  return (size + 15) / 16 * 16;
}

}  // namespace edufast::cuda
