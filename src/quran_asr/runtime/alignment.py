"""Identification and alignment: the verses of a recording, and when each of their words is recited."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from quran_asr.audio import probe, read
from quran_asr.decoding import ctc
from quran_asr.decoding import identify as identification
from quran_asr.decoding.agreement import agreement
from quran_asr.decoding.follow import finish_following, follow, start_following
from quran_asr.decoding.graph import FORMULAS, Graph, Kind, build_graph
from quran_asr.decoding.mismatch import mismatches, set_apart
from quran_asr.decoding.path import AlignedSegment, Alignment, Clock, Unaligned, align_path
from quran_asr.decoding.path_ends import finish
from quran_asr.decoding.search import advance
from quran_asr.decoding.search_state import start
from quran_asr.decoding.tokenization import Tokenizer
from quran_asr.decoding.visits import Visit
from quran_asr.decoding.vocabulary import Vocabulary
from quran_asr.errors import QuranAsrError
from quran_asr.records import SAMPLE_RATE, Emissions, Hypothesis, TimedWord, VerseRef
from quran_asr.runtime.audio_input import blocks_of_file
from quran_asr.runtime.bundle import default_model
from quran_asr.runtime.n_best import encode_samples
from quran_asr.runtime.onsets import Levels, at_rises
from quran_asr.runtime.recognizer import FILE_SECONDS, Recognizer, load, require_file_name
from quran_asr.runtime.resampling import Resampler
from quran_asr.text.passages import read_passage, word_map
from quran_asr.text.quran import load_quran
from quran_asr.text.spelling import edition_of, spell

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from quran_asr.decoding.identify import Identification, PlaceInText
    from quran_asr.records import Samples, Segment

START_SHIFT = -0.18
"""Seconds from the frame in which the first phone of a word is recognized to its beginning, since CTC
recognizes a token after it has begun. The median of 8 surahs with the model in the package; measured by
tools/alignment_accuracy.py, see docs/results/alignment.md."""
OTHER_SPEEDS = (0.85, 0.92, 1.1, 1.2)
"""A recording in which no verse is found is played at these speeds, which change its pitch and its speech
rate. A voice that differs from those of the training is often recognized better at one of them. Chosen on
validation clips, see docs/results/accuracy.md."""
LEAST_TOGETHER = -3.5
"""Evidence of a place and half the agreement of the transducer with it, at any speed, where the evidence at
the own speed does not suffice. Above those of all recordings without Quran, see docs/results/accuracy.md."""
AT_TWO_SPEEDS = 3.0
"""Evidence of a place at another speed that suffices without the transducer, if a second speed has the same
place."""
LONGEST_AGAIN = 120.0
"""Seconds of the longest recording in which the transducer is asked, and that is played at other speeds."""
KINDS_IN_JSON = {"sadaqa": "other"}
"""Kind of a segment -> its name in JSON, where that differs."""


@dataclass(frozen=True, slots=True)
class IdentifiedRecording:
    """What a recording holds."""

    audio: str
    """Path of the recording."""
    model: str
    """Name of the model."""
    place: Identification
    """Where it is in the Quran."""
    hypothesis: str
    """The unconstrained recognition, in the model's spelling: best path of CTC."""
    speed: float = 1.0
    """At which it was played for this result."""
    agreement: float | None = None
    """Nats by which the transducer finds these words more probable than its own, hardly ever above 0; None
    where CTC's evidence sufficed, or nothing fits."""

    @property
    def verses(self) -> tuple[VerseRef, ...]:
        """In recited order; empty if no verse fits."""
        return self.place.verses

    def to_json(self) -> dict[str, Any]:
        """As `quran-asr identify --json` prints it; words are counted from 0."""
        place, found = self.place, bool(self.place.verses)
        return {
            "audio_filepath": self.audio,
            "model": self.model,
            "speed": self.speed,
            "verses": [str(verse) for verse in place.verses],
            "first_word": place.first_word if found else None,
            "last_word": place.last_word if found else None,
            "score": round(place.score, 3) if found else None,
            "evidence": round(place.evidence, 3),
            "agreement": None if self.agreement is None else round(self.agreement, 3),
            "margin": round(place.margin, 3) if math.isfinite(place.margin) else None,
            "equal": [_place_json(other) for other in place.equal],
            "alternatives": [_place_json(other) for other in place.alternatives],
            "hypothesis": self.hypothesis,
        }


