#!/usr/bin/env bash
# Makes the Python environments of this checkout, or finds them ready. The one place that installs.
#
#   tools/environment.sh train            .venv: all that trains and tests, the package editable
#   tools/environment.sh core [VERSION]   .venv-core, .venv-core-VERSION: the package as a wheel, no torch
#   tools/environment.sh triton           .venv-triton: .venv and Triton, whose interpreter tests the kernels
#   tools/environment.sh find VERSION...  prints a Python of one of these versions; 1 when there is none
#
# Safe to run again at any time: an environment whose stamp equals the lock files is left alone, an
# interrupted one is continued, one made from other locks is brought up to date. Whatever goes wrong is
# one line on stderr and exit status 1.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# Measured in November 2026 on Linux x86-64, in MB.
packages_download=360 packages_disk=1650
torch_cpu_download=190 torch_cpu_disk=760
torch_cuda_download=2700 torch_cuda_disk=4600
core_download=40 core_disk=150
triton_download=190 triton_disk=1100
triton_version=3.7.1 # for the tests of the kernels alone; torch for CUDA brings its own

pythons=(3.11 3.12 3.13 3.14) # those for which every locked package has a wheel

unset PYTHONPATH PYTHONHOME
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 PIP_USER=0 PYTHONNOUSERSITE=1

say() { printf '%s\n' "$*" >&2; }

fail() {
  say "error: $*"
  exit 1
}

find_python() { # a shim may be on PATH with nothing behind it, so every candidate is run
  local version candidate found
  for version in "$@"; do
    for candidate in "python$version" "$(pyenv_python "$version")" "$(uv_python "$version")" python3 python; do
      [ -n "$candidate" ] || continue
      found=$("$candidate" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || continue
      if [ "$found" = "$version" ]; then
        command -v "$candidate"
        return 0
      fi
    done
  done
  return 1
}

pyenv_python() {
  local release
  command -v pyenv >/dev/null || return 0
  release=$(pyenv versions --bare 2>/dev/null | grep -E "^${1//./\\.}\.[0-9]+$" | tail -n 1) || return 0
  printf '%s/bin/python\n' "$(pyenv prefix "$release")"
}

uv_python() {
  command -v uv >/dev/null || return 0
  uv python find --no-python-downloads "$1" 2>/dev/null || return 0
}

other_python() { # what there is instead, for the message
  local found
  found=$(python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || return 0
  printf ' (python3 is %s)' "$found"
}

need_space() { # need_space MB: what lies in the environment already counts as free, for it is replaced
  local free have=0
  free=$(df -Pk . | awk 'NR == 2 { print int($4 / 1024) }')
  [ ! -d "$venv" ] || have=$(du -sk "$venv" | awk '{ print int($1 / 1024) }')
  [ $((free + have)) -ge "$1" ] ||
    fail "no disk space: $PWD has $free MB free and $venv needs $(($1 - have)) MB; free some and run this again"
}

make_venv() { # make_venv VERSION...: keeps one that works, so that an interrupted install goes on
  local python
  if [ -x "$venv/bin/python" ] && "$venv/bin/python" -m pip --version >/dev/null 2>&1 &&
    [ "$(cat "$venv/made-in" 2>/dev/null || printf '%s' "$PWD")" = "$PWD" ]; then
    return 0
  fi
  python=$(find_python "$@") ||
    fail "no Python $(printf '%s, ' "$@" | sed 's/, $//; s/, \([^,]*\)$/ or \1/') on PATH$(other_python); install one (Debian, Ubuntu: apt install python3 python3-venv; where that is another version: uv python install 3.13, or pyenv install 3.13) and run this again"
  "$python" -c 'import venv, ensurepip' 2>/dev/null ||
    fail "$python has no venv module: install it (Debian, Ubuntu: apt install python3-venv) and run this again"
  say "making $venv with $python"
  "$python" -m venv --clear "$venv" >/dev/null || fail "$python could not make $PWD/$venv"
  printf '%s' "$PWD" >"$venv/made-in" # scripts inside name this folder: a moved one is made anew
}

pip_install() { # pip_install COUNT ARGUMENTS...: COUNT packages are expected
  local count=$1 log="$venv/install.log"
  shift
  "$venv/bin/python" -m pip install --retries 2 "$@" 2>&1 | tee "$log" | show_progress "$count" || explain "$log"
}

show_progress() {
  local line done=0
  while IFS= read -r line; do
    [ -t 2 ] || continue
    case $line in
    Collecting* | "Requirement already"*) done=$((done + 1)) && printf '\r  %d of %d packages' "$done" "$1" >&2 ;;
    "Installing collected"*) printf '\r  unpacking, this takes a while' >&2 ;;
    esac
  done
  [ ! -t 2 ] || printf '\r\033[K' >&2
}

