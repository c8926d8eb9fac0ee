"""CTC prefix beam search, chunk by chunk.

It looks for the text whose alignments are most probable together, where the best path takes the single most
probable alignment (Graves and Jaitly 2014; Hannun et al. 2014, arXiv 1408.2873, algorithm 1 without its
language model). What all beams share is given out and forgotten, so the memory of a stream does not grow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from quran_asr.decoding.ctc import check_scores
from quran_asr.decoding.decoder import Model, Piece, SearchResult, patience_of
from quran_asr.decoding.endpoint import Pause
from quran_asr.decoding.options import Decoding
from quran_asr.records import Hypothesis

Doubles = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Candidate:
    """The tokens of one beam behind those that all beams share."""

    tokens: tuple[int, ...] = ()
    frames: tuple[int, ...] = ()
    """Where each token was most probable while this beam's text ended in it."""
    log_probs: tuple[float, ...] = ()
    """Of each token at that frame."""


@dataclass(frozen=True, slots=True, eq=False)
class BeamState:
    """Where the search of one stream stands: at most so many texts as the beam is wide, best first."""

    candidates: tuple[Candidate, ...] = (Candidate(),)
    in_blank: Doubles = field(default_factory=lambda: np.zeros(1))
    """[beams] log probability of the alignments of the text that end in blank."""
    in_token: Doubles = field(default_factory=lambda: np.full(1, -np.inf))
    """[beams] log probability of those that end in the text's last token."""
    shared: int | None = None
    """Last token before the tails; None where there is none or it cannot run on."""
    frame: int = 0
    last: int | None = None
    """Last frame in which the best text was being said; None before an utterance's first."""

    @property
    def score(self) -> float:
        """Log probability of the best text, all its alignments in the beam together."""
        return float(np.logaddexp(self.in_blank[0], self.in_token[0]))

    @property
    def best(self) -> Hypothesis:
        """The tokens that the best beam has behind the shared ones: they may still change."""
        candidate = self.candidates[0]
        return Hypothesis(candidate.tokens, candidate.frames, 0.0, candidate.log_probs)


def beam_piece(
    log_probs: NDArray[np.float32],
    state: BeamState,
    *,
    beam: int = 8,
    least_probability: float = 1e-3,
    pause: Pause | None = None,
    final: bool = False,
) -> tuple[Hypothesis, tuple[int, ...], BeamState]:
    """Search one more piece of a stream; cutting it elsewhere gives the same tokens.

    Args:
        log_probs: [n, vocabulary + 1], natural log, blank last.
        state: `BeamState()` at the beginning, then what came out last.
        beam: texts that are kept after every frame.
        least_probability: tokens less probable in a frame are not tried there, and texts less probable than
            this share of the best are dropped; 0 tries and keeps all.
        pause: when an utterance is over: its best text is taken and the search starts anew.
        final: the sound has ended: the best text is taken.

    Returns:
        The tokens that became certain (all beams share them) with frames counted from the beginning of the
        stream, the frames at which an utterance was over, and the next state, whose `best` holds the tokens
        behind them. The score is the change of the best text's log probability.

    Raises:
        QuranAsrError: not two dimensions, no column, or a frame with NaN or without any probability.
    """
    check_scores(log_probs)
    least = np.log(least_probability) if least_probability else -np.inf
    found: list[Candidate] = []
    ends: list[int] = []
    score = 0.0
    for place, row in enumerate(log_probs.astype(np.float64)):
        frame, before = state.frame, state.score
        state, certain = _give_out_shared(_advance(row, state, beam, least))
        found.append(certain)
        score += state.score - before
        if pause is not None and pause.over(place, frame, state.last):
            ends.append(frame + 1)
            found.append(state.candidates[0])
            state = BeamState(frame=frame + 1)
    if final:
        found.append(state.candidates[0])
        state = BeamState(frame=state.frame)
    return (
        Hypothesis(
            tuple(token for candidate in found for token in candidate.tokens),
            tuple(frame for candidate in found for frame in candidate.frames),
            score,
            tuple(log_prob for candidate in found for log_prob in candidate.log_probs),
        ),
        tuple(ends),
        state,
    )


