"""References of a recipe: `${section.key}` stands for the value of another key, and nothing else is known."""

from __future__ import annotations

import re
from typing import Any

from quran_asr.config.yaml_document import Leaf, Place, Section
from quran_asr.errors import QuranAsrError

MOST_REFERENCES = 16
"""That lead on to each other."""

LARGEST_VALUE = 50_000
"""Characters and list items of a value that was filled in: references to references multiply."""

_REFERENCE = re.compile(r"\$\{([^{}]*)\}")


def resolve_references(root: Section, mistakes: list[QuranAsrError]) -> None:
    """Fill in every reference of a tree; what cannot be is added to the mistakes, each with its place."""
    references = _References(root)

    def apply_recipe(section: Section) -> None:
        for name, item in section.items.items():
            if isinstance(item, Section):
                apply_recipe(item)
                continue
            try:
                value, _ = references.filled_in(item.value, item.place, ())
            except QuranAsrError as mistake:
                mistakes.append(mistake)
            else:
                if value is not item.value:
                    section.items[name] = Leaf(value, item.place)

    apply_recipe(root)


class _References:
    """Values of a tree with their references filled in: each key once, none larger than a recipe needs."""

    def __init__(self, root: Section) -> None:
        self._root = root
        self._known: dict[str, tuple[Any, int]] = {}

    def filled_in(self, value: Any, place: Place, chain: tuple[str, ...]) -> tuple[Any, int]:
        """The value and its size in characters and list items; the same object if it refers to nothing."""
        if isinstance(value, list):
            items = [self.filled_in(item, place, chain) for item in value]
            size = len(items) + sum(size for _, size in items)
            if all(new is old for (new, _), old in zip(items, value, strict=True)):
                return value, size
            return [item for item, _ in items], _allowed(size, place)
        if not isinstance(value, str) or "${" not in value:
            return value, len(value) if isinstance(value, str) else 1
        whole = _REFERENCE.fullmatch(value)
        if whole:
            return self._look_up(whole.group(1).strip(), place, chain)
        if "${" in _REFERENCE.sub("", value):
            what = f"`{value[:60]}` is not a reference"
            raise QuranAsrError(what, where=str(place), remedy="write ${section.key}")
        size = 0

        def replacement(found: re.Match[str]) -> str:
            nonlocal size
            inserted, its_size = self._look_up(found.group(1).strip(), place, chain)
            size = _allowed(size + its_size, place)
            return str(inserted)

        text = _REFERENCE.sub(replacement, value)
        return text, _allowed(len(text), place)

    def _look_up(self, key: str, place: Place, chain: tuple[str, ...]) -> tuple[Any, int]:
        if ":" in key:
            raise QuranAsrError(
                f"`${{{key[:60]}}}` is not allowed: a recipe reads nothing from its surroundings",
                where=str(place),
                remedy="write the value itself, or give it on the command line",
            )
        if key in chain:
            raise QuranAsrError(
                f"`${{{key}}}` refers to itself", where=str(place), remedy="write the value itself"
            )
        if len(chain) == MOST_REFERENCES:
            what = f"`${{{key}}}` is the end of more than {MOST_REFERENCES} references"
            raise QuranAsrError(what, where=str(place), remedy="write the value itself")
        if key not in self._known:
            leaf = self._leaf(key, place)
            self._known[key] = self.filled_in(leaf.value, leaf.place, (*chain, key))
        return self._known[key]

    def _leaf(self, key: str, place: Place) -> Leaf:
        node: Section | Leaf | None = self._root
        for name in key.split("."):
            node = node.items.get(name) if isinstance(node, Section) else None
        if isinstance(node, Leaf):
            return node
        raise QuranAsrError(
            f"`${{{key[:60]}}}` refers to nothing",
            where=str(place),
            remedy="write the whole key: ${section.key}",
        )


def _allowed(size: int, place: Place) -> int:
    if size > LARGEST_VALUE:
        what = f"grows beyond {LARGEST_VALUE:,} characters when its references are filled in"
        raise QuranAsrError(what, where=str(place), remedy="write the value itself")
    return size
