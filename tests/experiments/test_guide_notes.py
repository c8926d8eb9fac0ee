"""Where the guide's text and its own configuration differ."""

from __future__ import annotations

from quran_asr.config.recipe import load_recipe
from quran_asr.experiments.planning.plan import guide_notes, plan
from quran_asr.experiments.planning.timing import MeasuredSeconds
from quran_asr.experiments.planning.workload import Workload

GUIDE = Workload(67_399, 56.0)


def notes(name: str, work: Workload | None, given: MeasuredSeconds = MeasuredSeconds()) -> dict[str, str]:  # noqa: B008 - frozen
    recipe = load_recipe(name)
    found = guide_notes(name, recipe, plan(recipe, work, given=given))
    assert {finding.severity for finding in found} <= {"note"}
    return {finding.code: finding.message for finding in found}


def test_the_guides_case_names_each_difference_with_its_figures() -> None:
    lines = notes("transfer", GUIDE, MeasuredSeconds(0.5, 60.0))
    figures = {
        "guide-rate": ("1.5", "2.0", "1.21e-03", "1.25e-03"),
        "guide-warmup": ("2.8 epochs", "5.7 epochs"),
        "guide-batches": ("1,053", "1,053.1"),
        "guide-steps": ("105,300", "52,700"),
        "guide-hours": ("200 h", "56 h"),
        "guide-time": ("17 hours", "16.3"),
    }
    assert set(lines) == set(figures)
    for code, wanted in figures.items():
        assert all(figure in lines[code] for figure in wanted), lines[code]


def test_other_data_and_other_recipes_are_left_alone() -> None:
    assert set(notes("transfer", Workload(4000, 20.0))) == {"guide-rate"}
    assert set(notes("transfer", None)) == {"guide-rate"}
    assert notes("laptop", Workload(2876, 5.45)) == notes("small", None) == notes("large", None) == {}
    assert set(notes("before", GUIDE)) == {"guide-steps", "guide-hours"}