def _advance(row: Doubles, state: BeamState, beam: int, least: float) -> BeamState:
    """One frame: every text stays, by a blank or by going on with its last token, or grows by a token."""
    blank = len(row) - 1
    candidates = state.candidates
    tokens = np.flatnonzero(row[:blank] >= min(least, row.max()))
    before = -1 if state.shared is None else state.shared
    lasts = np.array([candidate.tokens[-1] if candidate.tokens else before for candidate in candidates])
    either = np.logaddexp(state.in_blank, state.in_token)
    stay_blank = either + row[blank]
    stay_token = state.in_token + np.where(lasts < 0, -np.inf, row[lasts])
    # a text grows by its own last token only out of a blank: without it that is the same token going on
    grown = np.where(lasts[:, None] == tokens, state.in_blank[:, None], either[:, None]) + row[tokens]

    places = {candidate.tokens: at for at, candidate in enumerate(candidates)}
    for at, candidate in enumerate(
        candidates
    ):  # where a text grows into another one of the beam, they are one
        parent = places.get(candidate.tokens[:-1]) if candidate.tokens else None
        column = np.searchsorted(tokens, candidate.tokens[-1]) if parent is not None else len(tokens)
        if parent is not None and column < len(tokens) and tokens[column] == candidate.tokens[-1]:
            stay_token[at] = np.logaddexp(stay_token[at], grown[parent, column])
            grown[parent, column] = -np.inf

    scores = np.concatenate([np.logaddexp(stay_blank, stay_token), grown.ravel()])
    worst = scores.max() + least
    if len(scores) > beam:
        worst = max(worst, np.partition(scores, -beam)[-beam])
    best = np.flatnonzero((scores >= worst) & (scores > -np.inf))
    best = best[np.argsort(-scores[best], kind="stable")][:beam]
    kept: list[Candidate] = []
    in_blank, in_token = np.full(len(best), -np.inf), np.full(len(best), -np.inf)
    for nth, place in enumerate(best.tolist()):
        if place < len(candidates):
            in_blank[nth], in_token[nth] = stay_blank[place], stay_token[place]
            peak = stay_token[place] > stay_blank[place]
            kept.append(_peaked(candidates[place], state.frame, row) if peak else candidates[place])
        else:
            at, column = divmod(place - len(candidates), len(tokens))
            in_token[nth] = scores[place]
            kept.append(_grown(candidates[at], int(tokens[column]), state.frame, row))
    alive = _undecided(kept, in_blank, in_token)
    saying = bool(in_token[0] > in_blank[0])
    return BeamState(
        tuple(kept[at] for at in alive),
        in_blank[alive],
        in_token[alive],
        state.shared,
        state.frame + 1,
        state.frame if saying else state.last,
    )


def _grown(candidate: Candidate, token: int, frame: int, row: Doubles) -> Candidate:
    return Candidate(
        (*candidate.tokens, token), (*candidate.frames, frame), (*candidate.log_probs, float(row[token]))
    )


def _peaked(candidate: Candidate, frame: int, row: Doubles) -> Candidate:
    """The same tokens, the last of them at this frame if it is more probable here."""
    if not candidate.tokens or row[candidate.tokens[-1]] <= candidate.log_probs[-1]:
        return candidate
    return _grown(
        Candidate(candidate.tokens[:-1], candidate.frames[:-1], candidate.log_probs[:-1]),
        candidate.tokens[-1],
        frame,
        row,
    )


def _undecided(candidates: list[Candidate], in_blank: Doubles, in_token: Doubles) -> list[int]:
    """The beams, best first, without those that can never overtake another one.

    Two texts that end in the same token go on alike, whatever comes: the one that is behind in both kinds of
    alignments stays behind, if no other beam is its beginning, to add to it, or its continuation. Without
    this a doubt about one word would keep all later ones from being shared.
    """
    alive: list[int] = []
    for at, candidate in enumerate(candidates):
        if not candidate.tokens or not any(
            candidates[other].tokens[-1:] == candidate.tokens[-1:]
            and in_blank[other] >= in_blank[at]
            and in_token[other] >= in_token[at]
            for other in alive
        ):
            alive.append(at)
            continue
        size = len(candidate.tokens)
        if any(
            other is not candidate and other.tokens[:size] == candidate.tokens[: len(other.tokens)]
            for other in candidates
        ):
            alive.append(at)
    return alive


def _give_out_shared(state: BeamState) -> tuple[BeamState, Candidate]:
    """Take the tokens with which all tails begin out of them.

    Where the beams put a token into different frames the first one counts: in the others the next token
    could be in the same frame already.
    """
    shared = 0
    for tokens in zip(*(candidate.tokens for candidate in state.candidates), strict=False):
        if len(set(tokens)) > 1:
            break
        shared += 1
    if not shared:
        return state, Candidate()
    rest = tuple(
        Candidate(candidate.tokens[shared:], candidate.frames[shared:], candidate.log_probs[shared:])
        for candidate in state.candidates
    )
    best = state.candidates[0]
    given = Candidate(
        best.tokens[:shared],
        tuple(min(candidate.frames[nth] for candidate in state.candidates) for nth in range(shared)),
        best.log_probs[:shared],
    )
    return replace(state, candidates=rest, shared=given.tokens[-1]), given


class CtcBeamDecoder:
    """Prefix beam search of each stream; see `decoder.Decoder`."""

    def __init__(self, decoding: Decoding, model: Model) -> None:
        self._decoding = decoding
        self._patience = patience_of(decoding, model)
        self.start = BeamState()

    def step(self, pieces: Sequence[Piece], states: Sequence[BeamState]) -> list[SearchResult]:
        results = []
        for piece, state in zip(pieces, states, strict=True):
            tokens, ends, after = beam_piece(
                piece.ctc,
                state,
                beam=self._decoding.beam,
                least_probability=self._decoding.least_probability,
                pause=None if self._patience is None else Pause(self._patience, piece.may_end),
            )
            results.append(SearchResult(tokens, after.best, ends, after))
        return results

    def draft(self, state: BeamState) -> Hypothesis:
        return state.best
