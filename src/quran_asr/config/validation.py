"""From a tree of values to the records of `config/schema.py`: types, ranges and choices are checked.

All mistakes are collected, so that one run names them all.
"""

from __future__ import annotations

import difflib
import math
import types
from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from quran_asr.config.known_keys import instead_of
from quran_asr.config.schema import Range, Recipe
from quran_asr.config.yaml_document import Leaf, Place, Section
from quran_asr.errors import QuranAsrError

_KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


@cache
def hints(record: type) -> dict[str, Any]:
    """Field names and types of a record."""
    named = get_type_hints(record, include_extras=True)
    return {field.name: named[field.name] for field in fields(record)}


@cache
def known_keys() -> dict[str, Any]:
    """Every dotted key of a recipe, sections too, with its type."""
    return dict(_walk(Recipe, ""))


@cache
def optional_keys() -> frozenset[str]:
    """The dotted keys that have a default, so that a recipe need not hold them."""
    return frozenset(_walk_optional(Recipe, ""))


def _walk_optional(record: type, prefix: str) -> Iterator[str]:
    yield from (prefix + name for name in _optional(record))
    for name, kind in hints(record).items():
        inner = record_of(kind)
        if inner is not None:
            yield from _walk_optional(inner, f"{prefix}{name}.")


def _optional(record: type) -> set[str]:
    return {field.name for field in fields(record) if field.default is not MISSING}


def _walk(record: type, prefix: str) -> Iterator[tuple[str, Any]]:
    for name, kind in hints(record).items():
        yield prefix + name, kind
        inner = record_of(kind)
        if inner is not None:
            yield from _walk(inner, f"{prefix}{name}.")


def record_of(kind: Any) -> type | None:
    """The record that a key holds, or None if it holds a value."""
    for part in alternatives(kind):
        if isinstance(part, type) and is_dataclass(part):
            return part
    return None


def unknown(key: str) -> tuple[str, str]:
    """Message and hint for a key that no recipe has."""
    advice = instead_of(key)
    if advice is not None:
        return f"`{key}` is NeMo's, but nothing here acts on it", advice
    near = difflib.get_close_matches(key, known_keys(), n=1, cutoff=0.6)
    last = key.rpartition(".")[2]
    if not near:  # the right word in the wrong section
        near = [known for known in known_keys() if known.rpartition(".")[2] == last][:1]
    hint = f"did you mean `{near[0]}`?" if near else "`quran-asr recipe show base` lists every key"
    return f"unknown key `{key}`", hint


def build(root: Section, where: str) -> tuple[Recipe | None, list[QuranAsrError]]:
    """Make the recipe.

    Args:
        root: the merged tree, references already resolved.
        where: the place to name for keys that are missing altogether.

    Returns:
        The recipe and no mistakes, or None and all of them.
    """
    mistakes: list[QuranAsrError] = []
    missing: list[str] = []
    recipe = _record(Recipe, root, "", mistakes, missing)
    if missing:
        some = ", ".join(f"`{key}`" for key in missing[:3]) + (", ..." if len(missing) > 3 else "")
        what = f"{len(missing)} keys have no value: {some}" if len(missing) > 1 else f"{some} has no value"
        mistakes.append(
            QuranAsrError(what, where=where, remedy="begin the file with `base: base`, or give them values")
        )
    return (recipe if not mistakes else None), mistakes


def _record(
    record: type, section: Section, prefix: str, mistakes: list[QuranAsrError], missing: list[str]
) -> Any:
    known = hints(record)
    optional = _optional(record)
    for name, extra in section.items.items():
        if name not in known:
            message, hint = unknown(prefix + name)
            mistakes.append(QuranAsrError(message, where=str(extra.place), remedy=hint))
    values: dict[str, Any] = {}
    for name, kind in known.items():
        key = prefix + name
        item = section.items.get(name)
        inner = record_of(kind)
        if item is None:
            if name not in optional:
                missing.append(key)
        elif inner is not None and isinstance(item, Section):
            lacking = [] if type(None) in alternatives(kind) else missing
            values[name] = _record(inner, item, f"{key}.", mistakes, lacking)
            if lacking and lacking is not missing:
                names = ", ".join(f"`{lack.rpartition('.')[2]}`" for lack in lacking)
                what = f"`{key}` lacks {names}"
                hint = f"give all of it, or turn it off: {key}=null"
                mistakes.append(QuranAsrError(what, where=str(item.place), remedy=hint))
        else:
            try:
                values[name] = _value(kind, item, key)
            except _InvalidValue as error:
                remedy = error.hint or "`quran-asr recipe show base` prints its default"
                mistakes.append(QuranAsrError(f"`{key}` {error}", where=str(item.place), remedy=remedy))
    return record(**values) if values.keys() | optional == known.keys() else None


class _InvalidValue(Exception):  # noqa: N818 - a sentence's end, caught here and made an error
    """A value that does not fit; the text ends the sentence that begins with the key."""

    def __init__(self, message: str, hint: str = "", *, is_of_type: bool = False) -> None:
        """`is_of_type`: the value is of another type altogether."""
        super().__init__(message)
        self.hint = hint
        self.is_of_type = is_of_type


