"""Peak memory of real training steps beside the plan's estimate: RECIPE CLIPS SECONDS [KEY=VALUE...].

Run it with `MALLOC_MMAP_THRESHOLD_=65536 MALLOC_TRIM_THRESHOLD_=65536`, so that freed memory is given back.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import torch

from quran_asr.config.recipe import load_recipe
from quran_asr.experiments.planning import cost
from quran_asr.experiments.planning.cost import audio_flops
from quran_asr.experiments.planning.workload import expected_tokens
from quran_asr.records import Segment
from quran_asr.training.data.batches import Batch, Clip, ClipSet
from quran_asr.training.model import build_model
from quran_asr.training.module import TrainingModule
from quran_asr.training.tokenizer import train_tokenizer


def kernel_says(key: str) -> int:
    """Bytes of this process: `VmRSS` now, `VmHWM` at its height."""
    found = re.search(key + r":\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def main(name: str, clips: int, seconds: float, overrides: list[str]) -> None:
    torch.set_num_threads(1)
    recipe = load_recipe(name, ["quran.curriculum=null", "trainer.accumulate_grad_batches=1", *overrides])
    with tempfile.TemporaryDirectory() as folder:
        train_tokenizer(recipe.quran.spelling, recipe.quran.vocabulary_size, Path(folder) / "t")
        model = build_model(recipe, Path(folder) / "t")
    tokens = round(expected_tokens(recipe.quran, seconds))
    clip = Clip(Segment("none.wav", 0.0, seconds, (), "", ""), (1,) * tokens)
    clip_set = ClipSet([clip], cache_bytes=0)
    module = TrainingModule(model, recipe, clip_set, clip_set, lambda finding: None)
    module.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    samples = round(16_000 * seconds)
    batch = Batch(
        torch.randn(clips, samples),
        torch.full((clips,), samples),
        torch.randint(0, recipe.quran.vocabulary_size, (clips, tokens)),
        torch.full((clips,), tokens),
        tuple(range(clips)),
    )
    without = kernel_says("VmRSS") - 4 * sum(parameter.numel() for parameter in model.parameters())
    took = []
    for _ in range(2):  # from the second on, the optimizer's moments are there too
        began = time.process_time()
        transducer, ctc, _ = module.losses(batch)
        assert transducer is not None
        (0.3 * ctc.mean() + 0.7 * transducer.mean()).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        took.append(time.process_time() - began)
    measured = kernel_says("VmHWM") - without
    estimate = cost.step_memory(recipe, cost.Batch(clips, seconds, tokens), cpu=True)
    operations = audio_flops(recipe, seconds, tokens) * clips * seconds
    print(
        json.dumps(
            {
                "recipe": name,
                "clips": clips,
                "seconds": seconds,
                "tokens": tokens,
                "measured_mb": round(measured / 1e6, 1),
                "predicted_mb": round(estimate.total / 1e6, 1),
                "ratio": round(estimate.total / measured, 3),
                "parts_mb": {part: round(size / 1e6, 1) for part, size in asdict(estimate).items()},
                "step_seconds": round(min(took), 3),
                "gflop_per_second": round(operations / min(took) / 1e9, 1),
            }
        )
    )


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), sys.argv[4:])
