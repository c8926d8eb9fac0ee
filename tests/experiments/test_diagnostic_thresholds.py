"""Each threshold of a diagnostic has a curve just below it and one just above it.

The last test moves every threshold by half, up and down, and wants one of these curves to be judged
otherwise: a threshold that nothing guards, a new one too, fails it by name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import pytest

from quran_asr.config.recipe import load_recipe
from quran_asr.config.schema import Recipe
from quran_asr.experiments.curves import Curves, curves_of_rows
from quran_asr.experiments.diagnostics import learning_rate, not_learning, progress, validation
from quran_asr.experiments.diagnostics.rules import diagnose

Numbers = Sequence[float | None]


def curves(
    recipe: Recipe | None = None,
    *,
    every: int = 10,
    validated: int = 100,
    epochs: float | None = None,
    **series: Numbers,
) -> Curves:
    """Series `t_KEY` of training, a value every so many steps, and `v_KEY` of validation.

    Args:
        epochs: until the last validation; None: not known.
    """
    rows: list[dict[str, Any]] = []
    for name, numbers in series.items():
        split, _, key = name.partition("_")
        gap = every if split == "t" else validated
        for at, value in enumerate(numbers, start=1):
            row: dict[str, Any] = {"step": gap * at, "split": "train" if split == "t" else "validation"}
            if epochs is not None:
                row["epoch"] = epochs * at / len(numbers) - 1
            rows.append(row | {key: value})
    rows.sort(key=lambda row: row["step"])
    return curves_of_rows(rows, "made", "made", recipe)


@dataclass(frozen=True)
class Case:
    """A diagnosis that is not made of one curve and is made of the other."""

    name: str
    code: str
    make: Callable[[float], Curves]
    silent: float
    seen: float
    severity: str = ""
    """The diagnosis counts with this severity only."""

    def verdicts(self) -> tuple[bool, bool]:
        return self._sees(self.silent), self._sees(self.seen)

    def _sees(self, value: float) -> bool:
        return any(
            diagnosis.code == self.code and self.severity in ("", diagnosis.severity)
            for diagnosis in diagnose(self.make(value))
        )


def rising(first: float, best: float, now: float, lines: int = 40) -> list[float | None]:
    """Falls to its best within 3 lines, stays for half, and has risen for good."""
    return [first] * 3 + [best] * (lines // 2) + [now] * (lines - lines // 2 - 3)


def swinging(high: float) -> list[float | None]:
    """Falls from 10 to 1, stays, and is thrown up at every fourth line of the last twenty."""
    return [10.0] * 5 + [1.0] * 35 + [1.0, high, 1.0, 1.0] * 5


def start(early: float, late: float, until: int = 1000) -> list[float | None]:
    """CTC a token every 10 steps: `early` until step 300, `late` behind it."""
    return [early if step <= 300 else late for step in range(10, until + 1, 10)]


def windowed() -> list[float | None]:
    """The mean of steps 201 to 300 is 4.88; over a longer or shorter window it is at most 4.59."""
    spans = ((150, 9.0), (200, 4.0), (230, 6.0), (1000, 4.4))
    return [next(value for end, value in spans if step <= end) for step in range(10, 1001, 10)]


SCRATCH = load_recipe("scratch", ["trainer.max_epochs=100"])
TRANSFER = load_recipe("transfer")
FLAT = [10.0] * 40


def stuck(count: int = 6, wer: float = 1.0, recipe: Recipe | None = SCRATCH, **options: Any) -> Curves:
    """A WER that stays where it is, by step 4,000 and epoch 12."""
    options = {"every": 100, "validated": 4000 // count, "epochs": 12.0, "t_loss": FLAT} | options
    return curves(recipe, v_wer=[wer] * count, **options)


def falls(lines: int = 40) -> list[float | None]:
    """A loss that falls to the end."""
    return [50.0 * 0.95**at for at in range(lines)]


def shares(value: float) -> list[float | None]:
    return [value] * 60


def rising_spans() -> list[float | None]:
    return [mean for mean in (4.0, 3.4, 3.2, 3.4, 3.6, 3.8) for _ in range(30)]


def unsure(swing: float) -> list[float | None]:
    """Falls and rises again by 0.25, a value every 300 steps, that swings from one to the next."""
    smooth = (4.0, 3.5, 3.4, 3.3, 3.2, 3.25, 3.3, 3.35, 3.4, 3.45)
    return [value + swing / 2 * (-1) ** at for at, value in enumerate(smooth)]


def fell(low: float = 3.2, back: float = 3.36, first: float = 3.5) -> list[float | None]:
    """CTC a token in spans of 300 steps, the first of which is not looked at."""
    means = [4.0, first, (first + low) / 2, low, (low + back) / 2, back, back]
    return [mean for mean in means for _ in range(30)]


def losses(rise: float = 1.0, late: float = 0.1) -> Curves:
    """A validation loss that falls to 1 and rises; one of training that goes from 1 to `late` meanwhile."""
    return curves(
        every=100,
        v_loss=[3.0, 2.0, 1.5, *[1.0] * 7, *[1.0 + rise] * 12],
        t_loss=[5.0, 3.0, *[1.0] * 6, *[late] * 14],
    )


def best_only(known: int, behind: int) -> Curves:
    """A text log with the WER of the first validations; the others were not among the best."""
    return curves(
        v_wer=[0.9 * 0.9**at for at in range(known)], v_wer_not_in_top=[*[None] * known, *[3.0] * behind]
    )


CASES = [
    # learning_rate.py
    Case("lines", "divergence", lambda n: curves(t_loss=rising(10, 1, 8, int(n))), 19, 20),
    Case("rise", "divergence", lambda now: curves(t_loss=rising(12, 4, now)), 5.8, 6.2),
    Case("share lost", "divergence", lambda now: curves(t_loss=rising(21, 1, now)), 3.2, 3.6),
    Case("swing", "divergence", lambda high: curves(t_loss=swinging(high)), 3.9, 4.1),
    Case(
        "not a number",
        "not-a-number",
        lambda n: curves(t_loss=[*[5.0] * 30, *[None] * int(n), *[5.0] * 30]),
        2,
        3,
        "error",
    ),
    # not_learning.py: starts
    Case(
        "window of step 300",
        "stalled-start",
        lambda x: curves(t_ctc_per_token=windowed() if x else start(5, 5)),
        1,
        0,
    ),
    Case("step 1,000", "stalled-start", lambda n: curves(t_ctc_per_token=start(5, 5, int(n))), 990, 1000),
    Case("stall", "stalled-start", lambda late: curves(t_ctc_per_token=start(5, late)), 4.7, 4.8),
    Case("learned", "stalled-start", lambda x: curves(t_ctc_per_token=start(x, x)), 1.9, 2.1),
    Case(
        "on the plateau",
        "stalled-start",
        lambda x: curves(t_ctc_per_token=start(x, x), t_token_entropy=[4.0] * 100),
        3.3,
        3.5,
    ),
    Case("fell back", "fell-back", lambda back: curves(t_ctc_per_token=fell(back=back)), 3.30, 3.34),
    Case(
        "spans",
        "fell-back",
        lambda n: curves(every=300, t_ctc_per_token=[4.0, 3.4, 3.2, 3.4, 3.6, 3.8][: int(n)]),
        5,
        6,
    ),
    Case(
        "length of a span", "fell-back", lambda n: curves(t_ctc_per_token=rising_spans()[: int(n)]), 150, 180
    ),
    Case(
        "sure to have risen",
        "fell-back",
        lambda swing: curves(every=300, t_ctc_per_token=unsure(swing)),
        0.1,
        0.09,
    ),
    # not_learning.py: WER
    Case(
        "stuck",
        "stuck-wer",
        lambda x: curves(
            SCRATCH, every=100, validated=600, epochs=12.0, t_loss=FLAT, v_wer=[1.3, 1.25, 1.2, 1.1, 1.0, x]
        ),
        0.94,
        0.96,
    ),
    Case("hardly any", "stuck-wer", lambda x: stuck(10, x), 0.78, 0.82),
    Case("hardly any is not a plateau", "plateau", lambda x: stuck(10, x), 0.82, 0.78),
    Case(
        "stands still",
        "stuck-wer",
        lambda x: curves(
            SCRATCH, every=100, validated=400, epochs=12.0, t_loss=FLAT, v_wer=[0.94] * 8 + [x] * 4
        ),
        0.89,
        0.92,
    ),
    Case("steps", "stuck-wer", lambda n: stuck(validated=int(n) // 6, every=10), 990, 1020),
    Case("validations", "stuck-wer", lambda n: stuck(int(n)), 3, 4),
    Case("epochs, pretrained", "stuck-nothing-loaded", lambda n: stuck(recipe=TRANSFER, epochs=n), 4, 6),
    Case("epochs, random", "stuck-wer", lambda n: stuck(epochs=n), 9, 11),
    Case(
        "epochs, falling",
        "stuck-wer",
        lambda n: stuck(validated=400, every=60, epochs=n, t_loss=falls()),
        28,
        31,
    ),
    Case(
        "long epochs, falling",
        "stuck-wer",
        lambda n: stuck(validated=600, every=90, epochs=n, t_loss=falls()),
        14,
        16,
    ),
    Case(
        "length of an epoch",
        "stuck-wer",
        lambda n: stuck(validated=int(n) // 6, every=50, epochs=20.0, t_loss=falls()),
        2900,
        3100,
    ),
    Case(
        "steps without epochs",
        "stuck-wer",
        lambda n: stuck(recipe=None, validated=int(n) // 6, epochs=None),
        4900,
        5100,
    ),
    Case(
        "validations, falling",
        "stuck-wer",
        lambda n: stuck(int(n), validated=1500, every=100, epochs=40.0, t_loss=falls()),
        4,
        5,
    ),
    Case("hardly anything", "stuck-blank-collapse", lambda x: stuck(v_length_ratio=[x] * 6), 0.17, 0.13),
    Case("blank", "stuck-blank-collapse", lambda x: stuck(v_blank_share=[x] * 6), 0.96, 0.98),
    Case("many words", "stuck-token-loops", lambda x: stuck(v_length_ratio=[x] * 6), 1.7, 1.9),
    Case("repeats", "stuck-token-loops", lambda x: stuck(v_repeat_share=[x] * 6), 0.28, 0.32),
    Case(
        "losses apart",
        "stuck-ignores-audio",
        lambda x: stuck(t_transducer_loss=[x] * 40, t_ctc_loss=[60.0] * 40),
        6.5,
        5.5,
    ),
    # progress.py
    Case("waiting", "data-wait", lambda x: curves(t_data_wait_share=shares(x)), 0.19, 0.21),
    Case("lines of waiting", "data-wait", lambda n: curves(t_data_wait_share=shares(0.5)[: int(n)]), 9, 10),
    # validation.py
    Case(
        "far below",
        "overfitting",
        lambda x: curves(v_wer=[0.5, *[0.2] * 8, *[0.25] * 8], v_train_wer=[x * 0.25] * 17),
        0.62,
        0.58,
    ),
    Case("loss risen", "overfitting", lambda x: losses(rise=x), 0.13, 0.17),
    Case("training falls", "overfitting", lambda x: losses(late=x), 0.97, 0.92),
    Case("behind the best", "no-improvement", lambda n: best_only(3, int(n)), 3, 4),
    Case("many behind", "wer-falls", lambda n: best_only(12, int(n)), 3, 2),
    Case("good", "plateau", lambda x: curves(v_wer=[0.5, 0.3, *[x] * 12]), 0.14, 0.16),
]


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_just_below_there_is_no_diagnosis_and_just_above_there_is(case: Case) -> None:
    assert case.verdicts() == (False, True)


MODULES = (learning_rate, not_learning, progress, validation)


def thresholds() -> dict[str, float]:
    """Numbers that the rules name."""
    return {
        name: value
        for module in MODULES
        for name, value in vars(module).items()
        if name.lstrip("_").isupper() and isinstance(value, int | float)
    }


def test_the_rules_name_their_thresholds() -> None:
    assert {"RISE", "SHARE_LOST", "SWING", "WAITING", "ON_PLATEAU", "STALL_FALL"} <= set(thresholds())


@pytest.mark.parametrize("factor", [1.5, 1 / 1.5], ids=["raised", "lowered"])
@pytest.mark.parametrize("name", sorted(thresholds()))
def test_a_threshold_that_moves_is_noticed(name: str, factor: float, monkeypatch: pytest.MonkeyPatch) -> None:
    moved = thresholds()[name] * factor
    moved = round(moved) if isinstance(thresholds()[name], int) else moved
    for module in _with(name):
        monkeypatch.setattr(module, name, moved)
    assert any(case.verdicts() != (False, True) for case in CASES), f"no curve guards {name}"


def _with(name: str) -> list[ModuleType]:
    return [module for module in MODULES if hasattr(module, name)]
