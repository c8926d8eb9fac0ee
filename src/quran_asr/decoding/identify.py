"""Which verses a recording contains, and with what evidence.

The whole Quran is compared with the recording in two steps: a local alignment selects candidate places, and
the exact search, with jumps and repeats, runs around them. A place is accepted if it stands out from the rest
of the Quran in the same recording. The model need only prefer the right words: a weak model scores low
everywhere, a strong one everywhere but at the right place.

A model that hardly knows a voice or a telephone emits blanks and a few favourite tokens nearly everywhere. So
scores are divided by how often the model expects each label in the recording (label priors, as in arXiv
2406.02560, but estimated from the recording itself): what counts is where a label is likelier than elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass
from itertools import compress, groupby
from typing import TYPE_CHECKING

import numpy as np

from quran_asr.decoding.graph import Graph, Kind
from quran_asr.decoding.path_ends import PathEnd, best_end, score, trace, word_ends
from quran_asr.decoding.places import WORDS_AROUND, local_scores, neighbourhood, other_speech
from quran_asr.decoding.search import DEFAULT_BEAM, advance, refuse_broken
from quran_asr.decoding.search_state import SearchState, start
from quran_asr.decoding.visits import HUB, Visit
from quran_asr.records import Emissions, VerseRef

if TYPE_CHECKING:
    from numpy.typing import NDArray

PRIOR_SCALE = 0.8
"""Power of the label priors by which scores are divided. Chosen on validation clips with noise and telephone
bands added, see docs/results/accuracy.md."""
LEAST_PRIOR = 1e-3
"""Added to each label prior, for labels that hardly occur in a short recording. Chosen with `PRIOR_SCALE`."""
SURE_BLANK = -0.02
"""Log-probability of the blank above which a run of frames is reduced to one."""
EQUAL = 0.5
"""Nats: places whose scores differ by less cannot be distinguished."""
CHANCE_SHARE = 1 / 80
"""Rank, as a share of the words of the Quran, of the score that chance reaches: about the thousandth word,
beyond those of any repeated verse."""
BY_CHANCE, BY_CHANCE_A_TOKEN, MOST_BY_CHANCE = 15.0, 0.25, 35.5
"""Nats by which the best place may exceed that score in a recording without Quran: at least, for each
recognized token, and at most. From measured false accepts, see docs/results/accuracy.md."""
END_SHARE = 1 / 800
"""Share of the words of the Quran that may fit the speech at an end of the recitation as well as the first or
last verse does. Of a verse that is recited in part, as many times fewer as it has words: its best part was
chosen. A path may enter the next verse at no cost, so speech beside the recitation often fits some words."""


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
    """Other places of the same wording, which cannot be distinguished."""
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
    log_probs = _against_priors(emissions.log_probs)
    scores = local_scores(graph, log_probs)
    _, begins = other_speech(graph, log_probs)
    tokens = int(begins.sum())
    chance = _chance(graph, scores, tokens)
    evidence = float(scores[graph.kind == Kind.VERSE].max()) - chance - _allowed(tokens)
    if evidence < least_evidence:
        return nothing(evidence)
    near = neighbourhood(graph, scores, tokens)
    state, visits = advance(near, start(near), log_probs, beam)
    end = best_end(near, state)
    path = visits + trace(near, state, end)
    recited = _beyond_chance(graph, log_probs, near, path, begins, chance)
    best = _place(near, recited, 0.0)
    if best is None:
        return nothing(evidence)
    loss = sum(visit.loss for visit in recited) / sum(len(visit.tokens) for visit in recited)
    named = {near.refs[near.verse[visit.word]] for visit in _text(near, path)}
    wordings = {_wording(near, recited), _wording(near, path)}
    kept = set(recited)
    are_kept = [visit in kept for visit in _text(near, path)]
    equal: list[PlaceInText] = []
    rest: list[PlaceInText] = []
    for place, other in _others(near, state, visits, named, score(state, end.entry), alternatives + 1):
        if place.score <= -EQUAL or _wording(near, other) not in wordings:
            rest.append(place)
            continue
        words = _text(near, other)
        if len(words) == len(are_kept):  # without what the best place has by chance
            words = list(compress(words, are_kept))
        same = _place(near, words, place.score)
        if same is not None and same.verses not in {best.verses, *(one.verses for one in equal)}:
            equal.append(same)
    rest = rest[:alternatives]
    margin = -rest[0].score if rest else np.inf
    return Identification(
        best.verses, best.first_word, best.last_word, -loss, evidence, margin, tuple(equal), tuple(rest)
    )


def spelled(graph: Graph, place: Identification) -> list[int]:
    """The tokens of the words that were found, each verse once."""
    tokens: list[int] = []
    for number, ref in enumerate(place.verses):
        words = np.flatnonzero((graph.verse == graph.refs.index(ref)) & (graph.kind == Kind.VERSE))
        _, once = np.unique(graph.index[words], return_index=True)  # some words are spelled in two ways
        last = place.last_word + 1 if number == len(place.verses) - 1 else None
        for word in words[once][place.first_word if number == 0 else 0 : last]:
            tokens += graph.spelt(word).tolist()
    return tokens


def _against_priors(log_probs: NDArray[np.floating]) -> NDArray[np.float64]:
    """Scores divided by the recording's label priors and normalized; of a silence only the first frame."""
    refuse_broken(log_probs)
    if not len(log_probs):
        return np.asarray(log_probs, np.float64)
    silent = np.asarray(log_probs[:, -1] > SURE_BLANK)
    priors = np.exp(log_probs.astype(np.float64)).mean(axis=0) + LEAST_PRIOR
    divided = log_probs[~(silent & np.append(False, silent[:-1]))] - PRIOR_SCALE * np.log(priors)
    normalized: NDArray[np.float64] = divided - np.logaddexp.reduce(divided, axis=1, keepdims=True)
    return normalized


