"""Which verses a recording contains, and with what evidence.

The whole Quran is compared with the recording in two steps: a local alignment selects candidate places, and
the exact search, with jumps and repeats, runs around them. A place is accepted if it stands out from the rest
of the Quran in the same recording. The model need only prefer the right words: a weak model scores low
everywhere, a strong one everywhere but at the right place.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from quran_asr.decoding.graph import Graph, Kind
from quran_asr.decoding.places import WORDS_AROUND, local_scores, neighbourhood, other_speech
from quran_asr.decoding.search import (
    DEFAULT_BEAM,
    HUB,
    PathEnd,
    SearchState,
    Visit,
    advance,
    best_end,
    score,
    start,
    trace,
    word_ends,
)
from quran_asr.records import Emissions, VerseRef

if TYPE_CHECKING:
    from numpy.typing import NDArray

EQUAL = 0.5
"""Nats: places whose scores differ by less cannot be distinguished."""
CHANCE_SHARE = 1 / 80
"""Rank, as a share of the words of the Quran, of the score that chance reaches: about the thousandth word,
beyond those of any repeated verse."""
BY_CHANCE, BY_CHANCE_A_TOKEN, MOST_BY_CHANCE = 9.0, 0.25, 40.0
"""Nats by which the best place may exceed that score in a recording without Quran: at least, for each
recognized token, and at most. From measured false accepts, see docs/results/accuracy.md."""


@dataclass(frozen=True, slots=True)
class PlaceInText:
    """Consecutive verses, and the first and last word."""

    verses: tuple[VerseRef, ...]
    first_word: int
    """Place in the first verse, from 0."""
    last_word: int
    """Place in the last verse, from 0."""
    score: float
    """Nats of the best path that ends there, less than those of the best path anywhere by the margin."""


@dataclass(frozen=True, slots=True)
class Identification:
    """The verses of a recording."""

    verses: tuple[VerseRef, ...]
    """In recited order; empty when nothing fits."""
    first_word: int
    last_word: int
    score: float
    """Nats per token by which the model prefers other tokens to the words of the path; 0 is best."""
    evidence: float
    """Nats by which the best place stands out beyond chance; above 0 it is accepted."""
    margin: float
    """Nats by which the next best place is worse; infinite where there is none."""
    equal: tuple[PlaceInText, ...]
    """Other places that cannot be distinguished."""
    alternatives: tuple[PlaceInText, ...]
    """The next best places, the best first."""


def identify(
    graph: Graph,
    emissions: Emissions,
    least_evidence: float = 0.0,
    alternatives: int = 5,
    beam: float = DEFAULT_BEAM,
) -> Identification:
    """Find the verses of a recording.

    Args:
        graph: of the whole Quran, or of a passage to choose from.
        emissions: of the whole recording.
        least_evidence: nats, see `Identification.evidence`; `-inf` accepts any place.
        alternatives: how many of them to give.
        beam: as in `search.advance`.

    Raises:
        QuranAsrError: the scores have a wrong shape or hold NaN.
    """
    log_probs = emissions.log_probs
    scores = local_scores(graph, log_probs)
    _, tokens = other_speech(graph, log_probs)
    evidence = _evidence(graph, scores, tokens)
    if evidence < least_evidence:
        return _nothing(evidence)
    near = neighbourhood(graph, scores, tokens)
    state, visits = advance(near, start(near), log_probs, beam)
    end = best_end(near, state)
    path = visits + trace(near, state, end)
    best = _place(near, path, 0.0)
    if best is None:
        return _nothing(evidence)
    recited = _text(near, path)
    loss = sum(visit.loss for visit in recited) / sum(len(visit.tokens) for visit in recited)
    others = _others(near, state, visits, best, score(state, end.entry), alternatives + 1)
    equal = tuple(place for place in others if place.score > -EQUAL)
    rest = tuple(place for place in others if place.score <= -EQUAL)[:alternatives]
    margin = -rest[0].score if rest else np.inf
    return Identification(best.verses, best.first_word, best.last_word, -loss, evidence, margin, equal, rest)


def _nothing(evidence: float) -> Identification:
    return Identification((), 0, 0, 0.0, evidence, np.inf, (), ())


def _evidence(graph: Graph, scores: NDArray[np.float64], tokens: int) -> float:
    """Nats by which the best place fits better than other speech, and better than chance."""
    is_text = graph.kind == Kind.VERSE
    best = int(np.where(is_text, scores, -np.inf).argmax())
    elsewhere = is_text.copy()
    elsewhere[max(0, best - tokens - WORDS_AROUND) : best + tokens + WORDS_AROUND] = False
    others = np.sort(scores[elsewhere])[::-1]
    chance = float(others[int(CHANCE_SHARE * len(others))]) if len(others) else 0.0
    allowed = min(MOST_BY_CHANCE, BY_CHANCE + BY_CHANCE_A_TOKEN * tokens)
    return float(scores[best]) - max(0.0, chance) - allowed


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
    """The best paths that end in other verses, each with a verse that no better path has."""
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
