"""Which verses a recording holds, and how sure that is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from quran_asr.decoding.graph import UNITS, Graph, Kind
from quran_asr.decoding.path import Alignment, Clock, align_path
from quran_asr.decoding.search import (
    DEFAULT_BEAM,
    HUB,
    PathEnd,
    SearchState,
    Visit,
    advance,
    best_end,
    emissions_in_units,
    score,
    start,
    trace,
    word_ends,
)
from quran_asr.records import Emissions, VerseRef

if TYPE_CHECKING:
    from numpy.typing import NDArray

EQUAL = 0.5
"""Nats: places whose scores differ by less cannot be told apart."""


@dataclass(frozen=True, slots=True)
class PlaceInText:
    """Verses in order, and the words with which they begin and end."""

    verses: tuple[VerseRef, ...]
    first_word: int
    """Place in the first verse, from 0."""
    last_word: int
    """Place in the last verse, from 0."""
    score: float
    """Nats of the best path that ends there, less than those of the best path anywhere by the margin."""


@dataclass(frozen=True, slots=True)
class Identification:
    """Where in the Quran a recording is."""

    verses: tuple[VerseRef, ...]
    """In recited order; empty when nothing fits."""
    first_word: int
    last_word: int
    score: float
    """Nats a token by which the model prefers something else than the words of the path; 0 is best."""
    margin: float
    """Nats by which the next best place is worse."""
    equal: tuple[PlaceInText, ...]
    """Other places that cannot be told apart."""
    alternatives: tuple[PlaceInText, ...]
    """The next best places, the best first."""
    alignment: Alignment


def identify(
    graph: Graph,
    emissions: Emissions,
    most_loss: float = 1.3,
    least_gain: float = 5.0,
    alternatives: int = 5,
    beam: float = DEFAULT_BEAM,
) -> Identification:
    """Find the verses of a recording.

    Args:
        graph: of the whole Quran, or of a passage to choose from.
        emissions: of the whole recording.
        most_loss: nats a token that a path may lose; beyond, nothing is found.
        least_gain: nats by which the path must be better than one of other speech only; a single short word
            cannot reach it.
        alternatives: how many of them to give.
        beam: as in `search.advance`.

    Raises:
        QuranAsrError: the scores have a wrong shape or hold NaN.
    """
    state, visits = advance(graph, start(graph), emissions.log_probs, beam)
    end = best_end(graph, state)
    path = visits + trace(graph, state, end)
    alignment = align_path(graph, path, Clock(emissions.frame_seconds, emissions.offset))
    best = _place(graph, path, 0.0)
    tokens = sum(len(visit.tokens) for visit in _text(graph, path))
    loss = sum(visit.loss for visit in _text(graph, path)) / max(1, tokens)
    gain = score(state, end.entry) - _no_quran(graph, emissions)
    if best is None or loss > most_loss or gain < least_gain:
        return Identification((), 0, 0, -loss, gain, (), (), alignment)
    others = _others(graph, state, visits, best, score(state, end.entry), alternatives + 1)
    equal = tuple(place for place in others if place.score > -EQUAL)
    rest = tuple(place for place in others if place.score <= -EQUAL)[:alternatives]
    margin = -rest[0].score if rest else np.inf
    return Identification(best.verses, best.first_word, best.last_word, -loss, margin, equal, rest, alignment)


def _text(graph: Graph, path: tuple[Visit, ...]) -> list[Visit]:
    return [visit for visit in path if visit.word != HUB and graph.kind[visit.word] == Kind.VERSE]


def _place(graph: Graph, path: tuple[Visit, ...], against_best: float) -> PlaceInText | None:
    words = [visit.word for visit in _text(graph, path)]
    if not words:
        return None
    verses: list[VerseRef] = []
    for word in words:
        ref = graph.refs[graph.verse[word]]
        if not verses or verses[-1] != ref:
            verses.append(ref)
    first, last = int(graph.index[words[0]]), int(graph.index[words[-1]])
    return PlaceInText(tuple(verses), first, last, against_best)


def _others(
    graph: Graph,
    state: SearchState,
    visits: tuple[Visit, ...],
    best: PlaceInText,
    best_score: float,
    most: int,
) -> list[PlaceInText]:
    """The best paths that end in other verses, each with a verse that no better one has."""
    ends = word_ends(graph, state)
    seen = set(best.verses)
    found: list[PlaceInText] = []
    for word in np.argsort(ends)[::-1].tolist():
        ref = graph.refs[graph.verse[word]]
        if graph.kind[word] != Kind.VERSE or ref in seen:
            continue
        entry = int(ends[word])
        path = visits + trace(graph, state, PathEnd(entry, word))
        place = _place(graph, path, score(state, entry) - best_score)
        if place is not None:
            seen.update(place.verses)
            found.append(place)
        if len(found) == most and place is not None and place.score <= -EQUAL:
            break
    return found


def _no_quran(graph: Graph, emissions: Emissions) -> float:
    """Nats of a path that stays in the hub."""
    units = emissions_in_units(emissions.log_probs, graph.costs.floor)
    labels: NDArray[np.intp] = units.argmax(axis=1)
    begins = (labels != np.append(-1, labels[:-1])) & (labels != units.shape[1] - 1)
    return float(units.max(axis=1).sum()) / UNITS - graph.costs.garbage_token * float(begins.sum())
