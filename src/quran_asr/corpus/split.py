"""Training, validation and test splits that do not leak: whole reciters or whole texts are held out.

Rows of a corpus are not independent. The same reciter, or the same words, in both splits make error rates
too optimistic; a random split of rows shares both.
"""

from __future__ import annotations

import random
import re
import unicodedata
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import cache
from pathlib import Path
from typing import Any, Literal

from quran_asr.corpus.manifest import read_lines, write_manifest
from quran_asr.errors import QuranAsrError, counted
from quran_asr.records import VerseRef
from quran_asr.text.passages import read_passage
from quran_asr.text.quran import load_quran
from quran_asr.text.spelling import spell

Line = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Split:
    """One of the written manifests."""

    manifest: Path
    clips: int
    hours: float
    reciters: tuple[str, ...]
    """Sorted."""
    texts: int
    """Different wordings, by letters."""
    seen_reciters: float
    """Share of its clips whose reciter is in training too; 1.0 for training itself."""
    seen_texts: float
    """Share of its clips whose words are in training too."""


@dataclass(frozen=True, slots=True)
class SplitReport:
    """The written splits, and their overlap."""

    by: Literal["reciter", "verse"]
    seed: int
    splits: dict[str, Split]
    """`train`, `validation` and, if asked for, `test`."""
    stale: tuple[Path, ...]
    """An existing `test.jsonl` in the folder that is not part of this split."""


def split(
    manifest: str | Path,
    to: str | Path,
    *,
    by: Literal["reciter", "verse"],
    hold_out: Sequence[str] = (),
    test: Sequence[str] | None = None,
    share: float = 0.05,
    seed: int = 0,
) -> SplitReport:
    """Divide a manifest into `train.jsonl`, `validation.jsonl` and optionally `test.jsonl`.

    By reciter, all clips of a held-out reciter are in one split. By verse, all clips of a held-out wording
    are, of every reciter: verses of the same letters (55:13 and its twins), verses that one clip joins, and
    parts of a verse (`part_of`) go together. Either way no recording is in two splits.

    Args:
        manifest: its lines; to split by reciter, each must name one.
        to: the folder of the new manifests; the old one is not changed.
        by: the unit that is held out.
        hold_out: for validation: names of reciters, or verses such as `112` and `2:255-257`. If none are
            given, they are drawn with `seed` until they have `share` of the hours.
        test: the same for the test set; None makes no test set, an empty list draws.
        share: of the hours, for each set that is drawn; between 0 and 1.
        seed: the same seed draws the same.

    Raises:
        QuranAsrError: the manifest is not usable; a name or verse is not in it or is wanted for both sets; a
            clip has no reciter; a recording has two reciters; or a split would be empty.
    """
    if not 0 < share < 1:
        raise QuranAsrError(f"a share of {share} of the hours cannot be held out", remedy="0.05 is usual")
    lines = read_lines(manifest)
    groups = _reciters_of(lines, str(manifest)) if by == "reciter" else _wordings_of(lines)
    held_out: dict[str, str] = {}  # group -> split
    for name, wanted in (("validation", hold_out), ("test", test)):
        if wanted is None:
            continue
        if wanted:
            chosen = {group for one in wanted for group in _named(one, by, lines, groups)}
        else:
            chosen = _drawn(lines, groups, set(held_out), share, f"{seed} {name}")
        for group in sorted(chosen):
            if held_out.setdefault(group, name) != name:
                raise QuranAsrError(
                    f"{group} is requested for validation and for test",
                    remedy="name different ones with --hold-out and --test-on, or try another --seed",
                )
    splits = ["train", "validation", *(["test"] if test is not None else [])]
    members = {
        name: [
            line for line, group in zip(lines, groups, strict=True) if held_out.get(group, "train") == name
        ]
        for name in splits
    }
    for name, its_lines in members.items():
        if not its_lines:
            raise QuranAsrError(
                f"nothing is left for {name}: {counted(len(set(groups)), 'group')} cannot be split by {by}",
                where=str(manifest),
                remedy="split by the other of reciter and verse, or hold out less",
            )
    for name in splits:
        if Path(to, f"{name}.jsonl").resolve() == Path(manifest).resolve():
            raise QuranAsrError(
                f"the split `{name}` would replace the manifest that is split",
                where=str(manifest),
                remedy="write elsewhere with --to FOLDER",
            )
    report = SplitReport(
        by=by,
        seed=seed,
        splits={name: _describe(Path(to, f"{name}.jsonl"), members, name) for name in splits},
        stale=tuple(old for old in [Path(to, "test.jsonl")] if "test" not in splits and old.exists()),
    )
    for name, its_lines in members.items():
        meta = {
            "made_by": f"corpus split --by {by}",
            "seed": seed,
            "split": name,
            "from": Path(manifest).name,
        }
        write_manifest(report.splits[name].manifest, its_lines, meta)
    return report


def _reciters_of(lines: Sequence[Line], where: str) -> list[str]:
    """The reciter of each line."""
    nameless = sum(not line.get("reciter") for line in lines)
    if nameless:
        raise QuranAsrError(
            f"{nameless} of {len(lines)} clips name no reciter", where=where, remedy="split with --by verse"
        )
    reciter_of: dict[str, str] = {}
    for line in lines:
        audio, reciter = line["audio_filepath"], line["reciter"]
        if reciter_of.setdefault(audio, reciter) != reciter:
            raise QuranAsrError(
                f"`{audio}` is listed under two reciters, {reciter_of[audio]} and {reciter}",
                where=where,
                remedy="correct `reciter` in the manifest, or split with --by verse",
            )
    return [line["reciter"] for line in lines]


