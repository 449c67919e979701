# Find the installed torch without importing it and without find_package(Torch), which takes
# seconds and fails or picks wrong architectures where there is no GPU.
execute_process(
  COMMAND ${Python_EXECUTABLE} -c
    "import importlib.util as u; s = u.find_spec('torch'); print(s.submodule_search_locations[0] if s else '')"
  OUTPUT_VARIABLE EDUFAST_TORCH_DIR OUTPUT_STRIP_TRAILING_WHITESPACE)
if(NOT EXISTS "${EDUFAST_TORCH_DIR}/version.py")
  message(FATAL_ERROR "EduFast needs torch >= 2.11 to build: install it into ${Python_EXECUTABLE} "
                      "first, or build without --no-build-isolation.")
endif()
file(STRINGS "${EDUFAST_TORCH_DIR}/version.py" _torch_version_line REGEX "^__version__")
string(REGEX MATCH "[0-9]+\\.[0-9]+\\.[0-9]+[^']*" EDUFAST_TORCH_VERSION "${_torch_version_line}")
if(EDUFAST_TORCH_VERSION VERSION_LESS 2.11)
  message(FATAL_ERROR "EduFast needs torch >= 2.11, found ${EDUFAST_TORCH_VERSION}.")
endif()

# From 2.13 on the stable ABI reaches the current stream itself, so one library loads on CPU-only
# and CUDA torch alike. Older torch: the same sources, and a CUDA build needs CUDA torch to load.
if(EDUFAST_TORCH_VERSION VERSION_LESS 2.13)
  set(EDUFAST_TORCH_TARGET 2.11)
  set(_torch_target 0x020b000000000000)
else()
  set(EDUFAST_TORCH_TARGET 2.13)
  set(_torch_target 0x020d000000000000)
endif()

add_library(edufast_torch INTERFACE)
target_include_directories(edufast_torch SYSTEM INTERFACE "${EDUFAST_TORCH_DIR}/include")
target_compile_definitions(edufast_torch INTERFACE TORCH_TARGET_VERSION=${_torch_target})
target_link_libraries(edufast_torch INTERFACE "${EDUFAST_TORCH_DIR}/lib/libtorch_cpu.so")
if(EDUFAST_TORCH_TARGET VERSION_LESS 2.13 AND EXISTS "${EDUFAST_TORCH_DIR}/lib/libtorch_cuda.so")
  target_link_libraries(edufast_torch INTERFACE "${EDUFAST_TORCH_DIR}/lib/libtorch_cuda.so")
endif()
message(STATUS "EduFast: torch ${EDUFAST_TORCH_VERSION}, stable ABI target ${EDUFAST_TORCH_TARGET}")
