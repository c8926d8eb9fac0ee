"""A training's outside without its inside: the same command line, run folder, signals and last words.

Its word error rate after step s is the CTC weight plus 1 / s; `STAND_IN_SECONDS` a validation.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

from quran_asr.config.recipe import load_recipe
from quran_asr.experiments.run_folder import create_run, open_run

STEPS = 5
TEXTS = ("قل هو الله أحد", "الله الصمد", "لم يلد ولم يولد")


def main(words: list[str]) -> None:
    assert words.pop() == "--json"
    with Path(os.environ["STAND_IN_LOG"]).open("a") as log:
        log.write(json.dumps(words) + "\n")
    if words[0] == "--resume":
        run = open_run(words[1])
        recipe = load_recipe(run.recipe)
    else:
        recipe = load_recipe(words[0], words[1:])
        run = create_run(recipe.exp_manager.exp_dir, recipe.name)
        run.write_recipe(recipe)
    done = len(run.read_metrics())
    signal.signal(signal.SIGTERM, lambda number, frame: end(run, True, 130))
    weight = recipe.model.aux_ctc.ctc_loss_weight
    if weight > 0.9:
        print("error: the sky fell\nhint: lift it", file=sys.stderr)
        sys.exit(2)
    for step in range(done + 1, STEPS + 1):
        time.sleep(float(os.environ.get("STAND_IN_SECONDS", "0.02")))
        row = {"step": step, "epoch": 0, "time": step / 1, "split": "validation", "wer": weight + 1 / step}
        run.append_metrics(row)
    mistake = " خطأ" if weight > 0.3 else ""
    lines = [
        {"audio_filepath": f"{i}.wav", "offset": 0, "duration": 1, "reciter": f"r{i % 2}", "verses": [],
         "reference": text, "hypothesis": text + mistake}
        for i, text in enumerate(TEXTS * 4)
    ]  # fmt: skip
    run.transcripts.write_text("".join(json.dumps(line) + "\n" for line in lines))
    end(run, False, 0)


def end(run, interrupted: bool, code: int) -> None:  # type: ignore[no-untyped-def]
    rates = [row["wer"] for row in run.read_metrics()]
    ended = {"run": str(run.path), "interrupted": interrupted, "stopped_by": None, "steps": len(rates)}
    print(json.dumps(ended | {"val_wer": min(rates, default=None)}), flush=True)
    os._exit(code)


if __name__ == "__main__":
    main(sys.argv[1:])
