#include "cpu/isa.h"

#include <cstdlib>
#include <stdexcept>
#include <string>

namespace edufast::cpu {
namespace {

Isa choose() {
  const struct {
    const char* name;
    Isa isa;
    bool supported;
  } all[] = {
#ifdef __x86_64__
      {"x86-64-v4", Isa::V4, __builtin_cpu_supports("x86-64-v4") != 0},
      {"x86-64-v3", Isa::V3, __builtin_cpu_supports("x86-64-v3") != 0},
#endif
      {"baseline", Isa::Baseline, true},
  };
  const char* wanted = std::getenv("EDUFAST_CPU_ISA");
  for (const auto& one : all)
    if (one.supported && (!wanted || std::string(wanted) == one.name)) return one.isa;
  throw std::runtime_error(
      "EDUFAST_CPU_ISA is '" + std::string(wanted) +
      "'; expected baseline, x86-64-v3 or x86-64-v4, and a processor that has it");
}

}  // namespace

Isa isa() {
  static const Isa chosen = choose();
  return chosen;
}

}  // namespace edufast::cpu
