"""Overrides from the command line, written as in Hydra: `a.b=c`, `+a.b=c`, `++a.b=c`, `~a.b`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from quran_asr.config.validation import alternatives, known_keys, optional_keys, unknown
from quran_asr.config.yaml_document import LONGEST_KEY, Leaf, Place, Section, moved, parse
from quran_asr.errors import QuranAsrError

_KEY = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*$")
_TIGHT_COLON = re.compile(r"([{,]\s*[A-Za-z_]\w*):(?=[^\s/\\])")


@dataclass(frozen=True, slots=True)
class Override:
    """One word of the command line."""

    word: str
    """As it was typed."""
    action: Literal["set", "add", "force", "remove"]
    key: str
    value: Section | Leaf | None
    """None only for `~a.b` without a value."""


def split_words(words: Sequence[str], default: str | None = None) -> tuple[str, list[str]]:
    """Part the words of a command line into one recipe and its overrides.

    Args:
        words: as typed; a word with `=` or a leading `~` is an override unless a file has that name.
        default: the recipe where none is named.

    Raises:
        QuranAsrError: no recipe and no default, or two recipes.
    """
    recipes = [word for word in words if not _is_override(word)]
    if len(recipes) > 1:
        raise QuranAsrError(
            f"two recipes: `{recipes[0]}` and `{recipes[1]}`",
            remedy="an override is written section.key=value",
        )
    if not recipes and default is None:
        raise QuranAsrError("no recipe is named", remedy="`quran-asr recipe list` names the shipped ones")
    return (recipes or [str(default)])[0], [word for word in words if _is_override(word)]


def _is_override(word: str) -> bool:
    return word.startswith("~") or ("=" in word and not _is_file(word))


def _is_file(word: str) -> bool:
    try:
        return Path(word).is_file()
    except (OSError, ValueError):  # longer than the name of a file may be: a list of many values
        return False


def parse_override(word: str) -> Override:
    """Read one override.

    Raises:
        QuranAsrError: no key, no value, or a value that is not YAML.
    """
    place = Place(word, 0)
    where = str(place)
    diagnosis = re.match(r"\+\+|\+|~|", word)
    mark = diagnosis.group() if diagnosis else ""
    key, equals, text = word[len(mark) :].partition("=")
    if not _KEY.match(key) or len(key) > 4 * LONGEST_KEY:
        raise QuranAsrError(
            f"`{key[:LONGEST_KEY]}` is not a key", where=where, remedy="write section.key=value"
        )
    if not equals and mark != "~":
        raise QuranAsrError("has no value", where=where, remedy="write section.key=value")
    action: Literal["set", "add", "force", "remove"]
    action = {"": "set", "+": "add", "++": "force", "~": "remove"}[mark]  # type: ignore[assignment]
    if not equals:
        return Override(word, action, key, None)
    if not text:  # as in Hydra: nothing after `=` is empty text
        return Override(word, action, key, Leaf("", place))
    try:
        # Hydra takes {a:1}; in YAML that is one key named "a:1".
        value = parse(_TIGHT_COLON.sub(r"\1: ", text) if text.lstrip().startswith("{") else text)
    except QuranAsrError as error:
        raise QuranAsrError(
            f"`{text}` is not a YAML value ({error.what})", where=where, remedy="put the value in quotes"
        ) from None
    return Override(word, action, key, moved(value, place))


def apply_override(root: Section, override: Override) -> None:
    """Lay one override into the tree.

    Raises:
        QuranAsrError: an unknown key, a missing one without `+`, an existing one with `+`.
    """
    where = str(Place(override.word, 0))
    if override.key not in known_keys():
        message, hint = unknown(override.key)
        raise QuranAsrError(message, where=where, remedy=hint)
    parent = _parent(root, override, where)
    name = override.key.rpartition(".")[2]
    present = name in parent.items
    if override.action == "remove":
        _remove(parent, name, override, where)
    elif override.action == "add" and present:
        raise QuranAsrError(
            f"`{override.key}` has a value already",
            where=where,
            remedy=f"leave out the +: {override.word[1:]}",
        )
    elif override.action == "set" and not present and override.key not in optional_keys():
        raise QuranAsrError(
            f"`{override.key}` was removed before", where=where, remedy=f"add it back: +{override.word}"
        )
    else:
        assert override.value is not None  # only `~` comes without a value
        old = parent.items.get(name)
        if isinstance(old, Section) and isinstance(override.value, Section):
            merge(old, override.value)
        else:
            parent.items[name] = override.value


def merge(under: Section, over: Section) -> None:
    """Lay one tree over another: sections are merged key by key, values and lists replaced."""
    for name, item in over.items.items():
        old = under.items.get(name)
        if isinstance(old, Section) and isinstance(item, Section):
            merge(old, item)
        else:
            under.items[name] = item


def _parent(root: Section, override: Override, where: str) -> Section:
    node = root
    names = override.key.split(".")[:-1]
    for depth, name in enumerate(names, start=1):
        section = ".".join(names[:depth])
        item = node.items.get(name)
        if item is None and override.action in ("add", "force"):
            item = node.items[name] = Section({}, Place(override.word, 0))
        if not isinstance(item, Section):
            keys = ", ".join(
                f"{key.rpartition('.')[2]}: ..." for key in known_keys() if _inside(key, section)
            )
            raise QuranAsrError(
                f"`{section}` is off in this recipe",
                where=where,
                remedy=f"turn it on as a whole: '{section}={{{keys}}}'",
            )
        node = item
    return node


def _inside(key: str, section: str) -> bool:
    return key.rpartition(".")[0] == section


def _remove(parent: Section, name: str, override: Override, where: str) -> None:
    old = parent.items.get(name)
    if old is None:
        raise QuranAsrError(
            f"`{override.key}` was removed before", where=where, remedy=f"leave out {override.word}"
        )
    if override.value is not None and not _equal(old, override.value):
        raise QuranAsrError(
            f"`{override.key}` has another value",
            where=where,
            remedy=f"leave the value out: ~{override.key}",
        )
    if not _may_be_null(override.key):
        raise QuranAsrError(
            f"`{override.key}` cannot be removed: training needs it",
            where=where,
            remedy=f"give it another value: {override.key}=...",
        )
    parent.items[name] = Leaf(None, Place(override.word, 0))


def _equal(old: Section | Leaf, value: Section | Leaf) -> bool:
    return isinstance(old, Leaf) and isinstance(value, Leaf) and old.value == value.value


def _may_be_null(key: str) -> bool:
    return type(None) in alternatives(known_keys()[key])
