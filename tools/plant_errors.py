"""Plant wrong words in recitations, and count how many of them `align` marks as a mismatch.

    python tools/plant_errors.py BUNDLE MANIFEST [--errors 200] [--seed 0]

A word of a clip is cut out, and another word of the same reciter, from this clip or another one, is put in
its place, so that what is recited is known exactly: the text with one wrong word. The clip is then aligned
with the text. The error is found if its word is marked, or is not in the alignment at all; any other word
that is marked is a false flag, neighbours of the splice too. Words are cut where the alignment of the
unchanged clip puts them, at the quietest point nearby; clips that are not aligned word for word are left out,
also those in which other speech would have to stand in place of a word.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from quran_asr import audio
from quran_asr.corpus.manifest import read_manifest
from quran_asr.decoding.graph import Costs, build_graph
from quran_asr.decoding.tokenization import Tokenizer
from quran_asr.records import SAMPLE_RATE, Segment, TimedWord, VerseRef
from quran_asr.runtime.alignment import align_scores
from quran_asr.runtime.recognizer import Recognizer, load
from quran_asr.runtime.verse_clips import quietest
from quran_asr.text.quran import load_quran

if TYPE_CHECKING:
    from quran_asr.records import Samples

MOST_SECONDS = 30.0
FEWEST_WORDS = 3
NEAR = 0.1
"""Seconds from the beginning of a word in which it is cut at the quietest point."""


@dataclass(frozen=True)
class Recited:
    """A clip, its aligned words, and where they are cut apart."""

    clip: Segment
    samples: Samples
    words: tuple[TimedWord, ...]
    cuts: tuple[int, ...]
    """Samples: one more than words."""


@dataclass(frozen=True)
class Planted:
    clip: Segment
    samples: Samples
    wrong: tuple[VerseRef | None, int | None]
    """Verse and index of the word that was replaced."""


def aligned(
    recognizer: Recognizer, clip: Segment, samples: Samples, costs: Costs | None = None
) -> tuple[TimedWord, ...]:
    tokenizer = Tokenizer(recognizer.bundle.vocabulary)
    found = align_scores(
        build_graph(load_quran(recognizer.spelling), tokenizer, clip.verses, costs),
        recognizer.scores([samples], clip.place),
        recognizer.bundle.frame_seconds,
        follow_place=False,
        vocabulary=recognizer.bundle.vocabulary,
    )
    return tuple(word for segment in found.segments if segment.verses for word in segment.words)


def recited(recognizer: Recognizer, clips: Sequence[Segment]) -> Iterator[Recited]:
    """The clips whose words are all aligned, in order."""
    for clip in clips:
        expected = clip.text.split()
        if clip.duration > MOST_SECONDS or len(expected) < FEWEST_WORDS:
            continue
        samples = audio.read(clip.audio, clip.offset, clip.duration or None)
        words = aligned(recognizer, clip, samples, Costs(wrong_word=np.inf))
        if [word.text for word in words] != expected:
            continue
        inner = [quietest(samples, max(0.0, word.start - NEAR), word.start + NEAR) for word in words[1:]]
        cuts = tuple(round(second * SAMPLE_RATE) for second in inner)
        yield Recited(clip, samples, words, (0, *cuts, len(samples)))


def plant(known: Sequence[Recited], errors: int, seed: int) -> Iterator[Planted]:
    """One wrong word a clip, in turn over all of them. First and last words stay: they hold silence."""
    rng = np.random.default_rng(seed)
    for number in range(errors):
        here = known[number % len(known)]
        place = int(rng.integers(1, len(here.words) - 1))
        donors = [
            (other, at)
            for other in known
            if other.clip.reciter == here.clip.reciter
            for at in range(1, len(other.words) - 1)
            if other.words[at].text != here.words[place].text
        ]
        other, at = donors[int(rng.integers(len(donors)))]
        spliced = (
            here.samples[: here.cuts[place]],
            other.samples[other.cuts[at] : other.cuts[at + 1]],
            here.samples[here.cuts[place + 1] :],
        )
        word = here.words[place]
        yield Planted(here.clip, np.concatenate(spliced), (word.verse, word.index))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--errors", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    recognizer = load(chosen.bundle, decoder="ctc", threads=1)
    clips = read_manifest(chosen.manifest, recognizer.spelling)
    known = list(recited(recognizer, clips))
    unchanged = [word for one in known for word in aligned(recognizer, one.clip, one.samples)]
    marked = sum(word.mismatch is not None for word in unchanged)
    print(f"{len(known)} of {len(clips)} clips aligned word for word")
    print(f"unchanged: {marked} of {len(unchanged)} words marked ({100 * marked / len(unchanged):.1f} %)")
    found = absent = false = others = lost = 0
    for planted in plant(known, chosen.errors, chosen.seed):
        words = aligned(recognizer, planted.clip, planted.samples)
        by_place = {(word.verse, word.index): word.mismatch is not None for word in words}
        absent += planted.wrong not in by_place
        found += by_place.pop(planted.wrong, True)
        lost += len(planted.clip.text.split()) - 1 - len(by_place)
        false += sum(by_place.values())
        others += len(by_place)
    print(f"planted: {found} of {chosen.errors} found ({100 * found / chosen.errors:.1f} %)")
    print(
        f"  {found - absent} of them marked on the word itself, {absent} because the word is not aligned; "
        f"{lost} other words are not aligned either"
    )
    print(f"false flags: {false} of {others} other words ({100 * false / others:.1f} %)")


if __name__ == "__main__":
    main()
