// The library of operators, torch.ops.edufast. Each operator's file adds its schema and kernels.
#include "stable_abi.h"

STABLE_TORCH_LIBRARY(edufast, m) { (void)m; }
