#include "kd_loss.h"
#include "common.h"
namespace edufast::cpu {
void kd_loss(const KDLoss&) { STD_TORCH_CHECK(false, "soon"); }
}