def nothing(evidence: float) -> Identification:
    """That no verse fits."""
    return Identification((), 0, 0, 0.0, evidence, np.inf, (), ())


def _chance(graph: Graph, scores: NDArray[np.float64], tokens: int) -> float:
    """The score that a wrong place reaches: one far from the best place, and better than most."""
    is_text = graph.kind == Kind.VERSE
    best = int(np.where(is_text, scores, -np.inf).argmax())
    elsewhere = is_text.copy()
    elsewhere[max(0, best - tokens - WORDS_AROUND) : best + tokens + WORDS_AROUND] = False
    others = np.sort(scores[elsewhere])[::-1]
    return max(0.0, float(others[int(CHANCE_SHARE * len(others))])) if len(others) else 0.0


def _allowed(tokens: int) -> float:
    return min(MOST_BY_CHANCE, BY_CHANCE + BY_CHANCE_A_TOKEN * tokens)


def _beyond_chance(
    graph: Graph,
    log_probs: NDArray[np.float64],
    near: Graph,
    path: Sequence[Visit],
    begins: NDArray[np.bool_],
    chance: float,
) -> list[Visit]:
    """The words of verses on a path through `near`, without those that a wrong place would score as well.

    Left are the best stretch without a jump, and every other one that stands out by itself; without verses at
    their ends that fit the speech there hardly better than other words of the Quran do.
    """

    def gain(visits: Sequence[Visit]) -> tuple[int, float]:
        """Recognized tokens, and nats by which the words are better than other speech."""
        tokens = sum(int(begins[visit.start : visit.garbage or visit.end].sum()) for visit in visits)
        return tokens, near.costs.garbage_token * tokens - sum(visit.loss for visit in visits)

    stretches: list[list[Visit]] = [[]]
    for visit in path:
        if visit.word == HUB:
            stretches.append([])
        elif near.kind[visit.word] == Kind.VERSE:
            stretches[-1].append(visit)
    stretches = [stretch for stretch in stretches if stretch]
    best = max((gain(stretch)[1] for stretch in stretches), default=0.0)
    kept: list[Visit] = []
    for stretch in stretches:
        tokens, nats = gain(stretch)
        if nats < best and nats <= chance + _allowed(tokens):
            continue
        verses = [list(words) for _, words in groupby(stretch, lambda visit: int(near.verse[visit.word]))]
        for end in (-1, 0):
            while len(verses) > 1 and _fits_by_chance(
                graph, log_probs, near, path, verses[end], gain(verses[end])[1]
            ):
                del verses[end]
        kept += [visit for words in verses for visit in words]
    return kept


def _fits_by_chance(
    graph: Graph,
    log_probs: NDArray[np.float64],
    near: Graph,
    path: Sequence[Visit],
    words: Sequence[Visit],
    nats: float,
) -> bool:
    """Whether many words of other verses fit the speech of one, and other speech beside it, as well.

    Args:
        graph: of the whole Quran.
        log_probs: of the whole recording.
        near: of the path.
        path: through the recording.
        words: of the path, and of one verse.
        nats: by which they are better than other speech.
    """
    first, last = path.index(words[0]), path.index(words[-1])
    low = next((visit.garbage or visit.end for visit in reversed(path[:first]) if visit.word != HUB), 0)
    high = next((visit.start for visit in path[last + 1 :] if visit.word != HUB), len(log_probs))
    scores = local_scores(graph, log_probs[low:high])
    in_verse = graph.verse == near.verse[words[0].word]
    is_text = graph.kind == Kind.VERSE
    length = int(graph.index[is_text & in_verse].max()) + 1
    whole = len({int(near.index[visit.word]) for visit in words}) == length
    as_good = np.mean(scores[is_text & ~in_verse] >= nats) if not in_verse[is_text].all() else 0.0
    return bool(as_good > END_SHARE / (1 if whole else length))


def _text(graph: Graph, path: Sequence[Visit]) -> list[Visit]:
    return [visit for visit in path if visit.word != HUB and graph.kind[visit.word] == Kind.VERSE]


def _wording(graph: Graph, path: Sequence[Visit]) -> tuple[str, ...]:
    return tuple(graph.texts[visit.word] for visit in _text(graph, path))


def _place(graph: Graph, recited: Sequence[Visit], against_best: float) -> PlaceInText | None:
    words = [visit.word for visit in recited]
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
    named: Set[VerseRef],
    best_score: float,
    most: int,
) -> list[tuple[PlaceInText, Sequence[Visit]]]:
    """The best paths that end in other verses than `named`, each with a verse that no better path has."""
    ends = word_ends(graph, state)
    seen = set(named)
    found: list[tuple[PlaceInText, Sequence[Visit]]] = []
    for word in np.argsort(ends)[::-1].tolist():
        ref = graph.refs[graph.verse[word]]
        if graph.kind[word] != Kind.VERSE or ref in seen:
            continue
        entry = int(ends[word])
        path = visits + trace(graph, state, PathEnd(entry, word))
        place = _place(graph, _text(graph, path), score(state, entry) - best_score)
        if place is not None:
            seen.update(place.verses)
            found.append((place, path))
        if len(found) == most and place is not None and place.score <= -EQUAL:
            break
    return found
