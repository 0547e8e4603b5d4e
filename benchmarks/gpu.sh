#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Everything that needs an NVIDIA GPU, on a machine with one and this repository alone:
#
#   benchmarks/gpu.sh [PART...]        the first five parts in under nine minutes, or the named ones:
#     build         configure and compile for this GPU, into build/gpu/tree
#     conformance   one kernel a PTX wrapper and intrinsic; their outputs are the emulator's goldens
#     tests         the test-suite on the device
#     bench         the rows of `seqloom bench --quick --device cuda`, beside torch where it is installed
#     table         the short table, from what the other parts have left
#     more          (only when named) all other rows of the benchmark, as many as nine minutes hold;
#                   run it again for the rest
#
# Results go to $OUT (default build/gpu): NAME.log of each part, goldens/, bench.json, bench.png,
# summary.txt. A part that reaches its time limit keeps what it has; a part that fails doesn't stop
# the others (without a build there are none); the exit status is that of the worst. PYTHON names
# the interpreter.
set -uo pipefail
[ -z "${OUT:-}" ] || { mkdir -p "$OUT" && OUT=$(cd "$OUT" && pwd) || exit 1; }
cd "$(dirname "$0")/.." || exit 1
root=$PWD
OUT=${OUT:-$root/build/gpu}
tree=$root/build/gpu/tree
python=${PYTHON:-python3}
mkdir -p "$OUT" "$tree"
export PYTHONPATH=$tree/python${PYTHONPATH:+:$PYTHONPATH} PYTHONDONTWRITEBYTECODE=1
worst=0
# A shell in the background has INT switched off for its children; newer coreutils switch it on.
listening="env --default-signal=INT"
$listening true 2>/dev/null || listening=

say() { printf '%s\n' "$*" | tee -a "$OUT/summary.txt"; }

# part NAME SECONDS: run the function with a limit, log to NAME.log, remember how it went.
part() {
  local name=$1 limit=$2 start=$SECONDS status=0
  echo "$name: at most $limit s, log in $OUT/$name.log" >&2
  timeout --signal=INT --kill-after=10 "$limit" $listening bash -c "$name" \
    >"$OUT/$name.log" 2>&1 || status=$?
  [ "$status" = 0 ] || worst=1
  case $status in
    0) say "$name: passed, $((SECONDS - start)) s" ;;
    124 | 137) say "$name: stopped at its limit of $limit s; the end of its log:" ;;
    *) say "$name: failed with status $status, $((SECONDS - start)) s; the end of its log:" ;;
  esac
  [ "$status" = 0 ] || tail -n 5 "$OUT/$name.log" | cut -c1-100 | sed 's/^/    /' | tee -a "$OUT/summary.txt"
  return "$status"
}

require() {
  command -v nvidia-smi >/dev/null || { say "no NVIDIA driver here (nvidia-smi)"; exit 1; }
  command -v nvcc >/dev/null || export PATH=$PATH:/usr/local/cuda/bin
  command -v nvcc >/dev/null || { say "no nvcc on PATH"; exit 1; }
  "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    { say "$python is not Python 3.11 or later: set PYTHON"; exit 1; }
  local missing=() pair
  for pair in numpy ml_dtypes safetensors tqdm pytest hypothesis \
    pytest_timeout=pytest-timeout 'pybind11=pybind11>=3.0.3,<4'; do
    "$python" -c "import ${pair%%=*}" 2>/dev/null || missing+=("${pair#*=}")
  done
  "$python" -c 'import pybind11, sys; sys.exit(pybind11.version_info < (3, 0, 3))' 2>/dev/null ||
    missing+=('pybind11>=3.0.3,<4')
  command -v cmake >/dev/null || missing+=(cmake)
  command -v ninja >/dev/null || missing+=(ninja)
  if [ ${#missing[@]} -gt 0 ]; then
    timeout 60 "$python" -m pip install -q "${missing[@]}" >"$OUT/pip.log" 2>&1 ||
      { say "missing and not to be installed: ${missing[*]} (pip.log)"; exit 1; }
    PATH=$PATH:$("$python" -c 'import sysconfig; print(sysconfig.get_path("scripts"))')
  fi
}

# What nvcc calls the first GPU: Hopper's wgmma and TMA instructions exist for sm_90a only.
architecture() {
  local found
  found=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -n 1 | tr -d '. ')
  case $found in 90) found=90a ;; esac
  echo "$found"
}

build() {
  cmake -S "$root" -B "$tree" -G Ninja -DSEQLOOM_CUDA=ON -DCMAKE_BUILD_TYPE=Release \
    -DCMAKE_CUDA_ARCHITECTURES="$(architecture)-real" -DPython_EXECUTABLE="$(command -v "$python")" \
    -Dpybind11_DIR="$("$python" -m pybind11 --cmakedir)" && cmake --build "$tree" &&
    "$python" -m seqloom info
}

conformance() {
  "$python" -m tests.conformance --arch "sm_$(architecture)" --out "$OUT/goldens"
}

tests() {  # ends by itself, with its summary, before the part's limit
  "$python" -m pytest -q -p no:cacheprovider --maxfail=20 --session-timeout=90 --device cuda tests/ops
}

peers() { "$python" -c 'import torch; assert torch.cuda.is_available()' 2>/dev/null && echo torch || echo none; }

bench() {
  "$python" -m seqloom bench --quick --device cuda --peers "$(peers)" --total 85 \
    --json "$OUT/bench.json" --update
}

more() {
  "$python" -m seqloom bench --device cuda --peers "$(peers)" --total 500 --seconds 0.5 \
    --json "$OUT/bench.json" --update --missing
}

table() {
  [ -f "$OUT/bench.json" ] || { echo "no bench.json yet"; return 1; }
  "$python" -m seqloom bench plot "$OUT/bench.json" --out "$OUT/bench.png" >"$OUT/plot.log" 2>&1 ||
    echo "no bench.png: $(tail -n 1 "$OUT/plot.log" | cut -c1-80)"
  "$python" -m seqloom bench show --brief "$OUT/bench.json"
}

export -f build conformance tests peers bench more table architecture
export root tree python OUT

wanted=("$@")
[ ${#wanted[@]} -gt 0 ] || wanted=(build conformance tests bench table)
for name in "${wanted[@]}"; do
  case $name in
    build | conformance | tests | bench | more | table) ;;
    *) echo "unknown part: $name (build conformance tests bench table more)" >&2; exit 2 ;;
  esac
done
: >"$OUT/summary.txt"
require
say "$(nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader | head -n 1)"
say "$(nvcc --version | sed -n 's/^.*release/CUDA release/p')"

for name in "${wanted[@]}"; do
  case $name in
    build) part build 240 || break ;;
    conformance) part conformance 60 ;;
    tests) part tests 100 ;;
    bench) part bench 95 ;;
    more) part more 530 ;;
    table) part table 20 && cat "$OUT/table.log" ;;
  esac
done
exit "$worst"
