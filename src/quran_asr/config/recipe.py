"""Recipes: find one, merge it over its base, apply overrides, and return typed values.

load_recipe("transfer", ["trainer.devices=1"]).model.optim.lr
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from quran_asr.config.overrides import apply_override, merge, parse_override
from quran_asr.config.references import resolve_references
from quran_asr.config.schema import Recipe
from quran_asr.config.validation import build, place_of
from quran_asr.config.yaml_document import Leaf, Section, copied, read_document
from quran_asr.errors import QuranAsrError

SHIPPED = (
    *("base", "transfer", "recommended", "scratch", "before"),
    *("large", "low-memory", "small", "quickstart", "laptop", "compact"),
)
"""The recipes of this package, in the order in which they are listed."""

_FOLDER = Path(__file__).parent.parent / "recipes"
_PLAIN_TEXT = re.compile(r"[A-Za-z_./][\w./-]*")
_NOT_TEXT = {"null", "true", "false", "yes", "no", "on", "off", "y", "n"}
LONGEST_NAME = 100
"""Of a run: its files have it in their names."""

MOST_BASES = 16
"""Recipes laid over each other."""


class RecipeError(QuranAsrError):
    """All mistakes of a recipe at once. `mistakes` holds each as an error of its own."""

    def __init__(self, mistakes: Sequence[QuranAsrError]) -> None:
        first = mistakes[0]
        super().__init__(first.what, where=first.where, remedy=first.remedy)
        self.mistakes = tuple(mistakes)

    def __str__(self) -> str:
        return "\nerror: ".join(QuranAsrError.__str__(mistake) for mistake in self.mistakes)


@dataclass(frozen=True, slots=True)
class Resolved:
    """A recipe and where each of its values was written."""

    recipe: Recipe
    origin: dict[str, str]
    """Dotted key -> `file:line` or `command line`."""


def load_recipe(name_or_path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Load a shipped recipe by name, or one from a file, with overrides as in Hydra.

    Raises:
        RecipeError: every mistake of the file, its bases and the overrides, each with its place.
    """
    return resolve(name_or_path, overrides).recipe


def resolve(name_or_path: str | Path, overrides: Sequence[str] = ()) -> Resolved:
    """As `load_recipe`, with the origin of each value.

    Raises:
        RecipeError: every mistake of the file, its bases and the overrides, each with its place.
    """
    mistakes: list[QuranAsrError] = []
    shown = _shown_name(name_or_path)
    root = _with_bases(name_or_path)
    for word in overrides:
        try:
            apply_override(root, parse_override(word))
        except QuranAsrError as mistake:
            mistakes.append(mistake)
    resolve_references(root, mistakes)
    recipe, unfit = build(root, f"recipe `{shown}`")
    mistakes += unfit
    if recipe is not None:
        for keys, what, remedy in disagreements(recipe):
            where = _where_set(root, keys, shown)
            mistakes.append(QuranAsrError(what, where=where, remedy=remedy))
    if mistakes or recipe is None:
        raise RecipeError(mistakes)
    trainer = recipe.trainer
    if trainer.check_val_every_n_epoch == "auto" and isinstance(trainer.val_check_interval, int):
        # A number of batches sets how often; an epoch may have fewer.
        recipe = replace(recipe, trainer=replace(trainer, check_val_every_n_epoch=None))
    return Resolved(recipe, {key: leaf.place.origin for key, leaf in leaves(root)})


def _where_set(root: Section, keys: Sequence[str], shown: str) -> str:
    """Of the places that set values which disagree, the one to change: an override, then the recipe named."""
    places = [place for key in keys if (place := place_of(root, key)) is not None]
    for place in places:
        if not place.line:
            return str(place)
    for place in places:
        if place.file == shown:
            return str(place)
    return str(places[0]) if places else f"recipe `{shown}`"


def as_plain(recipe: Recipe) -> dict[str, Any]:
    """The recipe as nested dicts, lists and plain values, as `recipe show --json` prints it."""
    plain: dict[str, Any] = _lists(asdict(recipe))
    return plain


