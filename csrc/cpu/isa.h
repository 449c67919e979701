// The loops are compiled once per instruction set (cmake/cpu_isa.cmake), each time into a namespace
// of that name. These macros declare them all, and pick the one that runs.
#pragma once

#ifdef __x86_64__
#define EDUFAST_FOR_EACH_ISA(declare) declare(baseline) declare(x86_64_v3) declare(x86_64_v4)
#define EDUFAST_LOOPS(name)                                 \
  (cpu::isa() == cpu::Isa::V4   ? &edufast::x86_64_v4::name \
   : cpu::isa() == cpu::Isa::V3 ? &edufast::x86_64_v3::name \
                                : &edufast::baseline::name)
#else
#define EDUFAST_FOR_EACH_ISA(declare) declare(baseline)
#define EDUFAST_LOOPS(name) &edufast::baseline::name
#endif

namespace edufast::cpu {

enum class Isa { Baseline, V3, V4 };

// The best that the processor supports. The environment variable EDUFAST_CPU_ISA names a lesser
// one: for tests of all of them.
Isa isa();

}  // namespace edufast::cpu
