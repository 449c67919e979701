// Sizes that the host's plan and the kernels agree on.
#pragma once

#include "dtype.h"

namespace edufast::cuda {

constexpr int kWarpSize = 32;
constexpr int kVector = 8;  // classes handled at a time: 16 bytes of a half type

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