def as_yaml(recipe: Recipe, origin: dict[str, str] | None = None) -> str:
    """The recipe as a YAML text that `load_recipe` reads back to the same recipe.

    Args:
        recipe: what to write.
        origin: with this, each line ends in a comment with the origin of its value.
    """
    return "".join(_yaml_lines(as_plain(recipe), "", origin))


def _yaml_lines(values: dict[str, Any], prefix: str, origin: dict[str, str] | None) -> Iterator[str]:
    indent = "  " * prefix.count(".")
    for name, value in values.items():
        key = prefix + name
        if isinstance(value, dict):
            yield f"{indent}{name}:\n"
            yield from _yaml_lines(value, f"{key}.", origin)
            continue
        comment = f"  # {origin[key]}" if origin and key in origin else ""
        yield f"{indent}{name}: {as_scalar(value)}{comment}\n"


def as_scalar(value: Any) -> str:
    """A value in YAML, on one line."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return f"[{', '.join(map(as_scalar, value))}]"
    if isinstance(value, float):  # 1e-05 is text to YAML 1.1, 1.0e-05 is a number to everybody
        return re.sub(r"^(-?\d+)e", r"\1.0e", repr(value))
    if isinstance(value, int) or (_PLAIN_TEXT.fullmatch(value) and value.lower() not in _NOT_TEXT):
        return str(value)
    return re.sub(
        r"[^\x20-\x7e\xa0-\u2027\u2030-\ud7ff\ue000-\ufefe\uff00-\ufffd]",
        lambda found: f"\\U{ord(found.group()):08x}",
        json.dumps(value, ensure_ascii=False),
    )


def leaves(section: Section, prefix: str = "") -> Iterator[tuple[str, Leaf]]:
    """Every value of a tree with its dotted key."""
    for name, item in section.items.items():
        if isinstance(item, Leaf):
            yield prefix + name, item
        else:
            yield from leaves(item, f"{prefix}{name}.")


def _lists(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _lists(item) for key, item in value.items()}
    return [_lists(item) for item in value] if isinstance(value, tuple) else value


# Files and their bases


def find(name_or_path: str | Path, beside: Path | None = None) -> tuple[Path, str]:
    """The file of a recipe, and how messages call it.

    A name without slash or ending is a shipped recipe; anything else a path, looked for beside the recipe
    that names it as its base.

    Raises:
        QuranAsrError: no such recipe; the nearest name is in the hint.
    """
    name = str(name_or_path)
    if name in SHIPPED:
        return _FOLDER / f"{name}.yaml", f"{name}.yaml"
    path = Path(name) if beside is None else beside / name
    is_folder, is_file = _looked_at(path)
    if is_folder:
        raise QuranAsrError(f"`{name}` is a folder, not a recipe", remedy="name a .yaml file")
    if not is_file:
        import difflib

        near = difflib.get_close_matches(name, SHIPPED, n=1)
        hint = f"did you mean `{near[0]}`?" if near else "`quran-asr recipe list` names the shipped ones"
        raise QuranAsrError(f"no recipe `{name[:200]}`", remedy=hint)
    if _is_manifest(path):
        raise QuranAsrError(f"`{name}` is a manifest, not a recipe", remedy=f"--train {name}")
    return path, str(path)


def _looked_at(path: Path) -> tuple[bool, bool]:
    """Whether a path is a folder, and a file; what no file system can name is neither."""
    try:
        return path.is_dir(), path.is_file()
    except (OSError, ValueError):
        return False, False


def _is_manifest(path: Path) -> bool:
    """Whether a file begins with a line of a manifest: no recipe has that key."""
    with path.open("rb") as file:
        return b'"audio_filepath"' in file.read(10_000)


def _shown_name(name_or_path: str | Path) -> str:
    return find(name_or_path)[1]


def _with_bases(name_or_path: str | Path) -> Section:
    """The tree of a recipe laid over the tree of its base, and so on down."""
    documents: list[Section] = []
    seen: list[Path] = []
    path, shown = find(name_or_path)
    while True:
        if path.resolve() in seen:
            raise QuranAsrError(
                "is its own base",
                where=f"recipe `{shown}`",
                remedy="name another recipe under `base`, for example base: base",
            )
        if len(seen) == MOST_BASES:
            raise QuranAsrError(
                f"has more than {MOST_BASES} bases",
                where=f"recipe `{shown}`",
                remedy="merge some of these recipes into one file",
            )
        seen.append(path.resolve())
        document = copied(_shipped(path, shown)) if path.parent == _FOLDER else read_document(path, shown)
        base = document.items.pop("base", None)
        documents.append(document)
        if base is None:
            break
        if not isinstance(base, Leaf) or not isinstance(base.value, str):
            raise QuranAsrError("`base` names one recipe", where=str(base.place), remedy="base: base")
        try:
            path, shown = find(base.value, beside=path.parent)
        except QuranAsrError as error:
            raise QuranAsrError(error.what, where=str(base.place), remedy=error.remedy) from None
    root = documents.pop()
    for document in reversed(documents):
        merge(root, document)
    return root


@cache
def _shipped(path: Path, shown: str) -> Section:
    return read_document(path, shown)


# Values that are fine alone and wrong together


def disagreements(recipe: Recipe) -> Iterator[tuple[tuple[str, ...], str, str]]:
    """Values that cannot go together, as (their keys, what is wrong, what to do)."""
    encoder, data, trainer = recipe.model.encoder, recipe.model.train_ds, recipe.trainer
    if re.search(r"[/\\\s\x00-\x1f\x7f]|^\.|--|^$", recipe.name) or len(recipe.name) > LONGEST_NAME:
        yield ("name",), f"name `{recipe.name[:60]}` cannot name files", "use letters, digits, single - and _"
    if encoder.d_model % encoder.n_heads:
        yield (
            ("model.encoder.n_heads", "model.encoder.d_model"),
            f"`model.encoder.n_heads` {encoder.n_heads} does not divide d_model {encoder.d_model}",
            "choose a number of heads that does",
        )
    yield from _context_faults(recipe)
    if data.min_duration >= data.max_duration:
        yield (
            ("model.train_ds.min_duration", "model.train_ds.max_duration"),
            f"`model.train_ds.min_duration` {data.min_duration:g} is not below max_duration "
            f"{data.max_duration:g}",
            "no clip would be left",
        )
    if trainer.max_epochs == -1 and trainer.max_steps == -1:
        yield (
            ("trainer.max_epochs", "trainer.max_steps"),
            "training would never end: `trainer.max_epochs` and `trainer.max_steps` are both -1",
            "give one of them a number",
        )
    for key, limit in (("max_epochs", trainer.max_epochs), ("max_steps", trainer.max_steps)):
        if limit == 0:
            yield (
                (f"trainer.{key}",),
                f"`trainer.{key}` is 0: nothing would be trained",
                "use -1 for no limit",
            )
    if trainer.check_val_every_n_epoch is None and isinstance(trainer.val_check_interval, float):
        yield (
            ("trainer.val_check_interval", "trainer.check_val_every_n_epoch"),
            "`trainer.val_check_interval` must be a number of batches where check_val_every_n_epoch is null",
            "write a whole number, for example 500",
        )
    sched = recipe.model.optim.sched
    if (sched.name == "PolynomialHoldDecayAnnealing") != (sched.hold_ratio is not None):
        yield (
            ("model.optim.sched.hold_ratio", "model.optim.sched.name"),
            f"`model.optim.sched.hold_ratio` is {sched.hold_ratio}, but the schedule is {sched.name}",
            "model.optim.sched.hold_ratio=" + ("0.6" if sched.hold_ratio is None else "null"),
        )
    if sched.min_lr > recipe.model.optim.lr:
        yield (
            ("model.optim.sched.min_lr", "model.optim.lr"),
            f"`model.optim.sched.min_lr` {sched.min_lr:g} is above `model.optim.lr` "
            f"{recipe.model.optim.lr:g}",
            "lower it, or raise model.optim.lr",
        )
    window = round(recipe.model.preprocessor.window_size * recipe.model.sample_rate)
    if recipe.model.preprocessor.n_fft < window:
        yield (
            ("model.preprocessor.n_fft", "model.preprocessor.window_size", "model.sample_rate"),
            f"`model.preprocessor.n_fft` {recipe.model.preprocessor.n_fft} is shorter than the window",
            f"use at least {window}",
        )
    masks = recipe.model.spec_augment
    if recipe.quran.consistency and not (masks.time_masks or masks.freq_masks):
        yield (
            ("quran.consistency", "model.spec_augment.time_masks", "model.spec_augment.freq_masks"),
            f"`quran.consistency` is {recipe.quran.consistency:g}, but without masks both views are the same",
            "set `model.spec_augment.time_masks`, for example to 5",
        )
    yield from _start_faults(recipe)
    for name in ("lowpass_hz", "noise_snr_db", "room_seconds"):
        low, high = getattr(recipe.quran.augment, name, (0, 0))
        if low > high:
            yield (
                (f"quran.augment.{name}",),
                f"`quran.augment.{name}`: lower bound exceeds upper bound",
                "write [low, high]",
            )


def _start_faults(recipe: Recipe) -> Iterator[tuple[tuple[str, ...], str, str]]:
    quran = recipe.quran
    random_start = recipe.init_from_pretrained_model is None
    if random_start and recipe.exp_manager.resume_from_checkpoint is None:
        for key, value, off in (
            ("quran.unfreeze_after", quran.unfreeze_after, 0),
            ("quran.copied_rate", quran.copied_rate, 1.0),
        ):
            if value != off:
                what = f"`{key}` is {value:g}, but a random start copies nothing"
                yield (key, "init_from_pretrained_model"), what, f"{key}={off:g}"
    kept = recipe.exp_manager.checkpoint_callback_params.save_top_k
    if quran.average == 1 or quran.average > kept:
        what = "of one is not a mean" if quran.average == 1 else f"but `save_top_k` keeps {kept}"
        keys = ("quran.average", "exp_manager.checkpoint_callback_params.save_top_k")
        yield keys, f"`quran.average` is {quran.average}, {what}", "use 0, or from 2 to save_top_k"


def _context_faults(recipe: Recipe) -> Iterator[tuple[tuple[str, ...], str, str]]:
    encoder = recipe.model.encoder
    key = "model.encoder.att_context_size"
    possible = [list(_possible(left, right)) for left, right in encoder.att_context_size]
    fixed = f"{key}={possible}".replace(" ", "")
    for left, right in encoder.att_context_size:
        if right < 0 or left < 0:
            yield (
                (key,),
                f"`{key}` [{left}, {right}]: a stream has no unlimited context",
                f"use numbers from 0: {fixed}",
            )
        elif left % (right + 1):
            yield (
                (key,),
                f"`{key}` [{left}, {right}] cannot be: chunks have {right} + 1 frames, and "
                f"{left} is not a multiple of {right} + 1",
                fixed,
            )
    probs = encoder.att_context_probs
    if probs is not None and (len(probs) != len(encoder.att_context_size) or abs(sum(probs) - 1.0) > 1e-6):
        yield (
            ("model.encoder.att_context_probs", key),
            f"`model.encoder.att_context_probs` must be {len(encoder.att_context_size)} shares that sum to "
            f"1, not {len(probs)} that sum to {sum(probs):g}",
            "model.encoder.att_context_probs=null for equal shares",
        )


def _possible(left: int, right: int) -> tuple[int, int]:
    """The context next to this one that a stream can have; the widest of `base` for one without a limit."""
    if left < 0 or right < 0:
        return 70, 13
    return max(1, left // (right + 1)) * (right + 1), right
