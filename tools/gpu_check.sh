#!/usr/bin/env bash
# Everything that needs a CUDA machine, in parts of less than nine minutes each:
#
#   tools/gpu_check.sh [--dry] [build] [tests] [triton] [kernels] [steps] [sanitizer] [profile]
#
# Without names: all parts that have not succeeded yet. Results go to benchmarks/<device>/ (or $OUT):
# logs, and a line for every measurement, which the next run does not repeat. Ends with a table of
# ratios to the copy that was measured alongside. Needs no network: torch, triton, numpy, rich, pytest,
# hypothesis, scikit-build-core, cmake, ninja and nvcc are expected to be there; what is
# not (pytest-xdist, timm, compute-sanitizer, ncu) is done without.
# --dry: the same code on tiny problems on the CPU, where the package is installed already.
set -uo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
dry=
[ "${1:-}" = --dry ] && { dry=--dry; shift; }
if [ -n "$dry" ]; then
  device=dry
else
  "$python" -c 'import torch, sys; sys.exit(not torch.cuda.is_available())' || {
    echo "gpu-check: torch finds no CUDA device here"; exit 1; }
  device=$("$python" -c 'import torch; print(torch.cuda.get_device_name().lower().replace(" ", "-"))')
fi
out=${OUT:-benchmarks/$device}
mkdir -p "$out"
failed=0

has() { "$python" -c "import importlib.util, sys; sys.exit(not importlib.util.find_spec('$1'))"; }

# Runs a part, and writes down how it ended and how long it took.
part() {  # name, command ...
  local name=$1 started=$SECONDS status
  shift
  echo "--- $name"
  "$@"
  status=$?
  if [ $status -eq 0 ]; then status=ok; else failed=1; status="FAILED ($status)"; fi
  echo "$name: $status, $((SECONDS - started)) s" | tee -a "$out/parts.txt"
}

versions() {
  "$python" -c 'import platform, torch, triton
print("python", platform.python_version(), "torch", torch.__version__, "triton", triton.__version__)
if torch.cuda.is_available(): print(torch.cuda.get_device_properties(0))'
}

# Skipped where the same sources were built before: copies of a working tree have new dates.
build() {
  versions
  [ -n "$dry" ] && return
  local stamp=build/gpu-check.sha256 now
  now=$(find csrc cmake CMakeLists.txt pyproject.toml -type f | sort | xargs sha256sum | sha256sum
        find edufast kernels -name '*.py' | sort | sha256sum; versions)
  if [ -f $stamp ] && [ "$now" = "$(cat $stamp)" ] && "$python" -c 'import edufast.ops'; then
    echo "the same sources were built before"
    return
  fi
  CMAKE_ARGS="-DEDUFAST_CUDA=ON -DCMAKE_CUDA_ARCHITECTURES=native" timeout 420 "$python" -m pip \
    install --no-deps --no-build-isolation --no-index --editable . > "$out/build.log" 2>&1 ||
    { tail -n 30 "$out/build.log"; return 1; }
  mkdir -p build
  echo "$now" > $stamp
}

# Values on the GPU of every operator and backend, all of them, whatever fails.
value_tests() {  # log, seconds, files ...
  local log=$out/$1 limit=$2 options=(-q --tb=short -rfE -p no:cacheprovider --disable-warnings)
  shift 2
  has xdist && options+=(-n "$(nproc)")
  [ -n "$dry" ] && options+=(--collect-only)
  timeout "$limit" "$python" -m pytest "${options[@]}" -k "gpu or (triton and not compile)" \
    "$@" > "$log" 2>&1
  local status=$?
  grep -E '^(FAILED|ERROR)' "$log" | cut -c1-160
  tail -n 1 "$log"
  return $status
}

tests() {
  value_tests tests.log 240 tests/ops/test_kd_loss_cuda.py tests/ops/test_dist_loss_cuda.py \
    tests/ops/test_min_norm_cuda.py tests/ops/test_merge_cuda.py tests/ops/test_augment_cuda.py \
    tests/ops/test_autograd.py tests/training/test_waiting.py \
    tests/training/test_replayed_steps.py tests/utils/test_cuda_graph.py \
    tests/data/test_resident.py tests/bench/test_replays.py tests/models/test_conv_fusing.py
}

triton() {
  value_tests triton.log 400 tests/ops/test_kd_loss_triton.py tests/ops/test_dist_loss_triton.py \
    tests/ops/test_min_norm_triton.py tests/ops/test_merge_triton.py tests/ops/test_augment_triton.py
}

# What initcheck says of kd_loss is no fault: its ticket is read uninitialised by design
# (csrc/cuda/kd_loss_reduce.cuh).
sanitizer() {
  local tool log=$out/sanitizer.log status=0
  : > "$log"
  for tool in memcheck racecheck synccheck initcheck; do
    local command=(compute-sanitizer --tool $tool --error-exitcode 9) lines
    command -v compute-sanitizer > /dev/null || [ -n "$dry" ] || { echo "$tool: not here"; continue; }
    [ -n "$dry" ] && command=()
    lines=$(wc -l < "$log")
    PYTORCH_NO_CUDA_MEMORY_CACHING=1 timeout 100 "${command[@]}" "$python" \
      tools/gpu_small.py $dry 3x23x2 5x100x3 3x1000x4 2x4100x2 2x32768x2 >> "$log" 2>&1
    case $?,$tool in
      0,*) echo "$tool: ok" ;;
      9,initcheck)
        tail -n +$((lines + 1)) "$log" | only_tickets && { echo "$tool: ok but for tickets"; continue; } ;&
      *) status=1; echo "$tool: FAILED"; tail -n 5 "$log" ;;
    esac
  done
  return $status
}

only_tickets() { ! grep -A 1 'Uninitialized __global__' | grep ' at ' | grep -qv kd_loss_; }

kernels() { timeout 530 "$python" -m edufast.bench.bandwidth "$out" $dry; }

steps() { timeout 530 "$python" -m edufast.bench.resident_steps "$out" $dry; }

profile() {
  local command=(ncu --csv --target-processes all --clock-control none --log-file "$out/profile.csv"
    --kernel-name 'regex:kd_loss|dist_|gram_|min_norm|merge|_tile_|_loop_' --metrics
    "gpu__time_duration.sum,dram__throughput.avg.pct_of_peak_sustained_elapsed,\
smsp__inst_executed.sum,sm__warps_active.avg.pct_of_peak_sustained_active,\
launch__registers_per_thread,launch__occupancy_limit_registers")
  command -v ncu > /dev/null || [ -n "$dry" ] || { echo "ncu: not here"; return; }
  [ -n "$dry" ] && command=()
  timeout 240 "${command[@]}" "$python" tools/gpu_small.py $dry \
    1024x100x3 8192x1000x4 512x32768x4 128x131072x1
}

for name in "${@:-all}"; do
  case $name in
    all)
      for each in build tests triton kernels steps sanitizer profile; do
        grep -qs "^$each: ok" "$out/parts.txt" || part $each $each
      done ;;
    build | tests | triton | kernels | steps | sanitizer | profile) part "$name" "$name" ;;
    *) echo "gpu-check: no part is called '$name'"; exit 2 ;;
  esac
done

printf '\n%s\n' "gpu-check on $device, ratios to the copy measured alongside"
"$python" -c 'import sys; from pathlib import Path; from edufast.bench import bandwidth, resident_steps
from edufast.bench.lines import Lines
for bench in (resident_steps, bandwidth): print(bench.table(Lines(Path(sys.argv[1]) / bench.FILE)))' "$out"
tail -n 12 "$out/parts.txt"
exit $failed
