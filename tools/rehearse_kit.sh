#!/usr/bin/env bash
# Rehearses a kit: an environment that holds only what `runs/kits/hosts/torch.txt` lists, no network, one command,
# killed on the way. tools/rehearse_kit.sh [FOLDER] (default: a temporary one).
#
# Needs Python 3.12, a package index to make the environment from, 10 GB of disk and a quarter of an hour: torch
# comes with its CUDA libraries, as on such a host. It trains on the CPU. FOLDER/host is used again.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
root=$PWD
folder=${1:-$(mktemp -d)}
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
quran_asr=("$root/.venv/bin/python" -m quran_asr)
[ -x "${quran_asr[0]}" ] || quran_asr=(python -m quran_asr)

say() { printf '%s\n' "== $*" >&2; }

if ! [ -x "$folder/host/bin/python" ]; then
  python=$(tools/environment.sh find 3.12) || { say "no Python 3.12 here: not rehearsed"; exit 77; }
  say "making $folder/host from src/quran_asr/runs/kits/hosts/torch.txt"
  "$python" -m venv "$folder/unfinished"
  "$folder/unfinished/bin/python" -m pip install --quiet --no-compile --no-deps \
    -r src/quran_asr/runs/kits/hosts/torch.txt || { say "no package index here: not rehearsed"; exit 77; }
  mv "$folder/unfinished" "$folder/host" # only its Python is used, and no script
fi

say "speaking a corpus, making the kit"
"${quran_asr[0]}" - "$folder/spoken" <<'PY'
import sys
from pathlib import Path
from quran_asr.corpus.speak import speak_corpus
from quran_asr.records import VerseRef
speak_corpus([VerseRef(112, ayah) for ayah in range(1, 5)], ["ar", "ar+m1", "ar+f2"], Path(sys.argv[1]), seed=0)
PY
manifest=$folder/spoken/manifest.jsonl
"${quran_asr[@]}" kit quickstart --to "$folder/kit" --train "$manifest" --validation "$manifest" \
  model.encoder.n_layers=1 model.encoder.d_model=32 model.encoder.n_heads=2 \
  model.encoder.subsampling_conv_channels=8 model.decoder.prednet.pred_hidden=16 \
  model.joint.jointnet.joint_hidden=16 model.decoding.greedy.max_symbols=3 quran.vocabulary_size=48 \
  quran.curriculum.first_seconds=3.0 quran.overfit_gate_steps=0 trainer.log_every_n_steps=1 \
  trainer.max_steps=120 trainer.val_check_interval=20 quran.checkpoint_minutes=0.01

if unshare -n true 2>/dev/null; then alone=(unshare -n); else alone=(); fi
on_host() { # nothing of this environment, and no network
  exec env -i PATH=/usr/bin:/bin HOME="$folder" http_proxy=http://127.0.0.1:9 https_proxy=http://127.0.0.1:9 \
    ${alone[@]+"${alone[@]}"} "$folder/host/bin/python" "$folder/kit/run.py" \
    --to "$folder/out" --work "$folder/work" --every 0.5 "$@"
}
rm -rf "$folder/out" "$folder/work" "$folder/back"
say "running it, to be killed while it trains"
(on_host) & # each program becomes the next, so that this is the process to kill; its training goes with it
host=$!
until compgen -G "$folder/work/runs/*/*/checkpoints/last.ckpt" >/dev/null; do
  kill -0 $host 2>/dev/null || { say "it ended before it trained"; exit 1; }
  sleep 0.2
done
kill -KILL $host
wait $host || true
sleep 2 # its children are ended by the kernel
say "going on"
(on_host)

say "what comes back"
ls -l "$folder/out/results"
rm -rf "$folder/back"
"${quran_asr[@]}" kit --collect "$folder/out/results" --to "$folder/back"
"${quran_asr[@]}" evaluate "$folder/back" "$folder/work/data/test.jsonl" --to "$folder/evaluation"
"${quran_asr[0]}" - "$folder" <<'PY'
import json, sys
from pathlib import Path
folder = Path(sys.argv[1])
index = json.loads((folder / "out/results/results.json").read_text())
assert index["calls"] == 2 and index["stages"]["train"]["state"] == "done", index["stages"]
there, here = (json.loads((folder / name / "report.json").read_text())["wer"] for name in ("back", "evaluation"))
print(f"rehearsed: WER on the host {there:.4f}, here from half precision {here:.4f}")
PY