@dataclass(frozen=True, slots=True)
class AlignedRecording:
    """A recording aligned with the text."""

    audio: str
    """Path of the recording."""
    model: str
    """Name of the model."""
    spelling: str
    """Of the words: `letters`, `diacritized` or `uthmani`."""
    seconds: float
    """Length of the recording."""
    segments: tuple[AlignedSegment, ...]
    """In recited order. Each is of one verse or one formula."""
    unaligned: tuple[Unaligned, ...]
    """Speech that is not Quran, or not recognized as such."""

    @property
    def words(self) -> tuple[TimedWord, ...]:
        """Of all segments."""
        return tuple(word for segment in self.segments for word in segment.words)

    def to_json(self) -> dict[str, Any]:
        """As `quran-asr align --json` prints it: seconds from the start, words counted from 0."""
        return {
            "audio_filepath": self.audio,
            "model": self.model,
            "segments": [
                {
                    "verses": [str(verse) for verse in segment.verses],
                    "words": [_word_json(word) for word in segment.words],
                    "start": round(segment.start, 3),
                    "end": round(segment.end, 3),
                    "kind": KINDS_IN_JSON.get(segment.kind, segment.kind),
                    "score": round(segment.score, 3),
                }
                for segment in self.segments
            ],
            "unaligned": [
                {"start": round(one.start, 3), "end": round(one.end, 3), "reason": "not recognized as Quran"}
                for one in self.unaligned
            ],
        }


def identify(audio: str | Path, model: str | Path | Recognizer | None = None) -> IdentifiedRecording:
    """Find the verses of a recording, with one search of the whole Quran.

    In recordings of up to two minutes with a little too weak evidence of CTC the transducer decides, and
    those in which nothing is found are searched again played slower and faster.

    Args:
        audio: wav, flac, mp3, ogg or opus.
        model: a bundle, or a recognizer that is loaded already; None takes the model of the package.

    Raises:
        QuranAsrError: no such recording, no such model, or the package has none.
    """
    require_file_name(audio)
    recognizer = _recognizer(model)
    found = _identified(recognizer, lambda: blocks_of_file(audio, FILE_SECONDS), str(audio))
    hypothesis = recognizer.bundle.vocabulary.text(ctc.greedy(found.emissions.log_probs).tokens)
    name = recognizer.bundle.name
    return IdentifiedRecording(str(audio), name, found.place, hypothesis, found.speed, found.agreement)


@dataclass(frozen=True, slots=True)
class _Attempt:
    """A recording at one speed."""

    place: Identification
    emissions: Emissions
    speed: float = 1.0
    agreement: float | None = None
    """None where no place was found."""

    @property
    def transducer_agrees(self) -> bool:
        return self.agreement is not None and self.place.evidence + self.agreement / 2 >= LEAST_TOGETHER

    def is_confirmed(self, attempts: Sequence[_Attempt]) -> bool:
        """Whether its evidence is strong and another of the attempts has the same place."""
        own = _wordings(self.place)
        others = (_wordings(one.place) for one in attempts if one is not self)
        return self.place.evidence >= AT_TWO_SPEEDS and not all(map(own.isdisjoint, others))


def _wordings(place: Identification) -> set[tuple[VerseRef, ...]]:
    """The verses of a place, and those of equal wording."""
    return {place.verses, *(other.verses for other in place.equal)} - {()}


def _identified(recognizer: Recognizer, blocks: Callable[[], Iterable[Samples]], where: str) -> _Attempt:
    """What a recording holds, by CTC alone where that suffices."""
    emissions = recognizer.emissions(blocks(), where)
    first = _Attempt(identification.identify(search_graph(recognizer), emissions), emissions)
    if first.place.verses or not 0 < len(emissions.log_probs) * emissions.frame_seconds <= LONGEST_AGAIN:
        return first
    samples = np.concatenate(list(blocks()))
    attempts = [_attempt(recognizer, samples, 1.0, where)]
    if not attempts[0].transducer_agrees:
        attempts += [_attempt(recognizer, samples, speed, where) for speed in OTHER_SPEEDS]
    accepted = [one for one in attempts if one.transducer_agrees or one.is_confirmed(attempts)]
    return max(accepted, key=lambda one: one.place.evidence, default=first)


def _attempt(recognizer: Recognizer, samples: Samples, speed: float, where: str) -> _Attempt:
    """The best place in a recording at a speed, and what the transducer thinks of it."""
    graph = search_graph(recognizer)
    played = samples if speed == 1.0 else _played(samples, speed)
    encoded = encode_samples(recognizer, played, where)
    emissions = Emissions(encoded.ctc, recognizer.bundle.frame_seconds)
    place = identification.identify(graph, emissions, LEAST_TOGETHER)
    if not place.verses:
        return _Attempt(place, emissions, speed)
    agrees = agreement(encoded.joint, identification.spelled(graph, place), recognizer.engine.model)
    return _Attempt(place, emissions, speed, agrees)