explain() { # one line out of pip's many
  if grep -qiE 'No space left on device|Errno 28\b' "$1"; then
    fail "no disk space left while installing into $PWD/$venv; free some and run this again"
  elif grep -qE 'DO NOT MATCH THE HASHES' "$1"; then
    fail "a downloaded package is not the one that the lock names; pip's words are in $1"
  elif grep -qiE 'ConnectionError|Connection(Reset|Refused)|Connection broken|NameResolution|Name or service|Timeout|timed out|ProxyError|SSLError|Network is unreachable' "$1"; then
    fail "no network: the package index could not be reached; run this again when it can (pip's words are in $1)"
  fi
  fail "pip failed: $(grep -iE '^ *error' "$1" | tail -n 1 | sed 's/^ *//') (all its words are in $1)"
}

offered_torch() { # the version of torch that pip would take with these options, or nothing
  "$venv/bin/python" -m pip install --quiet --dry-run --ignore-installed --no-deps --report - \
    -r requirements/torch.txt "$@" 2>/dev/null |
    "$venv/bin/python" -c 'import json, sys; print(json.load(sys.stdin)["install"][0]["metadata"]["version"])' 2>/dev/null
}

choose_torch() { # sets torch_options, torch_download, torch_disk and torch_words
  local cpu_index=https://download.pytorch.org/whl/cpu version
  torch_options=(--no-deps) torch_download=$torch_cpu_download torch_disk=$torch_cpu_disk torch_words="torch for the CPU"
  version=$("$venv/bin/python" -c 'import importlib.metadata as m; print(m.version("torch"))' 2>/dev/null) || version=""
  if [ "${version%%+*}" = "$(sed -n 's/^torch==//p' requirements/torch.txt)" ]; then
    torch_download=0 torch_words="torch, which is there already"
  elif ! nvidia-smi -L >/dev/null 2>&1; then
    case $(offered_torch) in
    *+cpu) return 0 ;;
    esac
    if [ -n "$(offered_torch --index-url "$cpu_index" --timeout 10 --retries 0)" ]; then
      torch_options=(--no-deps --index-url "$cpu_index")
      return 0
    fi
    torch_words="torch with its CUDA packages (no GPU here, but no CPU build of torch could be found either)"
  else
    torch_words="torch with its CUDA packages"
  fi
  [ "$torch_download" = 0 ] || torch_options=() torch_download=$torch_cuda_download torch_disk=$torch_cuda_disk
}

stamp() { printf '%s %s' "$(cat "$@" | cksum)" "$PWD"; }

is_ready() { [ "$(cat "$venv/stamp" 2>/dev/null)" = "$1" ] && "$venv/bin/python" -c '' 2>/dev/null; }

