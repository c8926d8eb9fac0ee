"""Measure which installed packages a training, an evaluation and a picture really need.

    .venv/bin/python tools/kit_needs.py WORK [--from FILE] >src/quran_asr/runs/kits/kit_needs.txt

All packages but the first few are hidden. `train`, `evaluate`, `plot` and `kit` run with a tiny recipe on a
spoken corpus; whatever package one of them fails for is shown again, and everything starts anew, until all
four pass. So a package that is imported but not missed (a `try` around it) is not on the list. NeMo's import
takes 10 seconds, and there are some sixty packages: a quarter of an hour. `--from` begins with an older list.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import re
import subprocess
import sys
from pathlib import Path

from quran_asr.corpus.speak import speak_corpus
from quran_asr.records import VerseRef

ALWAYS = "pip setuptools numpy torch lightning pytorch_lightning nemo_toolkit click rich quran_asr".split()
TINY = """model.encoder.n_layers=1 model.encoder.d_model=32 model.encoder.n_heads=2
model.encoder.subsampling_conv_channels=8 model.decoder.prednet.pred_hidden=16
model.joint.jointnet.joint_hidden=16 model.decoding.greedy.max_symbols=3 quran.vocabulary_size=48
quran.curriculum.first_seconds=3.0 quran.overfit_gate_steps=0 trainer.max_steps=4
trainer.val_check_interval=2 trainer.log_every_n_steps=1
model.train_ds.num_workers=1 model.validation_ds.num_workers=1""".split()
HIDING = """
import importlib.metadata, json, re, sys
modules, names = map(set, json.loads(sys.argv[1]))
asked = open(sys.argv[3], "w", buffering=1)
class Hide:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top in modules:
            print(top, file=asked)
            raise ModuleNotFoundError(f"No module named {name!r} HIDDEN<{top}>", name=name)
sys.meta_path.insert(0, Hide())
there = importlib.metadata.Distribution.from_name.__func__
def from_name(cls, name):  # some look for the metadata of what they need
    plain = re.sub(r"[-_.]+", "-", name).lower()
    if plain in names:
        print(f"={plain}", file=asked)
        raise importlib.metadata.PackageNotFoundError(f"{name} HIDDEN<={plain}>")
    return there(cls, name)
importlib.metadata.Distribution.from_name = classmethod(from_name)
from quran_asr.cli.main import main
main(["--debug", *json.loads(sys.argv[2])])
"""


def normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("work", type=Path)
    parser.add_argument("--from", dest="older", type=Path)
    options = parser.parse_args()
    work = options.work.absolute()
    spoken = speak_corpus(
        [VerseRef(112, ayah) for ayah in range(1, 5)], ["ar", "ar+f2"], work / "spoken", seed=0
    )
    runs = work / "runs"
    data = ["--train", str(spoken), "--validation", str(spoken)]
    commands = {
        "train": ["train", "quickstart", *TINY, *data, f"exp_manager.exp_dir={runs}"],
        "evaluate": ["evaluate", "RUN", str(spoken), "--to", str(work / "evaluation")],
        "plot": ["plot", "RUN", "--out", str(work / "plot"), "--no-audio"],
    }
    owners = importlib.metadata.packages_distributions()
    found = {normalized(name): "start" for name in ALWAYS}
    if options.older:
        for line in options.older.read_text("utf-8").splitlines():
            if line and not line.startswith("#"):
                name, _, part = line.partition(" ")
                found[name] = part.strip()
    for part, words in commands.items():
        while True:
            run = next(iter(sorted(runs.glob("*/*"))), runs)
            hidden = sorted(
                module
                for module, names in owners.items()
                if not any(normalized(name) in found for name in names)
                and re.fullmatch(r"[a-zA-Z]\w*", module)
            )
            words = [str(run) if word == "RUN" else word for word in words]
            unseen = sorted({normalized(n) for names in owners.values() for n in names} - found.keys())
            asked = work / "asked.txt"
            command = [
                sys.executable,
                "-c",
                HIDING,
                json.dumps([hidden, unseen]),
                json.dumps(words),
                str(asked),
            ]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode == 0:
                break
            # What the traceback names; else, where somebody swallowed that, what was asked for last.
            missed = re.findall(r"HIDDEN<(=?[\w-]+)>", done.stderr) or asked.read_text("utf-8").split()
            if not missed:
                sys.exit(f"`{part}` failed for another reason:\n{done.stderr[-3000:]}")
            last = missed[-1]
            for name in [last[1:]] if last.startswith("=") else owners[last]:
                found[normalized(name)] = part
            print(f"{part} needs {last}", file=sys.stderr, flush=True)
    print(f"# What a training on a host needs, measured with Python {sys.version.split()[0]} by")
    print("# `python tools/kit_needs.py`: package, and the first command that fails without it.")
    print("\n".join(f"{name} {part}" for name, part in sorted(found.items())))


if __name__ == "__main__":
    main()