def _played(samples: Samples, speed: float) -> Samples:
    """A recording faster and higher, or slower and deeper."""
    resampler = Resampler(round(SAMPLE_RATE * speed))
    return np.concatenate([resampler.push(samples), resampler.finish()])


def identify_clips(
    recognizer: Recognizer, segments: Sequence[Segment]
) -> Iterator[tuple[tuple[VerseRef, ...], ...] | QuranAsrError]:
    """The verses of each clip, then those of equal wording; empty if no verse fits.

    Audio that cannot be read gives the error itself.
    """
    for segment in segments:
        try:
            samples = read(segment.audio, segment.offset, segment.duration or None)
            place = _identified(recognizer, partial(lambda one: [one], samples), segment.place).place
        except QuranAsrError as error:
            yield error
            continue
        yield (place.verses, *(other.verses for other in place.equal)) if place.verses else ()


def align(
    audio: str | Path,
    verses: str | Sequence[VerseRef] | None = None,
    model: str | Path | Recognizer | None = None,
) -> AlignedRecording:
    """Find when each word of a recording is recited. It is read in blocks and may be hours long.

    Args:
        audio: wav, flac, mp3, ogg or opus.
        verses: its content, as `text.passages.read_passage` reads it, for example `36`, `2:1-141` or
            `112-114`, or a list of these; parts may be missing, repeated or out of order. None: unknown, and
            the whole Quran is searched.
        model: as in `identify`.

    Raises:
        QuranAsrError: no such recording, verses or model, or the package has no model.
    """
    require_file_name(audio)
    passage = _passage(verses)
    seconds = probe(audio).seconds
    recognizer = _recognizer(model)
    found = align_blocks(recognizer, blocks_of_file(audio, FILE_SECONDS), passage, str(audio))
    return AlignedRecording(
        str(audio),
        recognizer.bundle.name,
        recognizer.spelling,
        seconds,
        found.segments,
        found.unaligned,
    )


def _passage(verses: object) -> Sequence[VerseRef] | None:
    """References of what a caller gave as verses; None: unknown."""
    if verses is None:
        return None
    if isinstance(verses, str | int):
        return read_passage(str(verses))
    if not isinstance(verses, Sequence) or not all(isinstance(verse, str | VerseRef) for verse in verses):
        raise QuranAsrError(
            f"verses come as {type(verses).__name__}", remedy="give `36`, `2:1-141`, or a list of references"
        )
    return [ref for one in verses for ref in (read_passage(one) if isinstance(one, str) else (one,))]


def in_spelling(recording: AlignedRecording, spelling: str) -> AlignedRecording:
    """The same with the words in another spelling, for example `uthmani` for subtitles.

    Words that the mushaf joins become one, from the start of the first to the end of the last.

    Raises:
        QuranAsrError: no such spelling; or the words are Uthmani, which does not show how to split them.
    """
    if spelling == recording.spelling:
        return recording
    edition_of(spelling)
    if recording.spelling == "uthmani":
        raise QuranAsrError(
            f"words in uthmani cannot be given in {spelling}",
            where=recording.audio,
            remedy="leave --spelling out, or name a model of another spelling with --model",
        )
    segments = (replace(one, words=_respelled(one, spelling)) for one in recording.segments)
    return replace(recording, spelling=spelling, segments=tuple(segments))


def _respelled(segment: AlignedSegment, spelling: str) -> tuple[TimedWord, ...]:
    if not segment.verses:
        texts = spell(FORMULAS[Kind[segment.kind.upper()]], spelling).split()
        return tuple(replace(word, text=texts[word.index or 0]) for word in segment.words)
    texts = load_quran(spelling).verse(segment.verses[0]).split()
    places = list(range(len(texts)))
    if spelling == "uthmani":
        pairs = word_map(segment.verses[0])
        places = [pair.index for pair in pairs for _ in pair.simple.split()]
    words: list[TimedWord] = []
    for word in segment.words:
        place = places[word.index or 0]
        if words and words[-1].index == place:
            confidences = [one.confidence for one in (words[-1], word) if one.confidence is not None]
            wrong = [one.mismatch for one in (words[-1], word) if one.mismatch is not None]
            words[-1] = replace(
                words[-1],
                end=word.end,
                confidence=min(confidences, default=None),
                mismatch=" ".join(wrong) if wrong else None,
            )
        else:
            words.append(replace(word, text=texts[place], index=place))
    return tuple(words)


