"""Plant wrong words in recitations, and count how many of them `align` marks as a mismatch.

    python tools/plant_errors.py BUNDLE MANIFEST [--errors 200] [--seed 0]
    python tools/plant_errors.py BUNDLE MANIFEST --cuts 80 [--seed 0]

A word of a clip is cut out, and another word of the same reciter, from this clip or another one, is put in
its place, so that what is recited is known exactly: the text with one wrong word. The clip is then aligned
with the text. The error is found if its word is marked, or is not in the alignment at all; any other word
that is marked is a false flag, neighbours of the splice too. Words are cut and joined as by `evaluate
--planted-errors`, where the alignment of the unchanged clip puts them; clips that are not aligned word for
word are left out, also those in which other speech would have to stand in place of a word.

With --cuts clips are cut in two at one place, at several times around the aligned start: how often are the
words on both sides, which are recognized in the whole clip, recognized in the halves?
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
from quran_asr.evaluation.planted_errors import (
    AlignedClip,
    Stretch,
    at_level,
    cut_words,
    join,
    recognized_words,
)
from quran_asr.records import Segment, TimedWord, VerseRef
from quran_asr.runtime.alignment import align_scores
from quran_asr.runtime.recognizer import Recognizer, load
from quran_asr.text.quran import load_quran

if TYPE_CHECKING:
    from quran_asr.records import Samples

SHIFTS = (-0.24, -0.2, -0.16, -0.12, -0.08, -0.04, 0.0)
"""Seconds from the aligned start of a word at which it is cut from the word before."""
MOST_SECONDS = 30.0
FEWEST_WORDS = 3


@dataclass(frozen=True)
class Recited:
    """A clip and its aligned words."""

    clip: Segment
    samples: Samples
    words: tuple[TimedWord, ...]
    cut: tuple[Stretch, ...]
    """The audio of each word."""


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
        yield Recited(clip, samples, words, tuple(cut_words(samples, words)))


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
        donor = at_level(other.cut[at], here.cut[place])
        samples = join([*here.cut[:place], donor, *here.cut[place + 1 :]])
        word = here.words[place]
        yield Planted(here.clip, samples, (word.verse, word.index))


def print_cuts(recognizer: Recognizer, known: Sequence[Recited], cuts: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    places = []
    for one in known:
        found = recognized_words(AlignedClip(one.clip, one.words), recognizer.text_of(one.samples))
        places += [(one, at) for at in range(2, len(one.words) - 1) if {at - 1, at} <= found]
    chosen = [places[int(at)] for at in rng.permutation(len(places))[:cuts]]
    print(f"{len(chosen)} cuts\n\n| shift (s) | word before | word behind | both |\n|---|---|---|---|")
    for shift in SHIFTS:
        kept = []
        for one, at in chosen:
            cut = cut_words(one.samples, one.words, shift)
            before, behind = (recognizer.text_of(join(half)).split() for half in (cut[:at], cut[at:]))
            words = one.words[at - 1].text, one.words[at].text
            kept.append((before[-1:] == [words[0]], behind[:1] == [words[1]]))
        shares = [np.mean([each[0] for each in kept]), np.mean([each[1] for each in kept])]
        print(
            f"| {shift:.2f} | "
            + " | ".join(f"{100 * s:.0f} %" for s in (*shares, np.mean([*map(all, kept)])))
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--errors", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cuts", type=int, default=0)
    chosen = parser.parse_args()
    recognizer = load(chosen.bundle, decoder="ctc", threads=1)
    clips = read_manifest(chosen.manifest, recognizer.spelling)
    known = list(recited(recognizer, clips))
    if chosen.cuts:
        print_cuts(load(chosen.bundle, threads=1), known, chosen.cuts, chosen.seed)
        return
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
