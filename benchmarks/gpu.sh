#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Everything that needs an NVIDIA GPU, on a machine with one and this repository alone:
#
#   benchmarks/gpu.sh [PART...]        all parts in under nine minutes, or the named ones:
#     build         configure and compile for this GPU, into build/gpu/tree
#     conformance   one kernel a PTX wrapper and intrinsic; their outputs are the emulator's goldens
#     tests         the test-suite on the device
#     bench         the benchmark, with torch as a peer where it is installed
#     table         the short table, from what the other parts have left
#
# Results go to $OUT (default build/gpu): build.log, conformance.log, goldens/, tests.log, bench.log,
# bench.json, bench.png, summary.txt. Each part has its time limit, and a part that fails doesn't
# stop the others; the exit status is that of the worst. PYTHON names the interpreter.
set -uo pipefail
cd "$(dirname "$0")/.."
root=$PWD
OUT=${OUT:-$root/build/gpu}
tree=$root/build/gpu/tree
python=${PYTHON:-python3}
mkdir -p "$OUT" "$tree"
export PYTHONPATH=$tree/python${PYTHONPATH:+:$PYTHONPATH} PYTHONDONTWRITEBYTECODE=1
worst=0

say() { printf '%s\n' "$*" | tee -a "$OUT/summary.txt"; }

# part NAME SECONDS COMMAND...: run with a limit, log to NAME.log, remember how it went.
part() {
  local name=$1 limit=$2 start=$SECONDS status=0
  shift 2
  timeout --signal=INT --kill-after=10 "$limit" "$@" >"$OUT/$name.log" 2>&1 || status=$?
  [ "$status" = 0 ] || worst=1
  case $status in
    0) say "$name: passed, $((SECONDS - start)) s" ;;
    124 | 137) say "$name: stopped at its limit of $limit s" ;;
    *) say "$name: failed with status $status, $((SECONDS - start)) s; the end of its log:"
       tail -n 5 "$OUT/$name.log" | cut -c1-100 | sed 's/^/    /' | tee -a "$OUT/summary.txt" ;;
  esac
  return "$status"
}

require() {
  command -v nvidia-smi >/dev/null || { say "no NVIDIA driver here (nvidia-smi)"; exit 1; }
  command -v nvcc >/dev/null || export PATH=$PATH:/usr/local/cuda/bin
  command -v nvcc >/dev/null || { say "no nvcc on PATH"; exit 1; }
  local missing=()
  for module in numpy ml_dtypes pybind11 pytest hypothesis safetensors tqdm; do
    "$python" -c "import $module" 2>/dev/null || missing+=("$module")
  done
  command -v cmake >/dev/null || missing+=(cmake)
  command -v ninja >/dev/null || missing+=(ninja)
  if [ ${#missing[@]} -gt 0 ]; then
    "$python" -m pip install -q "${missing[@]}" >"$OUT/pip.log" 2>&1 ||
      { say "missing and not to be installed: ${missing[*]}"; exit 1; }
  fi
}

build() {
  local capability
  capability=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -n 1 | tr -d .)
  # Hopper's wgmma and TMA instructions exist for the architecture-specific target only.
  case $capability in 90 | 100) capability=${capability}a ;; esac
  cmake -S "$root" -B "$tree" -G Ninja -DSEQLOOM_CUDA=ON -DCMAKE_BUILD_TYPE=Release \
    -DCMAKE_CUDA_ARCHITECTURES="$capability-real" -DPython_EXECUTABLE="$(command -v "$python")" \
    -Dpybind11_DIR="$("$python" -m pybind11 --cmakedir)" && cmake --build "$tree"
}

conformance() {
  local capability
  capability=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -n 1 | tr -d .)
  case $capability in 90 | 100) capability=${capability}a ;; esac
  (cd "$root" && "$python" -m tests.conformance --arch "sm_$capability" --out "$OUT/goldens")
}

tests() {
  "$python" -m pytest -q -p no:cacheprovider --maxfail=20 --device cuda "$root/tests/ops"
}

bench() {
  "$python" -m seqloom bench --quick --device cuda --json "$OUT/bench.json" --update --seconds 0.5 &&
    "$python" -m seqloom bench sdpa sdpa_causal sdpa_window sdpa_decode lstm gru softmax norm \
      cross_entropy linear_cross_entropy linear adamw --device cuda --dtype bf16,f32 \
      --json "$OUT/bench.json" --update --seconds 0.3 --total 150
}

table() {
  [ -f "$OUT/bench.json" ] || { echo "no bench.json"; return 1; }
  "$python" -m seqloom bench show "$OUT/bench.json"
  "$python" -m seqloom bench plot "$OUT/bench.json" --out "$OUT/bench.png" || true
}

export -f build conformance tests bench table
export root tree python OUT

require
: >"$OUT/summary.txt"
say "$(nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader | head -n 1)"
say "$(nvcc --version | grep release | sed 's/^.*release/CUDA release/')"

wanted=("$@")
[ ${#wanted[@]} -gt 0 ] || wanted=(build conformance tests bench table)
for name in "${wanted[@]}"; do
  case $name in
    build) part build 240 bash -c build || { [ ${#wanted[@]} = 1 ] || break; } ;;
    conformance) part conformance 60 bash -c conformance || true ;;
    tests) part tests 100 bash -c tests || true ;;
    bench) part bench 110 bash -c bench || true ;;
    table) part table 20 bash -c table || true
           cat "$OUT/table.log" ;;
    *) echo "unknown part: $name (build conformance tests bench table)" >&2; exit 2 ;;
  esac
done
cat "$OUT/summary.txt"
exit "$worst"
