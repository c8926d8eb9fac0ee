"""A training whose second process runs out of memory in a backward pass: run by torchrun from a test.

    python -m torch.distributed.run --nproc-per-node 2 limited_training.py RUN BATCHES

Prints what the first process was told, and the clips of each process's optimizer steps, as a line of JSON.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from quran_asr.corpus.manifest import read_manifest
from quran_asr.findings import Finding
from quran_asr.runs.folder import RunFolder
from quran_asr.runs.recipe import load_recipe
from quran_asr.train.batches import Batch
from quran_asr.train.loop import train
from quran_asr.train.processes import joined


def main() -> None:
    run, good = RunFolder(Path(sys.argv[1])), int(sys.argv[2])
    recipe = load_recipe(run.recipe)
    segments = read_manifest(Path(recipe.model.train_ds.manifests[0]), "letters")
    heard: list[list[int]] = []
    told: list[Finding] = []
    with joined(2, 1, "cpu") as ranks:
        backward = Tensor.backward

        def fails_once(loss: Tensor, *args: Any, **kwargs: Any) -> None:
            if ranks.rank == 1 and len(heard) == good + 1 and len(heard[-1]) == 2:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            backward(loss, *args, **kwargs)

        Tensor.backward = fails_once  # type: ignore[method-assign]

        def note(batch: Batch) -> None:
            heard.append(list(batch.indices))

        train(
            recipe,
            run,
            segments,
            segments[:2],
            watcher=lambda progress: None,
            on_finding=told.append,
            ranks=ranks,
            limit=note,
        )
        everywhere = ranks.gather(heard)
        if ranks.rank == 0:
            print(json.dumps({"told": [one.message for one in told], "heard": everywhere}))


if __name__ == "__main__":
    main()
