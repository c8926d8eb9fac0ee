#!/usr/bin/env bash
# Makes the lock files from pyproject.toml: tools/lock.sh [--upgrade | --upgrade-package NAME].
# Pins stay where they are unless an upgrade is asked for. Needs uv (pip install uv).
#
# torch and what only its CUDA build brings stay out: `torch==` in torch.txt fits the CPU build and the
# CUDA build alike, which a hash would not.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../requirements"
command -v uv >/dev/null || { echo "error: uv is not there; pip install uv" >&2 && exit 1; }

compile() { # compile OUTPUT ARGUMENTS...
  local output=$1
  shift
  uv pip compile --quiet --no-config --universal --python-version 3.11 --generate-hashes \
    --custom-compile-command "tools/lock.sh" --output-file "$output" "$@"
}

everything=(../pyproject.toml --extra train --extra plot --extra speak --extra mic --extra sweep --extra serve --extra media --extra parquet --extra cluster --extra dev --constraints torch.txt)
left_out=()
for name in $(uv pip compile --quiet --no-config --universal --python-version 3.11 "${everything[@]}" |
  grep -oE '^(torch|triton|cuda-toolkit|nvidia-[a-z0-9-]+)=' | tr -d '='); do
  left_out+=(--no-emit-package "$name")
done

compile lock.txt "${everything[@]}" "${left_out[@]}" "$@"
compile core.txt ../pyproject.toml --extra test "$@"
compile build.txt build.in "$@"
