"""A YAML file as a tree whose values know the line they stand on.

YAML as recipes use it: mappings, lists, text, numbers, true, false and null. No anchors, no tags, no dates,
no key twice; `1e-3` is a number (PyYAML alone reads it as text).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from quran_asr.findings import QuranAsrError

_NUMBER = re.compile(r"[-+]?(\d[\d_]*\.?[\d_]*|\.\d+)([eE][-+]?\d+)?$")
_INTEGER = re.compile(r"[-+]?(0|[1-9][\d_]*)$")
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
    """Builds nodes only; refuses tags, and anchors, since a chain of them grows without bound."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise yaml.MarkedYAMLError(
                problem="anchors (&, *) are not used in recipes", problem_mark=event.start_mark
            )
        if getattr(event, "tag", None) is not None:
            raise yaml.MarkedYAMLError(
                problem=f"the tag {event.tag} is not used in recipes", problem_mark=event.start_mark
            )
        return super().compose_node(parent, index)


def read_document(path: Path, name: str) -> Section:
    """Read a recipe file.

    Args:
        path: the file.
        name: how messages call it.

    Raises:
        QuranAsrError: no such file, not UTF-8, not YAML, or a key that stands twice.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise QuranAsrError("no such file", where=f"recipe `{name}`") from None
    except UnicodeDecodeError:
        raise QuranAsrError("is not UTF-8 text", where=f"recipe `{name}`") from None
    except OSError as error:
        raise QuranAsrError(error.strerror or str(error), where=f"recipe `{name}`") from None
    tree = parse(text, name)
    if isinstance(tree, Leaf):
        if tree.value is None:
            return Section({}, tree.place)
        raise QuranAsrError("is not a mapping of keys to values", where=f"recipe `{name}`")
    return tree


def parse(text: str, name: str = "") -> Section | Leaf:
    """Parse YAML from a file, or with an empty `name` a value from the command line.

    Raises:
        QuranAsrError: not YAML, or YAML that recipes do not use.
    """
    try:
        node = _Loader(text).get_single_node()
        return Leaf(None, Place(name, 1)) if node is None else _tree(node, name)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = str(Place(name, mark.line + 1 if mark else 1))
        raise QuranAsrError(error.problem or "is not YAML", where=where) from None
    except (yaml.YAMLError, RecursionError) as error:
        message = "is nested too deeply" if isinstance(error, RecursionError) else "is not YAML text"
        raise QuranAsrError(message, where=str(Place(name, 1))) from None


def _tree(node: yaml.Node, name: str) -> Section | Leaf:
    place = Place(name, node.start_mark.line + 1)
    if not isinstance(node, yaml.MappingNode):
        return Leaf(_value(node, name), place, _written(node))
    items: dict[str, Section | Leaf] = {}
    for key_node, value_node in node.value:
        key_place = Place(name, key_node.start_mark.line + 1)
        if not isinstance(key_node, yaml.ScalarNode):
            raise QuranAsrError("a key must be a word", where=str(key_place))
        key = key_node.value
        if key in items:
            first = items[key].place.line
            raise QuranAsrError(f"key `{key}` stands here and in line {first}", where=str(key_place))
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
        )
    text: str = node.value
    if node.style is not None:  # in quotes, or a block of text
        return text
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if _INTEGER.match(text):
        return int(text)
    if _NUMBER.match(text):
        return float(text)
    return text


def _written(node: yaml.Node) -> str | None:
    return node.value if isinstance(node, yaml.ScalarNode) and node.style is None else None
