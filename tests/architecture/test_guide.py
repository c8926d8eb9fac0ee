"""What docs/guides/full-size-training.md says that `plan` computes is what it computes."""

from __future__ import annotations

from pathlib import Path

import pytest

from quran_asr.config.recipe import load_recipe
from quran_asr.experiments.planning.devices import find_device
from quran_asr.experiments.planning.plan import Plan, plan
from quran_asr.experiments.planning.timing import MeasuredSeconds, Target
from quran_asr.experiments.planning.workload import Workload

GUIDE = (Path(__file__).parents[2] / "docs" / "guides" / "full-size-training.md").read_text(encoding="utf-8")
CLIPS = 67_399


def planned(recipe: str, hours: float = 56.0, target: Target | None = None, **given: float) -> Plan:
    return plan(load_recipe(recipe), Workload(CLIPS, hours), 2, target=target, given=MeasuredSeconds(**given))


def on_a_3090(hours: float) -> float:
    device = find_device("RTX 3090")
    seconds = planned("transfer", hours, Target("RTX 3090", device)).batch_seconds
    assert seconds is not None
    return seconds


def gigabytes(recipe: str, hours: float = 56.0) -> str:
    memory = planned(recipe, hours).memory_bytes
    assert memory is not None
    return f"{memory.total / 1e9:.1f}"


@pytest.mark.parametrize(
    "figure",
    [
        f"{planned('transfer').optimizer_steps:,}",
        f"{planned('before').optimizer_steps:,}",
        f"{planned('transfer').batches_per_epoch:,} batches",
        f"{on_a_3090(56):.3f} s a batch",
        f"in as many clips it is {on_a_3090(200):.2f} s",
        f"{on_a_3090(200):.2f} s instead of {on_a_3090(56):.3f} s",
        f"expects {gigabytes('low-memory')} instead of {gigabytes('transfer')} GB",
        f"expects {gigabytes('transfer', 200)} GB of the unchanged recipe",
        f"{planned('large').optimizer_steps:,} steps",
    ],
)
def test_a_figure_of_the_guide_is_what_plan_computes(figure: str) -> None:
    assert figure in GUIDE


def test_the_guides_hours() -> None:
    seconds = planned("transfer", batch_seconds=0.5, validation_seconds=60.0).total_seconds
    assert seconds is not None
    hours, rest = divmod(round(seconds), 3600)
    assert f"{hours} h {rest // 60} min" in GUIDE
