"""A YAML file as a tree whose values know their line.

YAML as recipes use it: mappings, lists, text, numbers, true, false and null. No anchors, no tags, no dates,
no key twice; `1e-3` is a number (PyYAML alone reads it as text). Recipes come from anywhere, so their size,
depth, keys and numbers have limits far above what a recipe needs, and reading one takes seconds at most.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from quran_asr.errors import QuranAsrError

MOST_CHARACTERS = 200_000
"""Of a recipe file or an override; the largest shipped recipe has 5,700."""

MOST_KEYS = 500
"""In a file; a whole recipe has some 130."""

DEEPEST = 16
"""Sections and lists inside each other; a recipe has four."""

LONGEST_KEY = 100
LONGEST_NUMBER = 100

_AS_SHIPPED = "write it as `quran-asr recipe show base` prints a recipe"
_NAME_ANOTHER = "name another file; `quran-asr recipe list` names the shipped recipes"

# Each character can be matched in one way only, so the time is linear in the length of the text.
_DIGITS = r"[0-9]+(?:_[0-9]+)*"
_NUMBER = re.compile(rf"[-+]?(?:{_DIGITS}(?:\.(?:{_DIGITS})?)?|\.{_DIGITS})(?:[eE][-+]?[0-9]+)?")
_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]*(?:_[0-9]+)*)")
_CONSTANTS: dict[str, bool | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}


@dataclass(frozen=True, slots=True)
class Place:
    """Where a value was written."""

    file: str
    """As the reader knows it; for an override the word that was typed."""
    line: int
    """From 1; 0 for an override."""

    @property
    def origin(self) -> str:
        """`mine.yaml:14` or `command line`, for machines."""
        return f"{self.file}:{self.line}" if self.line else "command line"

    def __str__(self) -> str:
        return f"recipe `{self.file}`, line {self.line}" if self.line else f"override `{self.file}`"


@dataclass(frozen=True, slots=True)
class Leaf:
    """A value that is not a mapping: None, bool, int, float, str, or a list of those and of lists."""

    value: Any
    place: Place
    written: str | None = None
    """A number or constant as it was typed, for keys that want text."""


@dataclass(slots=True)
class Section:
    """A mapping. The one mutable thing here: overlays and overrides are laid into it."""

    items: dict[str, Section | Leaf]
    place: Place


def copied(section: Section) -> Section:
    """The same section, into which others may be laid without changing the first."""
    items = {n: copied(item) if isinstance(item, Section) else item for n, item in section.items.items()}
    return Section(items, section.place)


def moved(tree: Section | Leaf, place: Place) -> Section | Leaf:
    """The same tree, written at one place."""
    if isinstance(tree, Leaf):
        return Leaf(tree.value, place, tree.written)
    return Section({name: moved(item, place) for name, item in tree.items.items()}, place)


class _Loader(yaml.SafeLoader):
    """Builds nodes only; refuses tags, too many keys, and anchors: a chain of them grows without bound.

    The `note` of an error is its remedy.
    """

    depth = 0
    keys = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        if self.depth > DEEPEST:
            raise yaml.MarkedYAMLError(
                problem="is nested too deeply", problem_mark=event.start_mark, note=_AS_SHIPPED
            )
        if isinstance(parent, yaml.MappingNode) and index is None:  # a key
            self.keys += 1
            if self.keys > MOST_KEYS:
                what = f"has more than {MOST_KEYS} keys: this is not a recipe"
                raise yaml.MarkedYAMLError(problem=what, problem_mark=event.start_mark, note=_NAME_ANOTHER)
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise yaml.MarkedYAMLError(
                problem="anchors (&, *) are not used in recipes",
                problem_mark=event.start_mark,
                note="write the value again, or refer to it with ${section.key}",
            )
        if getattr(event, "tag", None) is not None:
            raise yaml.MarkedYAMLError(
                problem=f"the tag {event.tag} is not used in recipes",
                problem_mark=event.start_mark,
                note="write the value without the tag",
            )
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


def read_document(path: Path, name: str) -> Section:
    """Read a recipe file.

    Args:
        path: the file.
        name: how messages call it.

    Raises:
        QuranAsrError: no such file, not UTF-8, not YAML, a key that stands twice, or larger than any recipe.
    """
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(MOST_CHARACTERS + 1)
    except FileNotFoundError:
        raise QuranAsrError("no such file", where=f"recipe `{name}`", remedy=_NAME_ANOTHER) from None
    except UnicodeDecodeError:
        raise QuranAsrError(
            "is not UTF-8 text", where=f"recipe `{name}`", remedy="save the file as UTF-8"
        ) from None
    except OSError as error:
        what = error.strerror or str(error)
        remedy = "check that the file can be read, or name another"
        raise QuranAsrError(what, where=f"recipe `{name}`", remedy=remedy) from None
    tree = parse(text, name)
    if isinstance(tree, Leaf):
        if tree.value is None:
            return Section({}, tree.place)
        raise QuranAsrError(
            "is not a mapping of keys to values", where=f"recipe `{name}`", remedy=_AS_SHIPPED
        )
    return tree


def parse(text: str, name: str = "") -> Section | Leaf:
    """Parse YAML from a file, or with an empty `name` a value from the command line.

    Raises:
        QuranAsrError: not YAML, YAML that recipes do not use, or more of it than any recipe has.
    """
    if len(text) > MOST_CHARACTERS:
        what = f"has more than {MOST_CHARACTERS:,} characters: this is not a recipe"
        raise QuranAsrError(what, where=str(Place(name, 1)), remedy=_NAME_ANOTHER)
    try:
        node = _Loader(text).get_single_node()
        if node is None:
            return Leaf(None, Place(name, 1))
        return _tree(node, name)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = str(Place(name, mark.line + 1 if mark else 1))
        remedy = (
            error.note or "write `key: value`, indent with spaces, and quote text with special characters"
        )
        raise QuranAsrError(error.problem or "is not YAML", where=where, remedy=remedy) from None
    except (yaml.YAMLError, RecursionError) as error:
        deep = isinstance(error, RecursionError)
        message = "is nested too deeply" if deep else "is not YAML text"
        remedy = _AS_SHIPPED if deep else "remove its control characters"
        raise QuranAsrError(message, where=str(Place(name, 1)), remedy=remedy) from None


def _tree(node: yaml.Node, name: str) -> Section | Leaf:
    place = Place(name, node.start_mark.line + 1)
    if not isinstance(node, yaml.MappingNode):
        return Leaf(_value(node, name), place, _written(node))
    items: dict[str, Section | Leaf] = {}
    for key_node, value_node in node.value:
        key_place = Place(name, key_node.start_mark.line + 1)
        if not isinstance(key_node, yaml.ScalarNode):
            raise QuranAsrError(
                "a key must be a word",
                where=str(key_place),
                remedy="write `key: value`, with one word before the colon",
            )
        key = key_node.value
        if len(key) > LONGEST_KEY:
            what = f"`{key[:20]}...` has {len(key):,} characters: no key is so long"
            raise QuranAsrError(
                what, where=str(key_place), remedy="write a key that `quran-asr recipe show base` prints"
            )
        if key in items:
            first = items[key].place.line
            raise QuranAsrError(
                f"key `{key}` is set here and in line {first}",
                where=str(key_place),
                remedy="keep one of them",
            )
        value = _tree(value_node, name)
        items[key] = (
            Section(value.items, key_place)
            if isinstance(value, Section)
            else Leaf(value.value, key_place, value.written)
        )
    return Section(items, place)


def _value(node: yaml.Node, name: str) -> Any:
    if isinstance(node, yaml.SequenceNode):
        return [_value(item, name) for item in node.value]
    if not isinstance(node, yaml.ScalarNode):
        raise QuranAsrError(
            "a mapping inside a list is not used in recipes",
            where=str(Place(name, node.start_mark.line + 1)),
            remedy="list numbers or text, as in [70, 13]",
        )
    text: str = node.value
    if node.style is not None:  # in quotes, or a block of text
        return text
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if not _NUMBER.fullmatch(text):
        return text
    if len(text) > LONGEST_NUMBER:
        what = f"`{text[:20]}...` is a number of {len(text):,} characters"
        remedy = f"write at most {LONGEST_NUMBER} digits, or put it in quotes if it is text"
        raise QuranAsrError(what, where=str(Place(name, node.start_mark.line + 1)), remedy=remedy)
    number = int(text) if _INTEGER.fullmatch(text) else float(text)
    if math.isinf(number):
        raise QuranAsrError(
            f"`{text}` is too large",
            where=str(Place(name, node.start_mark.line + 1)),
            remedy="write a smaller number, or put it in quotes if it is text",
        )
    return number


def _written(node: yaml.Node) -> str | None:
    return node.value if isinstance(node, yaml.ScalarNode) and node.style is None else None
