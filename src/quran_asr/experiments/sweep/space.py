"""The search space: keys with listed values or a range, parsed from the command line.

`key=a,b,c` lists values, `key=low..high` is a range, `key=low..high:log` one that is even in its logarithm.
Commas inside brackets, braces and quotes belong to a value: `key=[1,2],[3,4]` lists two lists.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, get_args, get_origin

from quran_asr.config.overrides import parse_override
from quran_asr.config.recipe import as_scalar, load_recipe
from quran_asr.config.validation import alternatives, known_keys
from quran_asr.config.yaml_document import Leaf
from quran_asr.errors import QuranAsrError

_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_RANGE = re.compile(rf"({_NUMBER})\.\.({_NUMBER})(:log)?")

_LIKE_A_RANGE = re.compile(rf"(?:{_NUMBER})\.\.[^/]*|[^/]*\.\.(?:{_NUMBER})(?::\w*)?")

OWN = {
    "name": "the sweep finds its trials by it; give your own in the recipe",
    "exp_manager.exp_dir": "the sweep chooses the folders of its trials: --to FOLDER",
    "exp_manager.resume_from_checkpoint": "trials start from the beginning; vary init_from_pretrained_model",
    "quran.spelling": "word error rates in different spellings do not compare",
    "model.train_ds.min_duration": "it changes the clips of validation too: rates would not compare",
    "model.validation_ds": "every trial needs the same clips",
}
"""Keys, and sections, that no sweep can vary."""

MOST_CHECKED = 512
"""Combinations up to which all of them are tried on the recipe before the first trial."""

Value = str | float | int


@dataclass(frozen=True, slots=True)
class ValueList:
    """A key with the values that were listed."""

    key: str
    values: tuple[str, ...]
    """As they were typed."""


@dataclass(frozen=True, slots=True)
class ValueRange:
    """A key whose number lies in a range."""

    key: str
    low: float
    high: float
    log: bool
    """Even in the logarithm."""
    whole: bool
    """Whole numbers only."""


Axis = ValueList | ValueRange


def read_space(words: Sequence[str]) -> tuple[tuple[str, ...], tuple[Axis, ...]]:
    """Part overrides into those for all trials and the axes of the sweep.

    Args:
        words: overrides as typed; one with several values or a range is an axis.

    Raises:
        QuranAsrError: no axis, a key given twice or that cannot be varied, a range of what is not a number.
    """
    fixed: list[str] = []
    axes: list[Axis] = []
    for word in words:
        axis = _axis(word)
        if axis is None:
            fixed.append(word)
        else:
            axes.append(axis)
    if not axes:
        raise QuranAsrError(
            "nothing is varied", remedy="list values, model.aux_ctc.ctc_loss_weight=0.2,0.3, or give a range"
        )
    seen = {parse_override(word).key for word in fixed}
    for key in sorted(seen & {"exp_manager.exp_dir", "exp_manager.resume_from_checkpoint"}):
        raise QuranAsrError("is not for a sweep", where=key, remedy=OWN[key])
    for axis in axes:
        if axis.key in seen:
            raise QuranAsrError("is given twice", where=axis.key, remedy="name each key once")
        seen.add(axis.key)
        for key, why in OWN.items():
            if axis.key == key or axis.key.startswith(f"{key}."):
                raise QuranAsrError("cannot be varied", where=axis.key, remedy=why)
    return tuple(fixed), tuple(axes)


def _axis(word: str) -> Axis | None:
    if word.startswith(("~", "+")):
        return None
    key, _, text = word.partition("=")
    ends = _RANGE.fullmatch(text.strip())
    if ends is not None:
        return _between(key, *ends.groups())
    values = split_values(text)
    if len(values) < 2:
        if _LIKE_A_RANGE.fullmatch(text.strip()):
            raise QuranAsrError(
                "is not a range", where=word, remedy="write LOW..HIGH or LOW..HIGH:log, numbers both"
            )
        return None
    if "" in values:
        raise QuranAsrError("a value is empty", where=word, remedy="write nothing after the last comma")
    if len({_meaning(key, value) for value in values}) < len(values):
        raise QuranAsrError("a value is listed twice", where=word, remedy="list each value once")
    return ValueList(key, tuple(values))


def _meaning(key: str, text: str) -> str:
    """Equal for two ways to write a value, such as 1e-3 and 0.001; what cannot be read is refused later."""
    try:
        value = parse_override(f"{key}={text}").value
    except QuranAsrError:
        return text
    return repr(value.value + 0.0) if isinstance(value, Leaf) and _is_number(value.value) else text


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def split_values(text: str) -> list[str]:
    """Part a text at the commas that stand in no bracket, brace or quotes."""
    parts, depth, quote = [""], 0, ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "\"'":
            quote = letter
        elif letter in "[{":
            depth += 1
        elif letter in "]}":
            depth -= 1
        if letter == "," and not depth and not quote:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts]


def _between(key: str, low: str, high: str, log: str | None) -> ValueRange:
    where = f"{key}={low}..{high}{log or ''}"
    if key not in known_keys():
        load_recipe("base", [f"{key}={low}"])  # raises, with the nearest key
    kinds = set(_plain_kinds(known_keys()[key]))
    whole = int in kinds and all(re.fullmatch(r"[+-]?\d+", end) for end in (low, high))
    if not whole and float not in kinds:
        numbers = "whole numbers: write both ends as such" if int in kinds else "no number: list its values"
        remedy = f"write {key}=LOW..HIGH in whole numbers" if int in kinds else f"write {key}=VALUE,VALUE"
        raise QuranAsrError(f"`{key}` takes {numbers}", where=where, remedy=remedy)
    bottom, top = float(low), float(high)
    if not (math.isfinite(bottom) and math.isfinite(top) and bottom < top):
        raise QuranAsrError("the range is empty", where=where, remedy="write low..high")
    if log and bottom <= 0:
        raise QuranAsrError("a logarithm needs numbers above 0", where=where, remedy="leave out :log")
    return ValueRange(key, bottom, top, bool(log), whole)


def _plain_kinds(kind: Any) -> Iterator[type]:
    for part in alternatives(kind):
        bare = get_args(part)[0] if get_origin(part) is Annotated else part
        if isinstance(bare, type):
            yield bare


def words_of(values: Mapping[str, Value]) -> list[str]:
    """The overrides of one trial."""
    return [f"{key}={value if isinstance(value, str) else as_scalar(value)}" for key, value in values.items()]


def combinations(axes: Sequence[Axis]) -> int | None:
    """How many trials a grid has; None where a range is among the axes."""
    listed = [len(axis.values) for axis in axes if isinstance(axis, ValueList)]
    return math.prod(listed) if len(listed) == len(axes) else None


def grid(axes: Sequence[Axis]) -> Iterator[dict[str, Value]]:
    """Every combination of listed values; the last key changes first. Of a range, both ends."""
    choices: list[Sequence[Value]] = [_corners(axis) for axis in axes]
    for values in itertools.product(*choices):
        yield dict(zip((axis.key for axis in axes), values, strict=True))


def _corners(axis: Axis) -> Sequence[Value]:
    if isinstance(axis, ValueList):
        return axis.values
    return (int(axis.low), int(axis.high)) if axis.whole else (axis.low, axis.high)


def refuse_impossible(recipe: str, overrides: Sequence[str], axes: Sequence[Axis]) -> None:
    """Load the recipe with every value, and with every combination if there are not too many.

    Raises:
        QuranAsrError: the recipe loader's own, for the first that is not a recipe.
    """
    load_recipe(recipe, overrides)
    first = {axis.key: _corners(axis)[0] for axis in axes}
    for axis in axes:
        for value in _corners(axis):
            load_recipe(recipe, [*overrides, *words_of(first | {axis.key: value})])
    if math.prod(len(_corners(axis)) for axis in axes) <= MOST_CHECKED:
        for values in grid(axes):
            load_recipe(recipe, [*overrides, *words_of(values)])
