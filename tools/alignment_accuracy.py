"""Measure how exact alignments are.

    python tools/alignment_accuracy.py verses TIMES.jsonl --model BUNDLE --scores FOLDER [--unseen NAME ...]
    python tools/alignment_accuracy.py concatenated MANIFEST --model BUNDLE [--reciters NAME ...]
        [--surahs 86-114] [--recordings 20] [--seed 0]

`verses` compares verse starts with published times: lines with `audio_filepath`, `reciter`, `surah` and
`verses`, each of them with `verse` and `speech_start`. It compares a plain CTC Viterbi alignment of the text,
that of the package ctc-segmentation if it is installed (it is no dependency of this project), and the Quran
search; each as it is, with an offset, with the offset and the emissions divided by label priors (arXiv
2406.02560): log p - a log prior, and with starts moved to rises of level. Priors and offsets are taken from
every second surah of the reciters that are not `--unseen`, and measured on the other surahs and on the unseen
reciters. The emissions and levels are kept in `--scores`. Repeats are counted where they are marked: a
stretch between pauses that begins at a word already recited. Those without a pause are not marked, so where
the aligner finds one that is not, the transducer of the same model decides, as below.

`concatenated` joins verse clips of one reciter into recordings whose truth is exact: verses in a row, verses
recited again, verses left out, pauses and a jump to another surah. The aligner knows nothing but the audio. A
word is marked as certain if it has no `mismatch`. A repeat is found once for each time the aligner goes back.
A reciter may go back within a clip, which the manifest does not tell: where the aligner finds that, the
transducer of the same model decides, which does not know the text. If what it writes for the clip is nearer
to the verse with these words twice than to the verse, they belong to the truth.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from quran_asr import audio
from quran_asr.decoding.forced import force
from quran_asr.decoding.graph import FORMULAS, Kind
from quran_asr.decoding.path import AlignedSegment, Alignment
from quran_asr.decoding.tokenization import Tokenizer
from quran_asr.evaluation.edit_distance import count
from quran_asr.records import SAMPLE_RATE, TimedWord, VerseRef
from quran_asr.runtime.alignment import START_SHIFT, align_scores, search_graph
from quran_asr.runtime.audio_input import blocks_of_file
from quran_asr.runtime.onsets import Levels, at_rises
from quran_asr.runtime.recognizer import FILE_SECONDS, Recognizer, load
from quran_asr.text.passages import parse_range
from quran_asr.text.quran import load_quran
from quran_asr.text.spelling import spell

PRIOR_SCALES = (0.0, 0.3)
REPEAT_SECONDS = 1.0
"""A repeat is found where one of the same verse begins within so much of the marked one."""


@dataclass(frozen=True)
class Surah:
    """A recording with published times."""

    name: str
    reciter: str
    number: int
    scores: np.ndarray
    """[frames, vocabulary + 1]"""
    levels: np.ndarray
    """As `Levels.decibels` gives them."""
    starts: dict[str, float]
    """Verse -> seconds at which its speech begins, where that is clear."""
    basmala: bool
    repeats: list[tuple[str, float]] | None
    """(verse, seconds) of what is recited again; None: not marked."""
    recording: Path


def surahs_of(times: Path, recognizer: Recognizer, kept: Path) -> list[Surah]:
    kept.mkdir(parents=True, exist_ok=True)
    surahs = []
    for text in times.read_text("utf-8").splitlines():
        line: dict[str, Any] = json.loads(text)
        path = kept / f"{Path(line['audio_filepath']).with_suffix('').as_posix().replace('/', '-')}.npz"
        if not path.exists():
            recording = times.parent / line["audio_filepath"]
            levels = Levels()
            blocks = levels.noted(blocks_of_file(recording, FILE_SECONDS))
            scores = recognizer.emissions(blocks, str(recording)).log_probs
            np.savez(path, scores=scores, levels=levels.decibels())
        loaded = np.load(path)
        starts = {v["verse"]: v["speech_start"] for v in line["verses"] if v.get("speech_start") is not None}
        repeats = [(v["verse"], r["start"]) for v in line["verses"] for r in v.get("repeats", [])]
        marked = line["times_kind"] == "segments" or bool(repeats)
        if line["times_kind"] == "segments":
            repeats = marked_repeats(line)
        surahs.append(
            Surah(
                path.stem,
                line["reciter"],
                line["surah"],
                loaded["scores"],
                loaded["levels"],
                starts,
                line["surah"] not in (1, 9) and ("basmala" in line or "opening" in line),
                repeats if marked else None,
                times.parent / line["audio_filepath"],
            )
        )
    return surahs


def marked_repeats(line: dict[str, Any]) -> list[tuple[str, float]]:
    """Where the reciter goes back, by the stretches between pauses; some run over the end of a verse."""

    def place(written: str) -> tuple[int, ...]:
        return tuple(map(int, written.split(":")))

    stretches = [
        (one["start"], place(f"{v['verse']}:{one['word_from']}"), place(f"{v['verse']}:{one['word_to']}"))
        for v in line["verses"]
        for one in v.get("segments", [])
    ]
    stretches += [
        (one["start"], place(one["word_from"]), place(one["word_to"])) for one in line.get("joined", [])
    ]
    stretches.sort()
    return [
        (f"{first[0]}:{first[1]}", start)
        for (_, _, last), (start, first, _) in pairwise(stretches)
        if first <= last
    ]


Aligner = Callable[[np.ndarray, list[int]], np.ndarray]
"""Scores and tokens to the first frame of each token."""


def viterbi(scores: np.ndarray, tokens: list[int]) -> np.ndarray:
    found = force(scores, tokens)
    assert found is not None
    return found.spans[:, 0]


def segmented(scores: np.ndarray, tokens: list[int]) -> np.ndarray:
    """The same by the package ctc-segmentation."""
    from ctc_segmentation import (  # type: ignore[import-not-found]
        CtcSegmentationParameters,
        ctc_segmentation,
        prepare_token_list,
    )

    settings = CtcSegmentationParameters(
        index_duration=1.0, blank=scores.shape[1] - 1, char_list=[str(n) for n in range(scores.shape[1])]
    )
    text, _ = prepare_token_list(settings, [np.array(tokens)])
    timings, _, _ = ctc_segmentation(settings, scores, text)
    return np.asarray(timings[2 : len(tokens) + 2])  # behind a start symbol and a blank


def forced_starts(
    surah: Surah, scores: np.ndarray, recognizer: Recognizer, tokenizer: Tokenizer, aligner: Aligner
) -> dict[str, float]:
    """Verse -> the second in which its first letter is recognized, by an alignment of the given text."""
    quran = load_quran(recognizer.spelling)
    tokens: list[int] = []
    if surah.basmala:
        tokens += tokenizer.encode(spell(FORMULAS[Kind.BASMALA], recognizer.spelling))
    places: dict[str, int] = {}
    for ref in parse_range(str(surah.number)):
        word = tokenizer.encode(quran.verse(ref).split()[0])
        silent = recognizer.bundle.vocabulary.pieces[word[0]] == "▁"
        places[str(ref)] = len(tokens) + int(silent and len(word) > 1)
        tokens += tokenizer.encode(quran.verse(ref))
    first = aligner(scores, tokens)
    return {verse: float(first[place]) * recognizer.bundle.frame_seconds for verse, place in places.items()}


def aligned(surah: Surah, scores: np.ndarray, recognizer: Recognizer) -> Alignment:
    """By the Quran search in the surah."""
    graph = search_graph(recognizer, parse_range(str(surah.number)))
    return align_scores(graph, [scores], recognizer.bundle.frame_seconds, follow_place=False)


def searched(surah: Surah, scores: np.ndarray, recognizer: Recognizer) -> dict[str, float]:
    """The same by the Quran search in the surah: the first time that a verse is begun."""
    starts: dict[str, float] = {}
    for segment in aligned(surah, scores, recognizer).segments:
        for ref in segment.verses:
            if segment.words[0].index == 0 and segment.kind == "verse":
                starts.setdefault(str(ref), segment.start - START_SHIFT)
    return starts


def goes_back(segment: AlignedSegment) -> bool:
    return segment.kind == "repeat" and segment.entry not in ("next", "skip")


def moved_to_rises(starts: dict[str, float], levels: np.ndarray) -> dict[str, float]:
    """Starts in order, at rises of level nearby."""
    times = sorted(starts.items(), key=lambda one: one[1])
    words = tuple(TimedWord("", start, start + 1.0) for _, start in times)
    found = at_rises(Alignment((AlignedSegment((), words, "verse", "next", 0.0),), ()), levels)
    return {verse: word.start for (verse, _), word in zip(times, found.segments[0].words, strict=True)}


def differences(surahs: list[Surah], found: dict[str, dict[str, float]]) -> np.ndarray:
    """Found less published start of each verse; infinite where it was not found."""
    return np.array(
        [found[one.name].get(verse, np.inf) - start for one in surahs for verse, start in one.starts.items()]
    )


def row(name: str, apart: np.ndarray) -> str:
    far = np.abs(apart)
    shares = " | ".join(f"{np.mean(far <= limit):.1%}" for limit in (0.1, 0.3, 1.0))
    return f"| {name} | {len(far)} | {shares} | {np.median(far):.3f} |"


def measure_verses(times: Path, model: Path, kept: Path, unseen: list[str]) -> None:
    recognizer = load(model, decoder="ctc", threads=1)
    tokenizer = Tokenizer(recognizer.bundle.vocabulary)
    surahs = surahs_of(times, recognizer, kept)
    seen = [one for one in surahs if one.reciter not in unseen]
    chosen_on, held_out = seen[::2], seen[1::2]
    groups = {"other surahs": held_out, "unseen reciters": [one for one in surahs if one.reciter in unseen]}
    prior = np.exp(np.concatenate([one.scores for one in chosen_on]).astype(np.float64)).mean(axis=0)
    log_prior = np.log(np.maximum(prior, 1e-6))
    ways: dict[str, Callable[[Surah, np.ndarray], dict[str, float]]] = {
        "plain Viterbi": lambda one, scores: forced_starts(one, scores, recognizer, tokenizer, viterbi),
        "Quran search": lambda one, scores: searched(one, scores, recognizer),
    }
    if find_spec("ctc_segmentation") is not None:
        ways["ctc-segmentation"] = lambda one, scores: forced_starts(
            one, scores, recognizer, tokenizer, segmented
        )
    print(f"offsets and priors from {len(chosen_on)} surahs; prior of the blank {prior[-1]:.2f}\n")
    print("| alignment | priors | offset (s) | rises | set | starts | 0.1 s | 0.3 s | 1 s | median (s) |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for scale in PRIOR_SCALES:
        for way, align in ways.items():
            found = {one.name: align(one, divided(one.scores, log_prior, scale)) for one in surahs}
            apart = differences(chosen_on, found)
            offset = float(np.median(apart[np.isfinite(apart)]))
            shifted = {
                name: {verse: max(0.0, start - offset) for verse, start in starts.items()}
                for name, starts in found.items()
            }
            risen = {one.name: moved_to_rises(shifted[one.name], one.levels) for one in surahs}
            steps = [("+0.00", "no", found)] if not scale else []
            steps += [(f"{-offset:+.2f}", "no", shifted), (f"{-offset:+.2f}", "yes", risen)]
            for shift, rises, starts in steps:
                for group, those in groups.items():
                    if those:
                        cells = row(group, differences(those, starts))
                        print(f"| {way} | {scale} | {shift} | {rises} {cells}", flush=True)
    free = load(model, decoder="transducer", threads=1)
    report_repeats([one for one in surahs if one.repeats is not None], recognizer, free)


def divided(scores: np.ndarray, log_prior: np.ndarray, scale: float) -> np.ndarray:
    """Emissions divided by the scaled priors, normalized again."""
    if not scale:
        return scores
    raised = scores - scale * log_prior
    return np.asarray(raised - np.logaddexp.reduce(raised, axis=1, keepdims=True), np.float32)


def report_repeats(surahs: list[Surah], recognizer: Recognizer, free: Recognizer) -> None:
    right = marked = given = unmarked = 0
    for one in surahs:
        segments = aligned(one, one.scores, recognizer).segments
        found = [place for place, segment in enumerate(segments) if segment.verses and goes_back(segment)]
        given += len(found)
        for verse, start in one.repeats or []:
            marked += 1
            near = next(
                (
                    place
                    for place in found
                    if str(segments[place].verses[0]) == verse
                    and abs(segments[place].start - start) < REPEAT_SECONDS
                ),
                None,
            )
            if near is not None:
                right += 1
                found.remove(near)
        unmarked += sum(is_recited_again(one.recording, segments, place, free) for place in found)
    print(
        f"\nrepeats: {marked} marked, {given} found, {right} of them right, F1 {f1(right, given, marked):.3f}"
        f"\n{unmarked} of the {given - right} others are written twice by the transducer; with these, F1 "
        f"{f1(right + unmarked, given, marked + unmarked):.3f}"
    )


def is_recited_again(
    recording: Path, segments: Sequence[AlignedSegment], place: int, free: Recognizer
) -> bool:
    """Whether a recognizer that does not know the text is nearer to the words of a repeat twice.

    Args:
        recording: that is aligned.
        segments: of it.
        place: of the repeat among them.
        free: the recognizer.
    """
    verses = segments[place].verses
    first = last = place
    while first and segments[first - 1].verses == verses:
        first -= 1
    while last + 1 < len(segments) and segments[last + 1].verses == verses:
        last += 1
    reached = segments[place - 1].words[-1].index or 0
    before = [word.text for one in segments[first:place] for word in one.words]
    again = [word.text for word in segments[place].words if (word.index or 0) <= reached]
    behind = [word.text for one in segments[place : last + 1] for word in one.words][len(again) :]
    start = max(0.0, segments[first].start)
    written = free.text_of(audio.read(recording, start, segments[last].end - start))
    twice, once = " ".join([*before, *again, *behind]), " ".join([*before, *behind])
    return count(twice, written).errors < count(once, written).errors


def f1(right: int, found: int, true: int) -> float:
    return 2 * right / (found + true) if found + true else 1.0


@dataclass
class Spoken:
    """A recording of clips, and what is recited in it."""

    samples: list[np.ndarray]
    words: list[tuple[str, int]]
    starts: list[tuple[str, float]]
    repeated: list[str]

    @property
    def seconds(self) -> float:
        return sum(map(len, self.samples)) / SAMPLE_RATE

    def pause(self, seconds: float) -> None:
        self.samples.append(np.zeros(round(seconds * SAMPLE_RATE), np.float32))

    def say(self, line: dict[str, Any], spelling: str) -> None:
        sound = audio.read(line["audio_filepath"])
        (verse,) = line["verses"]
        self.starts.append((verse, self.seconds + speech_start(sound)))
        length = len(load_quran(spelling).verse(VerseRef.parse(verse)).split())
        self.words += [(verse, index) for index in range(length)]
        self.samples.append(sound)

    def clip_at(self, seconds: float) -> np.ndarray:
        """The samples of the clip that is played at a time."""
        ends = np.cumsum([len(samples) for samples in self.samples])
        place = int(np.searchsorted(ends, seconds * SAMPLE_RATE, "right"))
        return self.samples[min(place, len(self.samples) - 1)]


def speech_start(samples: np.ndarray) -> float:
    """Seconds until the level first is within 25 dB of the loudest twentieth."""
    hop = SAMPLE_RATE // 100
    frames = samples[: len(samples) // hop * hop].reshape(-1, hop).astype(np.float64)
    levels = 10 * np.log10(np.mean(frames**2, axis=1) + 1e-12)
    return float((levels > np.percentile(levels, 95) - 25).argmax()) * 0.01


def concatenated(lines: list[dict[str, Any]], rng: random.Random, spelling: str) -> Iterator[Spoken]:
    by_surah: dict[tuple[str, int], dict[int, dict[str, Any]]] = {}
    for line in lines:
        if len(line["verses"]) == 1:
            ref = VerseRef.parse(line["verses"][0])
            by_surah.setdefault((line["reciter"], ref.surah), {})[ref.ayah] = line
    long = sorted(key for key, verses in by_surah.items() if len(verses) >= 8)
    while True:
        spoken = Spoken([], [], [], [])
        reciter = rng.choice(long)[0]
        spoken.pause(0.5)
        for surah in rng.sample([key for key in long if key[0] == reciter], 2):
            verses = by_surah[surah]
            ayah = rng.choice(sorted(verses)[:-6])
            for _ in range(6):
                if ayah not in verses:
                    ayah += 1
                    continue
                spoken.say(verses[ayah], spelling)
                spoken.pause(rng.uniform(0.2, 1.0))
                fate = rng.random()
                if fate < 0.15:
                    spoken.repeated.append(verses[ayah]["verses"][0])
                    spoken.say(verses[ayah], spelling)
                    spoken.pause(rng.uniform(0.2, 1.0))
                ayah += 2 if fate > 0.9 else 1
        yield spoken


@dataclass
class Tally:
    """Counts over recordings."""

    right: int = 0
    found: int = 0
    true: int = 0

    @property
    def f1(self) -> float:
        return f1(self.right, self.found, self.true)


@dataclass(frozen=True)
class WithinClip:
    """Words of a clip that are aligned twice."""

    words: tuple[TimedWord, ...]
    """Those of the second time."""
    once: list[str]
    """The verse as it is written,"""
    twice: list[str]
    """and with these words again."""

    def is_written(self, spoken: Spoken, free: Recognizer) -> bool:
        """Whether a recognizer that does not know the text is nearer to the words twice."""
        written = free.text_of(spoken.clip_at(self.words[0].start))
        return count(" ".join(self.twice), written).errors < count(" ".join(self.once), written).errors


def within_clips(found: Alignment, planted: list[str], spelling: str) -> Iterator[WithinClip]:
    """What is aligned again, but for one repeat from the first word on of each verse that is planted."""
    left = list(planted)
    reached: dict[str, int] = {}
    for segment in found.segments:
        if not segment.verses:
            continue
        verse, first = str(segment.verses[0]), segment.words[0].index or 0
        if goes_back(segment) and not first and verse in left:
            left.remove(verse)
        elif goes_back(segment):
            before = reached[verse]
            again = tuple(word for word in segment.words if (word.index or 0) <= before)
            text = load_quran(spelling).verse(segment.verses[0]).split()
            yield WithinClip(again, text, text[: before + 1] + text[first:])
        reached[verse] = segment.words[-1].index or 0


def measure_concatenated(lines: list[dict[str, Any]], model: Path, recordings: int, seed: int) -> None:
    recognizer, free = load(model, decoder="ctc", threads=1), load(model, decoder="transducer", threads=1)
    graph = search_graph(recognizer)
    vocabulary, frame_seconds = recognizer.bundle.vocabulary, recognizer.bundle.frame_seconds
    words, certain, repeats, beyond, written = Tally(), Tally(), Tally(), 0, 0
    seconds, apart = 0.0, {step: list[float]() for step in ("no correction", "offset", "rises of level")}
    drawn = concatenated(lines, random.Random(seed), recognizer.spelling)
    for _, spoken in zip(range(recordings), drawn, strict=False):
        seconds += spoken.seconds
        levels, samples = Levels(), np.concatenate(spoken.samples)
        scores = recognizer.scores(levels.noted([samples]))
        offset = align_scores(graph, scores, frame_seconds, follow_place=True, vocabulary=vocabulary)
        found = at_rises(offset, levels.decibels())
        within = list(within_clips(found, spoken.repeated, recognizer.spelling))
        true = [one for one in within if one.is_written(spoken, free)]
        beyond, written = beyond + len(within), written + len(true)
        count_words(spoken, found, {word for one in true for word in one.words}, words, certain)
        count_repeats(spoken, found, len(true), repeats)
        for step, alignment, shift in (
            ("no correction", offset, START_SHIFT),
            ("offset", offset, 0.0),
            ("rises of level", found, 0.0),
        ):
            begins = [
                (str(s.verses[0]), s.start - shift)
                for s in alignment.segments
                if s.verses and s.words[0].index == 0
            ]
            for verse, start in spoken.starts:
                apart[step].append(min((abs(at - start) for of, at in begins if of == verse), default=np.inf))
    starts = len(apart["offset"])
    print(f"{recordings} recordings, {seconds / 60:.0f} min, {words.true} words, {starts} verse starts\n")
    print(
        f"words F1 {words.f1:.4f} (precision {words.right / words.found:.4f}, "
        f"recall {words.right / words.true:.4f})\n"
        f"words marked as certain {certain.found}, of them at a wrong place "
        f"{certain.found - certain.right} ({1 - certain.right / certain.found:.2%})\n"
        f"right words with a mismatch {words.right - certain.right} "
        f"({(words.right - certain.right) / words.right:.2%})\n"
        f"repeats F1 {repeats.f1:.3f} ({repeats.true - written} planted, {repeats.found} found, "
        f"{repeats.right} right); beyond those planted {beyond}, {written} of them written twice\n"
    )
    print("| verse starts | n | 0.1 s | 0.3 s | 1 s | median (s) |\n|---|---|---|---|---|---|")
    for step, distances in apart.items():
        print(row(step, np.array(distances)))


def count_words(
    spoken: Spoken, found: Alignment, twice: set[TimedWord], words: Tally, certain: Tally
) -> None:
    """`twice`: words that are recited once more within a clip; they belong to the truth."""
    for tally, those in ((words, twice), (certain, {word for word in twice if word.mismatch is None})):
        tally.right, tally.found = tally.right + len(those), tally.found + len(those)
        tally.true += len(twice)
    aligned = [word for s in found.segments for word in s.words if s.verses and word not in twice]
    matching = SequenceMatcher(
        None, spoken.words, [(str(word.verse), word.index) for word in aligned], autojunk=False
    )
    right = [at for block in matching.get_matching_blocks() for at in range(block.b, block.b + block.size)]
    words.right += len(right)
    words.found += len(aligned)
    words.true += len(spoken.words)
    certain.right += sum(aligned[at].mismatch is None for at in right)
    certain.found += sum(word.mismatch is None for word in aligned)
    certain.true += len(spoken.words)


def count_repeats(spoken: Spoken, found: Alignment, within: int, repeats: Tally) -> None:
    """`within`: repeats within clips; they belong to the truth."""
    repeats.true, repeats.right = repeats.true + within, repeats.right + within
    again = [str(segment.verses[0]) for segment in found.segments if goes_back(segment)]
    repeats.found += len(again)
    repeats.true += len(spoken.repeated)
    for verse in spoken.repeated:
        if verse in again:
            again.remove(verse)
            repeats.right += 1


def single_verses(manifest: Path, reciters: list[str], surahs: str) -> list[dict[str, Any]]:
    """The lines of a manifest with one verse each, with paths."""
    first, _, last = surahs.partition("-")
    lines = []
    for text in manifest.read_text("utf-8").splitlines():
        line = json.loads(text)
        if len(line["verses"]) != 1 or (reciters and line["reciter"] not in reciters):
            continue
        if int(first) <= VerseRef.parse(line["verses"][0]).surah <= int(last or first):
            lines.append(line | {"audio_filepath": str(manifest.parent / line["audio_filepath"])})
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    commands = parser.add_subparsers(required=True, dest="command")
    verses = commands.add_parser("verses")
    verses.add_argument("times", type=Path)
    verses.add_argument("--scores", type=Path, required=True, help="folder for the emissions")
    verses.add_argument("--unseen", nargs="*", default=[], help="reciters that nothing is chosen on")
    joined = commands.add_parser("concatenated")
    joined.add_argument("manifest", type=Path)
    joined.add_argument("--reciters", nargs="*", default=[], help="of the manifest; default: all")
    joined.add_argument("--surahs", default="86-114", help="from which clips are taken")
    joined.add_argument("--recordings", type=int, default=20)
    joined.add_argument("--seed", type=int, default=0)
    for command in (verses, joined):
        command.add_argument("--model", type=Path, required=True, help="a bundle")
    asked = parser.parse_args()
    if asked.command == "verses":
        measure_verses(asked.times, asked.model, asked.scores, asked.unseen)
    else:
        lines = single_verses(asked.manifest, asked.reciters, asked.surahs)
        measure_concatenated(lines, asked.model, asked.recordings, asked.seed)


if __name__ == "__main__":
    main()
