#!/usr/bin/env bash
# Everything that needs a CUDA machine, in one script: build, tests, compute-sanitizer, benchmarks, a
# short table last. Needs no network: torch, triton, pybind11, scikit-build-core, cmake, ninja, nvcc
# and pytest are expected to be there. Results go to benchmarks/<device>/ (or $OUT).
set -uo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
"$python" -c 'import torch, sys; sys.exit(not torch.cuda.is_available())' || {
  echo "gpu-check: torch finds no CUDA device here"; exit 1; }
device=$("$python" -c 'import torch; print(torch.cuda.get_device_name().lower().replace(" ", "-"))')
out=${OUT:-benchmarks/$device}
mkdir -p "$out"
summary=()
failed=0

step() {  # name, seconds allowed, command ...
  local name=$1 limit=$2 started=$SECONDS status
  shift 2
  timeout "$limit" "$@" > "$out/$name.log" 2>&1
  status=$?
  [ $status -eq 0 ] || { failed=1; tail -n 30 "$out/$name.log"; }
  summary+=("$(printf '%-14s exit %-3s %4ss  %s' "$name" $status $((SECONDS - started)) \
    "$(tail -n 1 "$out/$name.log" | cut -c1-80)")")
}

step build 180 env CMAKE_ARGS="-DEDUFAST_CUDA=ON -DCMAKE_CUDA_ARCHITECTURES=native" \
  "$python" -m pip install --no-deps --no-build-isolation --no-index --editable .
step tests 200 "$python" -m pytest tests/ops tests/models/test_heads.py tests/student tests/teachers/test_faculty.py -x
step sanitizer 60 compute-sanitizer --error-exitcode 9 "$python" -m pytest -x \
  tests/ops/test_kd_loss_cuda.py -k "gpu_very_many_rows or gpu_bad_labels"
step bench-kd 80 "$python" -c "import pathlib, edufast.bench.kd_loss as b
b.main(True, pathlib.Path('$out'), 'cuda', None)"
step bench-merge 60 "$python" -c "import pathlib, edufast.bench.merge as b
b.main(True, pathlib.Path('$out'), 'cuda', None)"

printf '\n%s\n' "gpu-check on $device" "${summary[@]}"
exit $failed
