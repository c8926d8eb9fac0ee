"""Whether two names are probably one reciter's, written in another way.

Names come from folders, sites and people: `Alafasy_128kbps`, `Mishari Al-Afasy`, `مشاري العفاسي`. There are
many ways from Arabic into Latin letters, and consonants survive most of them.
"""

from __future__ import annotations

import re
import unicodedata
from difflib import SequenceMatcher
from functools import cache

_CONSONANTS = dict(
    zip("بتثجحخدذرزسشصضطظعغفقكلمنه", "b t t j h x d d r z s $ s d t z _ g f k k l m n h".split(), strict=True)
)
"""Arabic letters as Latin ones; those that Latin spellings confuse are one. `_` is left out, like vowels."""
_PAIRS = {"kh": "x", "gh": "g", "sh": "$", "ch": "$", "th": "t", "dh": "d", "ph": "f"}
_SINGLE = str.maketrans({"q": "k", "c": "k", "v": "f", "p": "b", "_": None, "ة": None})
_VOWELS = re.compile("[aeiouwyاويىئؤءآأإٱ]")
_STYLES = frozenset(
    "al el ul as ash ad ar at az an the murattal mujawwad muallim hafs warsh sheikh shaikh shaykh "
    "qari imam dr الشيخ القارئ الامام مرتل مجود".split()
)
"""Articles, titles and kinds of recitation: they do not tell one reciter from another."""
_BITRATE = re.compile(r"\d+ ?kbps", re.IGNORECASE)
_LEAST_CONSONANTS = 4
"""Fewer of them are shared by names that have nothing to do with each other."""
_ALIKE, _ALIKE_IN_VOWELS = 0.88, 0.7
"""Share of letters in the same order from which two spellings differ by a slip; with equal consonants."""
_LEAST_LETTERS = 8
"""Shorter names that differ by a letter may be two people's."""
_TELLING_LETTERS = 5
"""A name of that many letters stands for a person by itself, as Alafasy does."""


def may_be_one(a: str, b: str) -> bool:
    """Whether two different names may be one reciter's: by letters, by consonants, or one within the other.

    Names that differ in a number (`speaker 1`, `speaker 2`) are never the same.
    """
    mine, theirs = _words(a), _words(b)
    if not mine or not theirs or _numbers(mine) != _numbers(theirs):
        return False
    if sorted(mine) == sorted(theirs):
        return True
    shorter, longer = sorted((set(mine), set(theirs)), key=len)
    if shorter < longer and all(len(word) >= _TELLING_LETTERS for word in shorter):
        return True
    bones, their_bones = (sorted(_consonants(word) for word in words) for words in (mine, theirs))
    same_bones = bones == their_bones
    if same_bones and len("".join(bones)) >= _LEAST_CONSONANTS:
        return True
    first, second = sorted("".join(sorted(words)) for words in (mine, theirs))  # a ratio depends on the order
    if not same_bones and min(len(first), len(second)) < _LEAST_LETTERS:
        return False
    least = _ALIKE_IN_VOWELS if same_bones else _ALIKE
    matcher = SequenceMatcher(None, first, second, autojunk=False)
    bounds = (matcher.real_quick_ratio, matcher.quick_ratio, matcher.ratio)  # each is nearer, and slower
    return all(bound() >= least for bound in bounds)


@cache  # every name of one side meets every name of the other
def _words(name: str) -> list[str]:
    """The words of a name that tell who it is, in small letters without marks."""
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", _BITRATE.sub(" ", name))
    name = re.sub(r"['’ʿʾ`]", "", name)
    bare = "".join(c for c in unicodedata.normalize("NFKD", name) if not unicodedata.combining(c)).casefold()
    words = [_without_article(word) for word in re.findall(r"[^\W_]+", bare)]
    return [word for word in words if word not in _STYLES] or words


def _without_article(word: str) -> str:
    """`alafasy` and `العفاسي` without their articles; `ali` and `alam` have none."""
    if word.startswith("ال") and len(word) > 4:
        return word[2:]
    return word[2:] if word.startswith(("al", "el")) and len(word) > 5 else word


def _numbers(words: list[str]) -> list[str]:
    return [digits for word in words for digits in re.findall(r"\d+", word)]


@cache
def _consonants(word: str) -> str:
    """What is left of a word when vowels and doublings go; a single letter stays."""
    if len(word) == 1:
        return word
    for pair, letter in _PAIRS.items():
        word = word.replace(pair, letter)
    word = "".join(_CONSONANTS.get(letter, letter) for letter in word).translate(_SINGLE)
    return re.sub(r"(.)\1+", r"\1", _VOWELS.sub("", word.removesuffix("h")))
