#!/usr/bin/env bash
# The guide's optimized training: from a pretrained English FastConformer, 100 epochs, top 10 checkpoints.
#
#   bash train_nemo_optimized.sh [KEY=VALUE...]
#   bash train_nemo_optimized.sh model.train_ds.batch_size=16 trainer.accumulate_grad_batches=4 \
#     model.joint.fused_batch_size=4        # where a GPU runs out of memory: the effective batch stays 128

# Comment this line out to train from random weights: 200 epochs, the slow way.
PRETRAINED_MODEL="stt_en_fastconformer_transducer_large"
TRAIN_MANIFEST=data/train.jsonl
VALIDATION_MANIFEST=data/validation.jsonl

set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"

# An override can name the manifests too.
train=(--train "$TRAIN_MANIFEST") validation=(--validation "$VALIDATION_MANIFEST")
for word in "$@"; do
  case "$word" in
    model.train_ds.manifest_filepath=*) train=() ;;
    model.validation_ds.manifest_filepath=*) validation=() ;;
  esac
done

missing=()
[ ${#train[@]} -eq 0 ] || [ -f "$TRAIN_MANIFEST" ] || missing+=("$TRAIN_MANIFEST")
[ ${#validation[@]} -eq 0 ] || [ -f "$VALIDATION_MANIFEST" ] || missing+=("$VALIDATION_MANIFEST")
if [ ${#missing[@]} -gt 0 ]; then
  {
    printf 'error: no such manifest: %s\n' "${missing[*]}"
    printf 'hint: make both from a folder of recordings, one folder for each reciter:\n'
    printf '  quran-asr corpus scan recordings --to data/all.jsonl\n'
    printf '  quran-asr corpus split data/all.jsonl --by reciter --to data\n'
  } >&2
  exit 2
fi

# The caller's Python if it can train, else the one of this checkout.
command=()
for python in python3 python "$here/.venv/bin/python"; do
  if "$python" -c 'from importlib.util import find_spec as f; raise SystemExit(not (f("quran_asr") and f("nemo")))' \
    2>/dev/null; then
    command=("$python" -c 'from quran_asr.cli.main import main; main()')
    break
  fi
done
if [ ${#command[@]} -eq 0 ]; then
  printf "error: quran-asr is not installed\nhint: run %s/quickstart.sh, or: pip install 'quran-asr[train]'\n" \
    "$here" >&2
  exit 2
fi

if [ -n "${PRETRAINED_MODEL:-}" ]; then
  start=(transfer "init_from_pretrained_model=$PRETRAINED_MODEL")
else
  start=(scratch)
  printf '%s\n' "warning: no PRETRAINED_MODEL: training starts from random weights with the recipe \`scratch\`" \
    "hint: 200 epochs are needed where the pretrained start takes 50 to 100" >&2
fi
# ${a[@]+...}: an empty array is an unset variable to the bash of macOS.
exec "${command[@]}" train "${start[@]}" ${train[@]+"${train[@]}"} ${validation[@]+"${validation[@]}"} "$@"
