#!/usr/bin/env bash
# ./test.sh                         every check: lint, types, the core install alone on each Python, all tests
# ./test.sh --fast                  lint, types, core when it changed, the quick tests: under 2 minutes
# ./test.sh [--fast] ARGUMENTS...   only the tests that these pytest arguments choose
#
# Stops at the first check that fails, with what it printed; pytest comes last and has the last word. Its tests
# run in two processes, apart from those marked `alone`, which measure time and run when the others are done.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

fast=no
if [ "${1:-}" = --fast ]; then
  fast=yes
  shift
fi

check() { # check NAME COMMAND...: silent while all is well
  local name=$1 begun=$SECONDS output
  shift
  if ! output=$("$@" 2>&1); then
    printf '%s\n' "$output" >&2
    printf 'error: %s failed: %s\n' "$name" "$*" >&2
    exit 1
  fi
  printf '%-44s ok  %4d s\n' "$name" $((SECONDS - begun))
}

test_core() { # test_core VERSION NAME TESTS...: from the wheel, in an environment of its own
  local environment=.venv-core${1:+-$1} name=$2
  tools/environment.sh core "$1"
  shift 2
  check "$name" "$environment/bin/python" -m pytest -q -m "not slow" -p no:cacheprovider "$@"
}

core_contents() {
  find src requirements/core.txt tests/architecture/test_core.py -type f ! -name '*.pyc' ! -path '*.egg-info/*' \
    -exec cksum {} + | sort | cksum
}

test_core_everywhere() {
  local contents
  contents=$(core_contents)
  if [ $fast = yes ]; then
    [ "$(cat .venv-core/tested 2>/dev/null)" != "$contents" ] || return 0
    test_core "" "core alone" tests/architecture/test_core.py
  else
    test_core "" "core alone, with the tests of its rooms" "${two_processes[@]}" -m "not slow and not alone" \
      tests/architecture/test_core.py "${core_tests[@]}"
    test_core "" "core alone, what measures time" -m "not slow and alone" "${core_tests[@]}"
    local version
    for version in 3.12 3.13 3.14; do
      if tools/environment.sh find "$version" >/dev/null; then
        test_core "$version" "core alone on Python $version" tests/architecture/test_core.py
        check "the lock on Python $version" lock_resolves ".venv-core-$version"
      else
        printf '%-44s left out: there is no Python %s here\n' "core alone on Python $version" "$version"
      fi
    done
  fi
  printf '%s' "$contents" >.venv-core/tested
}

test_kernels() { # of the transducer loss for GPUs: compiled, and run in Triton's interpreter, which takes 1.1 GB
  if [ -z "${CI:-}" ]; then
    printf '%-44s left out: CI=true brings Triton\n' "Triton kernels without a GPU"
    return 0
  fi
  tools/environment.sh triton
  local tests=(.venv-triton/bin/python -m pytest -q -p no:cacheprovider)
  check "Triton kernels, compiled for GPUs" "${tests[@]}" tests/training/test_triton_kernels.py
  check "Triton kernels, interpreted" env TRITON_INTERPRET=1 \
    "${tests[@]}" -k triton tests/training/test_transducer_loss.py
}

lock_resolves() { # asked of the package index once for each lock: every pin has a file for this Python
  [ "$(cksum <requirements/lock.txt)" != "$(cat "$1/resolved" 2>/dev/null)" ] || return 0
  "$1/bin/python" -m pip install --dry-run --quiet --ignore-installed --no-deps --require-hashes \
    --no-build-isolation -r requirements/lock.txt
  cksum <requirements/lock.txt >"$1/resolved"
}

core_tests=(tests/text tests/decoding tests/evaluation tests/runtime)
two_processes=(-n 2 --dist loadfile --no-loadscope-reorder) # tests/conftest.py orders the files

tools/environment.sh train
tests=(.venv/bin/python -m pytest)
if [ $fast = yes ]; then tests+=(-q -m "not slow"); else tests+=(--durations=15); fi
if [ $# = 0 ]; then
  check "lint (ruff check)" .venv/bin/ruff check .
  check "format (ruff format)" .venv/bin/ruff format --check .
  check "types (mypy)" .venv/bin/mypy
  test_core_everywhere
  # One thread for each process: more threads than cores would wait for each other.
  together=(env OMP_NUM_THREADS=1 "${tests[@]}" "${two_processes[@]}")
  [ $fast = no ] || exec "${together[@]}"
  test_kernels
  "${together[@]}" -m "not alone"
  mapfile -t files < <(grep -rl --include='test_*.py' 'mark\.alone' tests)
  exec "${tests[@]}" -m alone "${files[@]}"
fi
exec "${tests[@]}" "$@"