def _value(kind: Any, item: Section | Leaf, key: str) -> Any:
    if isinstance(item, Section):
        raise _InvalidValue("holds one value, not a section of keys")
    inner = record_of(kind)
    if inner is not None and item.value is not None:
        raise _InvalidValue(f"is a section with the keys {', '.join(hints(inner))}, not one value")
    return fit(kind, item.value, item.written, key)


def fit(kind: Any, value: Any, written: str | None, key: str) -> Any:
    """Bring one value to the type that its key wants.

    Raises:
        _Unfit: it is of another type, outside the range, or none of the choices.
    """
    parts = alternatives(kind)
    if value is None:
        if type(None) in parts:
            return None
        raise _InvalidValue("must not be empty", "give it a value")
    if isinstance(value, list) and key == "model.encoder.att_context_size" and _is_pair(value):
        value = [value]  # NeMo's way to write one look-ahead
    errors: list[_InvalidValue] = []
    for part in parts:
        if part is type(None):
            continue
        try:
            return _fit_one(part, value, written, key)
        except _InvalidValue as error:
            errors.append(error)
    # Of `a whole number or a share`, name the fault of the alternative that was meant.
    meant = [error for error in errors if not error.is_of_type]
    if meant or len(errors) == 1:
        raise (meant or errors)[0]
    kinds = " or ".join(dict.fromkeys(_kind_name(part) for part in parts))
    raise _InvalidValue(f"must be {kinds}, not {_shown(value)}")


def _fit_one(kind: Any, value: Any, written: str | None, key: str) -> Any:
    if get_origin(kind) is Annotated:
        base, *rules = get_args(kind)
        number = _fit_one(base, value, written, key)
        for rule in rules:
            if isinstance(rule, Range) and (fault := rule.fault(number)):
                raise _InvalidValue(f"{fault}, not {_shown(value)}")
        return number
    if get_origin(kind) is Literal:
        return _choose(get_args(kind), value, key)
    if get_origin(kind) is tuple:
        return _fit_list(get_args(kind), value, key)
    if kind is str and isinstance(value, bool | int | float) and written is not None:
        return written
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is kind:
        return value
    quoted = kind in (int, float, bool) and isinstance(value, str) and _looks_like(kind, value)
    hint = "write it without quotes" if quoted else ""
    raise _InvalidValue(f"must be {_KINDS[kind]}, not {_shown(value)}", hint, is_of_type=True)


def _choose(choices: tuple[Any, ...], value: Any, key: str) -> Any:
    for choice in choices:
        if value == choice and type(value) is type(choice):
            return choice
    if key == "trainer.precision":
        if value in ("32", "32-true"):
            return 32
        if str(value) in ("16", "16.0", "16-mixed", "16-true", "fp16", "float16"):
            raise _InvalidValue(
                f"cannot be {_shown(value)}: activations of this encoder pass the largest fp16 number, "
                "65,504, so the transducer loss is not finite",
                "trainer.precision=bf16-mixed, or trainer.precision=32 where the device has no bf16",
            )
        if value in ("bf16", "bf16-true"):
            raise _InvalidValue(f"must be bf16-mixed or 32, not {_shown(value)}", "use bf16-mixed")
    names = [str(choice) for choice in choices]
    listed = names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"
    near = difflib.get_close_matches(str(value), names, n=1)
    raise _InvalidValue(
        f"must be {listed}, not {_shown(value)}", f"did you mean `{near[0]}`?" if near else ""
    )


def _fit_list(parts: tuple[Any, ...], value: Any, key: str) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise _InvalidValue(f"must be a list, not {_shown(value)}", is_of_type=True)
    if not parts:  # the empty list, where it is one of the alternatives
        if value:
            raise _InvalidValue(f"must be an empty list, not {_shown(value)}", is_of_type=True)
        return ()
    if parts[-1] is Ellipsis:
        if not value:
            raise _InvalidValue("must not be an empty list")
        return tuple(fit(parts[0], item, None, "") for item in value)
    if len(value) != len(parts):
        raise _InvalidValue(f"must be a list of {len(parts)}, not {_shown(value)}")
    return tuple(fit(part, item, None, "") for part, item in zip(parts, value, strict=True))


def alternatives(kind: Any) -> tuple[Any, ...]:
    """The types that a key may have: of `float | None` both."""
    return get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)


def _is_pair(value: list[Any]) -> bool:
    return len(value) == 2 and all(type(item) is int for item in value)


def _kind_name(kind: Any) -> str:
    if get_origin(kind) is Annotated:
        return _kind_name(get_args(kind)[0])
    if get_origin(kind) is tuple:
        return "a list"
    return "null" if kind is type(None) else _KINDS.get(kind, str(kind))


def _looks_like(kind: Any, value: str) -> bool:
    """Whether text would be a value of this type without its quotes."""
    if kind is bool:
        return value.lower() in ("true", "false")
    try:
        return value.isascii() and math.isfinite(kind(value))
    except (ValueError, OverflowError):
        return False


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    text = f"`{value}`" if isinstance(value, str) else str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def place_of(section: Section, key: str) -> Place | None:
    """Where a dotted key of the tree was written."""
    node: Section | Leaf = section
    for name in key.split("."):
        if not isinstance(node, Section) or name not in node.items:
            return None
        node = node.items[name]
    return node.place
