#!/usr/bin/env bash
# The CPU kernels under AddressSanitizer and UndefinedBehaviorSanitizer, driven by the operator tests
# (test_contract.py above all, which calls the operators with wrong numbers).
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
build=build/sanitize
PATH="$(dirname "$python"):$PATH"  # for ninja
"$python" -m cmake -S . -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=RelWithDebInfo \
  -DSKBUILD_PROJECT_NAME=edufast -DSKBUILD_PROJECT_VERSION=0 -DPython_EXECUTABLE="$(realpath -s "$python")" \
  -DEDUFAST_CUDA=OFF -DEDUFAST_SANITIZE=address,undefined
"$python" -m cmake --build "$build"
# torch itself leaks by design and is not built with sanitizers: look at our code only.
EDUFAST_LIBRARY="$PWD/$build/libedufast.so" OMP_NUM_THREADS=2 \
  LD_PRELOAD="$(g++ -print-file-name=libasan.so) $(g++ -print-file-name=libubsan.so)" \
  ASAN_OPTIONS=detect_leaks=0:handle_segv=0 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 \
  "$python" -m pytest tests/ops -p no:cacheprovider -k "not compile and not triton and not cuda and not offline and not build" "$@"
