"""Make clips for training whose words stand in an order that the Quran does not have.

    python tools/splice_words.py MANIFEST --to FOLDER [--hours 10] [--model BUNDLE] [--processes 2] [--seed 0]

A model that has only heard verses learns them by heart, and writes what it expects where a reciter says
something else. Each clip made here is a row of pieces of one to four neighbouring words, each piece from
another clip of the same reciter than the one before, cut where `align` finds the words and joined as by
`evaluate --planted-errors`: what is recited is known, and is no verse. Clips that are not aligned word for
word are left out, and pieces with words that are hardly recognized.

Writes FOLDER/clips/*.flac and FOLDER/manifest.jsonl, to be trained on beside MANIFEST. FOLDER/words.jsonl
keeps the alignments, so that an interrupted run continues and another seed needs no second pass; give
another MODEL another folder.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import soundfile
from plant_errors import recited

from quran_asr import audio
from quran_asr.corpus.manifest import read_manifest
from quran_asr.evaluation.planted_errors import Stretch, at_level, cut_words, join
from quran_asr.records import SAMPLE_RATE, Segment, TimedWord
from quran_asr.runtime.recognizer import Recognizer, load

MOST_WORDS = 4
"""Of a piece."""
FEWEST_PIECES = 2
CLIP_SECONDS = (2.5, 12.0)
LEAST_CONFIDENCE = 0.3
CLIPS_AT_ONCE = 100
PEAK = 0.99


@dataclass(frozen=True)
class Source:
    """A clip whose words are all aligned."""

    audio: str
    offset: float
    duration: float
    reciter: str
    words: tuple[tuple[str, float, float, float], ...]
    """Text, start, end (seconds of the clip), confidence."""


@cache
def recognizer(model: Path | None) -> Recognizer:
    return load(model, decoder="ctc", threads=1) if model else load(decoder="ctc", threads=1)


def sources_of(model: Path | None, clips: Sequence[Segment]) -> list[Source]:
    return [
        Source(
            one.clip.audio,
            one.clip.offset,
            one.clip.duration,
            one.clip.reciter,
            tuple((word.text, word.start, word.end, word.confidence or 0.0) for word in one.words),
        )
        for one in recited(recognizer(model), clips)
    ]


def aligned_sources(clips: Sequence[Segment], kept: Path, model: Path | None, processes: int) -> list[Source]:
    """The sources among the clips; those of earlier runs are read from `kept`, new ones are added to it."""
    done: dict[tuple[str, float], Source | None] = {}
    if kept.exists():
        whole, _, torn = kept.read_text(encoding="utf-8").rpartition("\n")
        if torn:  # an interrupted run left a part of a line
            kept.write_text(whole + "\n" if whole else "", encoding="utf-8")
        for line in whole.splitlines():
            values = json.loads(line)
            words = values.pop("words")
            source = Source(**values, words=tuple(map(tuple, words))) if words else None
            done[values["audio"], values["offset"]] = source
    missing = [clip for clip in clips if (clip.audio, clip.offset) not in done]
    parts = [missing[at : at + CLIPS_AT_ONCE] for at in range(0, len(missing), CLIPS_AT_ONCE)]
    with ProcessPoolExecutor(processes) as pool, kept.open("a", encoding="utf-8") as file:
        for part, found in zip(parts, pool.map(sources_of, [model] * len(parts), parts), strict=True):
            new = {(one.audio, one.offset): one for one in found}
            for clip in part:
                source = new.get((clip.audio, clip.offset))
                done[clip.audio, clip.offset] = source
                values = vars(source) if source else vars(Source(clip.audio, clip.offset, 0.0, "", ()))
                file.write(json.dumps(values, ensure_ascii=False) + "\n")
            file.flush()
            print(f"{len(done):,} of {len(clips):,} clips aligned", flush=True)
    return [source for clip in clips if (source := done[clip.audio, clip.offset])]


def usable_pieces(source: Source) -> list[range]:
    """Some neighbouring words each, all of which are recognized well enough."""
    ends = [
        (first, first + count)
        for first in range(len(source.words))
        for count in range(1, MOST_WORDS + 1)
        if first + count <= len(source.words)
    ]
    return [
        range(first, end)
        for first, end in ends
        if min(confidence for *_, confidence in source.words[first:end]) >= LEAST_CONFIDENCE
    ]


def spliced(sources: Sequence[Source], hours: float, seed: int) -> Iterator[tuple[str, str, list[Stretch]]]:
    """Clips of so many hours in all: reciter, text and pieces of each.

    A reciter's share grows with the root of the number of his clips: of a few complete sets among many
    voices, and of voices that recite one passage, neither takes all. Reciters need two clips.
    """
    choose = random.Random(seed)
    by_reciter: dict[str, list[tuple[Source, list[range]]]] = {}
    for source in sources:
        if source.reciter and (pieces := usable_pieces(source)):
            by_reciter.setdefault(source.reciter, []).append((source, pieces))
    reciters = sorted(reciter for reciter, known in by_reciter.items() if len(known) > 1)
    shares = [len(by_reciter[reciter]) ** 0.5 for reciter in reciters]
    seconds = 0.0
    while reciters and seconds < hours * 3600:
        reciter = choose.choices(reciters, shares)[0]
        wanted = choose.uniform(*CLIP_SECONDS)
        words: list[str] = []
        joined: list[Stretch] = []
        length, before = 0.0, None
        while length < wanted or len(joined) < FEWEST_PIECES:
            source, usable = choose.choice(by_reciter[reciter])
            if source is before:
                continue
            before = source
            places = choose.choice(usable)
            stretch = cut_piece(source, places)
            joined.append(at_level(stretch, joined[0]) if joined else stretch)
            words += [source.words[place][0] for place in places]
            length += (stretch.end - stretch.start) / SAMPLE_RATE
        seconds += length
        yield reciter, " ".join(words), joined


def cut_piece(source: Source, places: range) -> Stretch:
    samples = audio.read(source.audio, source.offset, source.duration)
    cut = cut_words(samples, [TimedWord(*word) for word in source.words])
    return Stretch(samples, cut[places[0]].start, cut[places[-1]].end)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--to", type=Path, required=True)
    parser.add_argument("--hours", type=float, default=10.0)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    (chosen.to / "clips").mkdir(parents=True, exist_ok=True)
    clips = read_manifest(chosen.manifest, recognizer(chosen.model).spelling)
    sources = aligned_sources(clips, chosen.to / "words.jsonl", chosen.model, chosen.processes)
    print(f"{len(sources):,} of {len(clips):,} clips aligned word for word")
    with (chosen.to / "manifest.jsonl").open("w", encoding="utf-8") as manifest:
        for number, (reciter, text, pieces) in enumerate(spliced(sources, chosen.hours, chosen.seed)):
            samples = join(pieces)
            samples *= min(1.0, PEAK / max(float(np.abs(samples).max()), 1e-9))
            name = f"clips/{number:05}.flac"
            soundfile.write(chosen.to / name, samples, SAMPLE_RATE)
            line = {
                "audio_filepath": name,
                "duration": round(len(samples) / SAMPLE_RATE, 4),
                "text": text,
                "reciter": reciter,
                "riwaya": "hafs",
            }
            manifest.write(json.dumps(line, ensure_ascii=False) + "\n")
    if not (chosen.to / "manifest.jsonl").stat().st_size:
        sys.exit("error: no reciter has two clips that are aligned word for word and recognized well enough")
    print(f"wrote {chosen.to / 'manifest.jsonl'}")


if __name__ == "__main__":
    main()
