"""Overlap of training and validation: recordings, reciters, texts. Reported, never forbidden.

A validation on training clips measures nothing, and chooses the wrong checkpoint.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from quran_asr.corpus.split import may_be_one
from quran_asr.errors import counted
from quran_asr.evaluation.training_data import TrainingData, cells
from quran_asr.experiments.checks.data import Data
from quran_asr.experiments.checks.outcome import Outcome, passed, some_of, warning
from quran_asr.files import sha256_of
from quran_asr.records import Segment, VerseRef
from quran_asr.shards import member_of, read_member, stored_bytes

Contents = Mapping[str, str]
"""Path as in the manifests -> a name of what the file holds, the same for files with the same bytes."""

OVERLAP_SECONDS = 0.1
"""Stretches of one recording that share less than this only touch."""
SAME_LENGTH_SECONDS = 0.025
LEAST_COMMON_VERSES = 5
SHARE_OF_SAME_LENGTHS = 0.5
"""Two people take the same time to a fortieth of a second for some 2 % of their verses, not for half."""
MOST_OF_SEEN_ROWS = 0.5
"""Share of validation clips with reciter and text of training that a random split of rows leaves."""
_TAIL_BYTES = 4096


def same_contents(
    data: Data, on_progress: Callable[[int, int], None] = lambda done, total: None
) -> dict[str, str]:
    """Which files of the two splits hold the same bytes, through links and copies.

    Files are read only where the other split has one of the same size: first their ends, and whole if those
    are equal too. The same audio in another format is not detected.
    """
    place = {path: os.path.realpath(path) for _, split in data.splits for path in {s.audio for s in split}}
    of_split = [{place[segment.audio] for segment in split} for _, split in data.splits]
    by_size: dict[int, list[str]] = defaultdict(list)
    for real in sorted(of_split[0] | of_split[1]):
        by_size[stored_bytes(real).size].append(real)

    def in_both_splits(files: Sequence[str]) -> bool:
        return (
            len(files) > 1 and any(f in of_split[0] for f in files) and any(f in of_split[1] for f in files)
        )

    suspects = [files for files in by_size.values() if in_both_splits(files)]
    total, done = sum(len(files) for files in suspects), 0
    content = {real: real for real in place.values()}
    for files in suspects:
        by_tail: dict[bytes, list[str]] = defaultdict(list)
        for real in files:
            by_tail[_tail(real)].append(real)
        for alike in by_tail.values():
            for real in alike if in_both_splits(alike) else ():
                content[real] = _sha256(real)
        done += len(files)
        on_progress(done, total)
    return {path: content[real] for path, real in place.items()}


def shared_audio(data: Data, contents: Contents) -> Outcome:
    """Validation clips whose audio is trained on: the same stretch, or one that overlaps it."""
    stretches: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for segment in data.training:
        stretches[contents[segment.audio]].append((segment.offset, segment.offset + segment.duration))
    shared = [segment for segment in data.validation if _overlaps(segment, stretches, contents)]
    if not shared:
        return passed("no validation clip is trained on")
    names = {segment.audio for segment in data.training}
    copied = sum(segment.audio not in names for segment in shared)
    how = f"; {copied:,} of them under another path" if copied else ""
    return warning(
        f"{some_of(len(shared), len(data.validation))} validation clips are trained on too: their WER means "
        f"nothing, the first: {shared[0].audio}{how}",
        "hold some out with `quran-asr corpus split`",
    )


def other_names(data: Data, contents: Contents) -> Outcome:
    """Reciters of validation who are trained on under another name."""
    trained = sorted({segment.reciter for segment in data.training} - {""})
    held_out = sorted({segment.reciter for segment in data.validation} - {""} - set(trained))
    same_bytes = _pairs_by_bytes(data, contents)
    trained_seconds, seconds = (_verse_seconds(split) for _, split in data.splits)
    found = []
    for one in held_out:
        for other in trained:
            if (one, other) in same_bytes:
                found.append(f"`{one}` is `{other}` (the same recordings)")
            elif _same_lengths(seconds[one], trained_seconds[other]):
                found.append(f"`{one}` is `{other}` (verses of the same length to 25 ms)")
            elif may_be_one(one, other):
                found.append(f"`{one}` may be `{other}` (by the name)")
    if found:
        return warning(
            f"{counted(len(found), 'reciter')} of validation may be in training under another name: "
            + "; ".join(found[:3]),
            "give each reciter one name, and hold out whole reciters: `quran-asr corpus split --by reciter`",
        )
    nameless = sum(not segment.reciter for _, split in data.splits for segment in split)
    if nameless:
        return warning(
            f"{counted(nameless, 'clip')} without a reciter: whether validation has new ones is unknown",
            "`quran-asr corpus scan` takes reciters from folders; or add the key `reciter`",
        )
    if not held_out:
        return passed("the reciters of validation are all trained on, under the same names")
    what = f"{counted(len(held_out), 'reciter')} of validation not trained on"
    return passed(f"{what}: names, durations and files differ from those in training")


def seen_texts(data: Data) -> Outcome:
    """How much of validation is known from training, by reciter and by text."""
    counts = Counter(cells(data.validation, TrainingData.from_segments(data.training)))
    total = len(data.validation)
    parts = ", ".join(f"{cell.replace('_', ' ')} {n / total:.0%}" for cell, n in counts.most_common())
    message = f"validation by reciter/text: {parts}".replace("%", " %")
    if counts["seen_reciter/seen_text"] >= MOST_OF_SEEN_ROWS * total:
        return warning(
            f"{message}; known reciters with known texts make an error rate look better than it is",
            "`quran-asr corpus split --by reciter` (or `--by verse`) holds whole reciters or texts out",
        )
    return passed(message)


def _tail(path: str) -> bytes:
    stored = stored_bytes(path)
    size = min(stored.size, _TAIL_BYTES)
    with Path(stored.shard).open("rb") as file:
        file.seek(stored.start + stored.size - size)
        return file.read(size)


def _sha256(path: str) -> str:
    member = member_of(path)
    return sha256_of(Path(path)) if member is None else hashlib.sha256(read_member(member)).hexdigest()


def _overlaps(
    segment: Segment, stretches: Mapping[str, Sequence[tuple[float, float]]], contents: Contents
) -> bool:
    begin, end = segment.offset, segment.offset + segment.duration
    least = min(OVERLAP_SECONDS, segment.duration / 2)
    known = stretches.get(contents[segment.audio], ())
    return any(min(end, its_end) - max(begin, its_begin) >= least for its_begin, its_end in known)


def _pairs_by_bytes(data: Data, contents: Contents) -> set[tuple[str, str]]:
    """(validation name, training name) of files with the same bytes."""
    trained: dict[str, set[str]] = defaultdict(set)
    for segment in data.training:
        trained[contents[segment.audio]].add(segment.reciter)
    return {
        (segment.reciter, name)
        for segment in data.validation
        for name in trained.get(contents[segment.audio], ())
        if name != segment.reciter
    }


def _verse_seconds(split: Sequence[Segment]) -> dict[str, dict[tuple[VerseRef, ...], list[float]]]:
    """Reciter -> verses of a clip -> how long he took for them, each time."""
    seconds: dict[str, dict[tuple[VerseRef, ...], list[float]]] = defaultdict(lambda: defaultdict(list))
    for segment in split:
        if segment.verses:
            seconds[segment.reciter][segment.verses].append(segment.duration)
    return seconds


def _same_lengths(
    one: Mapping[tuple[VerseRef, ...], Sequence[float]], other: Mapping[tuple[VerseRef, ...], Sequence[float]]
) -> bool:
    """Whether the verses that both recite last equally long."""
    common = one.keys() & other.keys()
    if len(common) < LEAST_COMMON_VERSES:
        return False
    same = sum(
        any(abs(a - b) <= SAME_LENGTH_SECONDS for a in one[verses] for b in other[verses])
        for verses in common
    )
    return same >= SHARE_OF_SAME_LENGTHS * len(common)
