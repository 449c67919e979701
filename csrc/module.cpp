// What this build is. Operators are not reached through here: they register with the dispatcher
// when edufast.ops loads libedufast.so, which lies beside this module.
#include <pybind11/pybind11.h>

PYBIND11_MODULE(_native, m) {
  m.doc() = "Build information of EduFast's compiled operators";
  m.attr("version") = EDUFAST_VERSION;
  m.attr("torch") = EDUFAST_TORCH;
  m.attr("torch_target") = EDUFAST_TORCH_TARGET;
  m.attr("cuda") = EDUFAST_CUDA;
  m.attr("cxx") = EDUFAST_CXX;
  m.attr("cpu_isas") = EDUFAST_CPU_ISAS;
  m.attr("sanitize") = EDUFAST_SANITIZE;
}