def _wordings_of(lines: Sequence[Line]) -> list[str]:
    """For each line an identifier shared by all lines that must stay in one split with it (union-find)."""
    parent: dict[str, str] = {}

    def root(node: str) -> str:
        while parent.setdefault(node, node) != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    nodes = [[*sorted(_wordings(line)), f"recording {line['audio_filepath']}"] for line in lines]
    for first, *others in nodes:
        for other in others:
            parent[root(other)] = root(first)
    return [root(first) for first, *_ in nodes]


def _wordings(line: Line) -> set[str]:
    """The wordings of a clip, by letters: each verse that it contains all or part of, otherwise its text."""
    refs = [*(line.get("verses") or []), *(line.get("part_of") or [])]
    if not refs:
        return {spell(line["text"], "letters")}
    return {load_quran("letters").verse(VerseRef.parse(ref)) for ref in refs}


def _named(name: str, by: str, lines: Sequence[Line], groups: Sequence[str]) -> set[str]:
    """The groups that a name on the command line refers to."""
    if by == "reciter":
        if name not in groups:
            raise QuranAsrError(
                f"no reciter `{name}` in this manifest", remedy="reciters: " + ", ".join(sorted(set(groups)))
            )
        return {name}
    wanted = {load_quran("letters").verse(ref) for ref in read_passage(name)}
    found = {group for line, group in zip(lines, groups, strict=True) if wanted & _wordings(line)}
    if not found:
        raise QuranAsrError(
            f"no clip of {name} in this manifest",
            remedy="choose verses that the manifest lists as `verses` or `part_of`",
        )
    return found


def _drawn(
    lines: Sequence[Line], groups: Sequence[str], taken: set[str], share: float, seed: str
) -> set[str]:
    """Groups drawn at random until they have a share of the hours; never all remaining ones."""
    seconds: dict[str, float] = defaultdict(float)
    for line, group in zip(lines, groups, strict=True):
        seconds[group] += line["duration"]
    free = sorted(set(groups) - taken)
    random.Random(seed).shuffle(free)
    chosen: set[str] = set()
    for group in free[:-1]:
        if sum(seconds[one] for one in chosen) >= share * sum(seconds.values()):
            break
        chosen.add(group)
    return chosen


def _describe(manifest: Path, members: Mapping[str, Sequence[Line]], name: str) -> Split:
    lines, training = members[name], members["train"]
    reciters = {line.get("reciter") or "" for line in training}
    wordings = set().union(*(_wordings(line) for line in training))
    return Split(
        manifest=manifest,
        clips=len(lines),
        hours=sum(line["duration"] for line in lines) / 3600,
        reciters=tuple(sorted({line.get("reciter") or "" for line in lines})),
        texts=len(set().union(*(_wordings(line) for line in lines))),
        seen_reciters=sum((line.get("reciter") or "") in reciters for line in lines) / len(lines),
        seen_texts=sum(_wordings(line) <= wordings for line in lines) / len(lines),
    )


# Names come from folders, sites and people: `Alafasy_128kbps`, `Mishari Al-Afasy`, `مشاري العفاسي`. There
# are many romanizations of Arabic, and most of them preserve the consonants.

_CONSONANTS = dict(
    zip("بتثجحخدذرزسشصضطظعغفقكلمنه", "b t t j h x d d r z s $ s d t z _ g f k k l m n h".split(), strict=True)
)
"""Arabic letters as Latin ones; letters that Latin spellings confuse are merged. `_` and vowels are
dropped."""
_PAIRS = {"kh": "x", "gh": "g", "sh": "$", "ch": "$", "th": "t", "dh": "d", "ph": "f"}
_SINGLE = str.maketrans({"q": "k", "c": "k", "v": "f", "p": "b", "_": None, "ة": None})
_VOWELS = re.compile("[aeiouwyاويىئؤءآأإٱ]")
_STYLES = frozenset(
    "al el ul as ash ad ar at az an the murattal mujawwad muallim hafs warsh sheikh shaikh shaykh "
    "qari imam dr الشيخ القارئ الامام مرتل مجود".split()
)
"""Articles, titles and kinds of recitation, which do not distinguish reciters."""
_BITRATE = re.compile(r"\d+ ?kbps", re.IGNORECASE)
_LEAST_CONSONANTS = 4
"""Fewer of them are shared by names that have nothing to do with each other."""
_ALIKE, _ALIKE_IN_VOWELS = 0.88, 0.7
"""Share of letters in the same order from which two spellings differ by a slip; with equal consonants."""
_LEAST_LETTERS = 8
"""Shorter names that differ by a letter may be two people's."""
_DISTINCTIVE_LETTERS = 5
"""A name of that many letters identifies a person by itself, as Alafasy does."""


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
    if shorter < longer and all(len(word) >= _DISTINCTIVE_LETTERS for word in shorter):
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


@cache  # every name of one split meets every name of the other
def _words(name: str) -> list[str]:
    """The words of a name that identify the reciter, in small letters without marks."""
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
    """A word without vowels and doubled letters; a single letter stays."""
    if len(word) == 1:
        return word
    for pair, letter in _PAIRS.items():
        word = word.replace(pair, letter)
    word = "".join(_CONSONANTS.get(letter, letter) for letter in word).translate(_SINGLE)
    return re.sub(r"(.)\1+", r"\1", _VOWELS.sub("", word.removesuffix("h")))
