"""Which settings may change when a run is resumed, and which are fixed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from quran_asr.config.recipe import as_plain
from quran_asr.config.schema import Recipe
from quran_asr.errors import QuranAsrError

_DATA = "begin a new run for other data: a run's `training_data.json` says what it was trained on"
_WEIGHTS = "begin a new run: other weights are needed (a new run can start from this one's with \
`init_from_pretrained_model=RUN`)"
_BEGUN = "it had its effect when the run began; begin a new run"

FIXED = {
    "name": _BEGUN,
    "init_from_pretrained_model": _BEGUN,
    "model.train_ds.manifest_filepath": _DATA,
    "model.validation_ds.manifest_filepath": _DATA,
    "model.tokenizer": _WEIGHTS,
    "model.preprocessor": _WEIGHTS,
    "model.encoder": _WEIGHTS,
    "model.decoder.prednet": _WEIGHTS,
    "model.joint.jointnet": _WEIGHTS,
    "exp_manager.exp_dir": _BEGUN,
    "quran.spelling": _WEIGHTS,
    "quran.vocabulary_size": _WEIGHTS,
    "quran.initialization": _BEGUN,
    "quran.overfit_gate_steps": _BEGUN,
    "quran.copied_rate": _BEGUN,
    "quran.unfreeze_after": _BEGUN,
}
FREE = ("dropout", "dither", "att_context_probs")
"""Last names of keys under those that change no weight."""


@dataclass(frozen=True, slots=True)
class Change:
    """A key that has another value from now on."""

    key: str
    before: Any
    now: Any

    def __str__(self) -> str:
        return f"{self.key}: {_told(self.before)} -> {_told(self.now)}"


def _told(value: Any) -> str:
    """A section is named by its first key: whole, it would fill the line."""
    if isinstance(value, dict):
        name, first = next(iter(value.items()))
        return f"{{{name}: {first}, ...}}"
    return "null" if value is None else str(value)


def changes(before: Recipe, now: Recipe) -> list[Change]:
    """The keys in which two recipes differ, in the order of the recipe."""
    return list(_differing(as_plain(before), as_plain(now)))


def refuse_impossible(changed: Sequence[Change]) -> None:
    """Stop before a run goes on as something that it is not.

    Raises:
        QuranAsrError: a key that was decided when the run began.
    """
    for change in changed:
        if change.key == "model.joint.jointnet.dropout" and bool(change.before) != bool(change.now):
            raise QuranAsrError(  # NeMo's joint network has one module less without dropout
                f"a resumed run cannot change {change.before} to {change.now}",
                where=change.key,
                remedy="give a small number above 0 for nearly none" if change.before else _WEIGHTS,
            )
        if change.key.rsplit(".", 1)[-1].startswith(FREE):
            continue
        for fixed, why in FIXED.items():
            if change.key == fixed or change.key.startswith(fixed + "."):
                raise QuranAsrError(
                    f"a resumed run keeps {change.before}, not {change.now}", where=change.key, remedy=why
                )


def _differing(before: dict[str, Any], now: dict[str, Any], prefix: str = "") -> Iterator[Change]:
    """A section that only one of both has is one change."""
    for name, value in before.items():
        other = now[name]
        if isinstance(value, dict) and isinstance(other, dict):
            yield from _differing(value, other, f"{prefix}{name}.")
        elif value != other:
            yield Change(prefix + name, value, other)
