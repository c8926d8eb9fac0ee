#!/usr/bin/env bash
# On a fresh machine: installs into .venv, then trains, evaluates and tries a small model.
# Options go to `quran-asr quickstart`. Safe to run again: what is installed stays.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
tools/environment.sh train
exec .venv/bin/quran-asr quickstart "$@"