train() {
  venv=.venv
  local count wanted
  wanted=$(stamp requirements/build.txt requirements/lock.txt requirements/torch.txt pyproject.toml)
  ! is_ready "$wanted" || return 0
  need_space $((packages_disk + torch_cpu_disk))
  make_venv "${pythons[@]}"
  rm -f "$venv/stamp"
  pip_install 2 --require-hashes --no-deps -r requirements/build.txt
  choose_torch
  count=$(grep -c '==' requirements/lock.txt)
  say "installing into $PWD/$venv, once; what is not in pip's cache is downloaded:"
  say "  $count packages, about $packages_download MB; and $torch_words, about $torch_download MB"
  say "  on disk $((packages_disk + torch_disk)) MB in all; this takes some minutes"
  need_space $((packages_disk + torch_disk + torch_download)) # files lie beside what is unpacked from them
  # Without isolation the one source package builds with the setuptools of build.txt.
  pip_install "$count" --require-hashes --no-deps --no-build-isolation -r requirements/lock.txt
  [ "$torch_download" = 0 ] || pip_install 25 ${torch_options[@]+"${torch_options[@]}"} -r requirements/torch.txt
  pip_install 1 --no-deps --no-build-isolation --editable .
  "$venv/bin/python" -m pip check >"$venv/install.log" 2>&1 || fail "$venv does not fit together: $(head -n 1 "$venv/install.log")"
  printf '%s' "$wanted" >"$venv/stamp"
  say "installed in ${SECONDS} s"
}

core() {
  venv=.venv-core${1:+-$1}
  local wanted
  wanted=$(stamp requirements/build.txt requirements/core.txt)
  if ! is_ready "$wanted"; then
    need_space $core_disk
    if [ -n "$1" ]; then make_venv "$1"; else make_venv "${pythons[@]}"; fi
    rm -f "$venv/stamp"
    say "installing into $PWD/$venv, once: about $core_download MB to download, $core_disk MB on disk"
    pip_install 2 --require-hashes --no-deps -r requirements/build.txt
    pip_install "$(grep -c '==' requirements/core.txt)" --require-hashes --no-deps -r requirements/core.txt
    printf '%s' "$wanted" >"$venv/stamp"
  fi
  # The wheel, not the folder, is what people install. It is built in a copy: setuptools would pack what
  # an earlier build left in build/.
  copy=$(mktemp -d)
  trap 'rm -rf "$copy"' EXIT
  cp -R pyproject.toml README.md LICENSE THIRD_PARTY_NOTICES.md src "$copy"
  rm -rf "$copy"/src/*.egg-info
  pip_install 1 --no-deps --no-build-isolation --force-reinstall "$copy"
}

triton() { # beside .venv, not in it: a CPU has no use for it but this
  train
  venv=.venv-triton
  local wanted
  wanted="$triton_version $(stamp .venv/stamp)"
  ! is_ready "$wanted" || return 0
  need_space $triton_disk
  make_venv "${pythons[@]}"
  rm -f "$venv/stamp"
  say "installing Triton $triton_version into $PWD/$venv, once: about $triton_download MB, on disk $triton_disk MB"
  pip_install 1 --no-deps "triton==$triton_version"
  "$venv/bin/python" - "$PWD/.venv" <<'PYTHON'
import pathlib, sys, sysconfig
lent = sysconfig.get_path("purelib", vars={"base": sys.argv[1]})
own = pathlib.Path(sysconfig.get_path("purelib"))
(own / "lent.pth").write_text(f"import site; site.addsitedir({lent!r})\n", encoding="utf-8")
PYTHON
  "$venv/bin/python" -c 'import torch, triton, quran_asr' >"$venv/install.log" 2>&1 ||
    fail "$venv does not fit together: $(tail -n 1 "$venv/install.log")"
  printf '%s' "$wanted" >"$venv/stamp"
}

trap 'say "interrupted; run this again to go on from here"; exit 130' INT TERM
case ${1:-} in
train) train ;;
triton) triton ;;
core) core "${2:-}" ;;
find) shift && find_python "$@" ;;
*) fail "say train, core, triton or find: $(sed -n '4,7s/^# *//p' tools/environment.sh | tr '\n' ';')" ;;
esac