def align_blocks(
    recognizer: Recognizer,
    blocks: Iterable[Samples],
    verses: Sequence[VerseRef] | None = None,
    where: str = "",
) -> Alignment:
    """The alignment of a recording that comes in blocks: float32 samples at 16 kHz.

    Args:
        recognizer: of the model.
        blocks: of any length.
        verses: what the recording holds; None: nothing is known.
        where: named in errors.
    """
    levels = Levels()
    found = align_scores(
        search_graph(recognizer, verses),
        recognizer.scores(levels.noted(blocks), where),
        recognizer.bundle.frame_seconds,
        follow_place=verses is None,
        vocabulary=recognizer.bundle.vocabulary,
    )
    return at_rises(found, levels.decibels())


def align_scores(
    graph: Graph,
    scores: Iterable[NDArray[np.float32]],
    frame_seconds: float,
    *,
    follow_place: bool,
    vocabulary: Vocabulary | None = None,
) -> Alignment:
    """The alignment of CTC scores that arrive in chunks; the chunk boundaries change nothing.

    Args:
        graph: of the whole Quran, or of the passage.
        scores: log-probabilities [n, vocabulary + 1] each, blank last.
        frame_seconds: seconds of a frame.
        follow_place: search only around the position once it is known, see `follow`; exact if False.
        vocabulary: of the scores, to mark mismatches; None marks none.
    """
    visits: list[Visit] = []
    tokens: list[int] = []
    frames: list[int] = []
    if vocabulary is not None:
        scores = _noted(scores, tokens, frames)
    if follow_place:
        following = start_following(graph)
        for chunk in scores:
            following, new = follow(graph, following, chunk)
            visits += new
        visits += finish_following(graph, following)[1]
    else:
        state = start(graph)
        for chunk in scores:
            state, new = advance(graph, state, chunk)
            visits += new
        visits += finish(graph, state)
    clock = Clock(frame_seconds, start_shift=START_SHIFT)
    if vocabulary is None:
        return align_path(graph, visits, clock)
    apart = set_apart(visits)
    recited = [apart.get(visit, visit) for visit in visits]
    wrong = mismatches(graph, recited, Hypothesis(tuple(tokens), tuple(frames), 0.0), vocabulary)
    return align_path(graph, visits, clock, wrong, apart)


def _noted(
    scores: Iterable[NDArray[np.float32]], tokens: list[int], frames: list[int]
) -> Iterator[NDArray[np.float32]]:
    """Pass the scores through; tokens of their unconstrained recognition are appended to the lists."""
    state = ctc.PathState()
    for chunk in scores:
        new, _, state = ctc.greedy_chunk(chunk, state)
        tokens += new.tokens
        frames += new.frames
        yield chunk


def search_graph(recognizer: Recognizer, verses: Sequence[VerseRef] | None = None) -> Graph:
    """The graph of the whole Quran, or of some verses, in a recognizer's spelling and vocabulary.

    Raises:
        QuranAsrError: as `graph.build_graph`.
    """
    passage = None if verses is None else tuple(verses)
    return _graph(recognizer.spelling, recognizer.bundle.vocabulary, passage)


@lru_cache(maxsize=4)
def _graph(spelling: str, vocabulary: Vocabulary, verses: tuple[VerseRef, ...] | None) -> Graph:
    return build_graph(load_quran(spelling), Tokenizer(vocabulary), verses)


def _recognizer(model: str | Path | Recognizer | None) -> Recognizer:
    if isinstance(model, Recognizer):
        return model
    return load(default_model() if model is None else model, decoder="ctc")


def _word_json(word: TimedWord) -> dict[str, Any]:
    return {
        "word": word.text,
        "verse": None if word.verse is None else str(word.verse),
        "index": word.index,
        "start": round(word.start, 3),
        "end": round(word.end, 3),
        "confidence": None if word.confidence is None else round(word.confidence, 4),
        "mismatch": None if word.mismatch is None else {"written": word.text, "recognized": word.mismatch},
    }


def _place_json(place: PlaceInText) -> dict[str, Any]:
    return {
        "verses": [str(verse) for verse in place.verses],
        "first_word": place.first_word,
        "last_word": place.last_word,
        "score": round(place.score, 3),
    }
