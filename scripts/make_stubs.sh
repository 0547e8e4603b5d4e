#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Writes python/seqloom/_core.pyi from the built module on PYTHONPATH; --check compares instead.
set -euo pipefail
cd "$(dirname "$0")/.."
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
python -m pybind11_stubgen seqloom._core --ignore-all-errors -o "$out" >/dev/null 2>"$out/log" ||
  { cat "$out/log"; exit 1; }
python scripts/finish_stubs.py "$out/seqloom/_core.pyi"
ruff format -q --config pyproject.toml "$out/seqloom/_core.pyi"
if [ "${1:-}" = --check ]; then
  diff -u python/seqloom/_core.pyi "$out/seqloom/_core.pyi" ||
    { echo "python/seqloom/_core.pyi is out of date: run scripts/make_stubs.sh"; exit 1; }
else
  cp "$out/seqloom/_core.pyi" python/seqloom/_core.pyi
fi
