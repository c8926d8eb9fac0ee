"""CTC prefix beam search with a language model, chunk by chunk.

It looks for the text whose alignments are most probable together, where the best path takes the single most
probable alignment (Graves and Jaitly 2014; Hannun et al. 2014, arXiv 1408.2873, algorithm 1, with the
language model after every token). Tokens that all texts of the beam share are emitted and dropped, so
the memory of a stream does not grow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from quran_asr.decoding.ctc import check_scores
from quran_asr.decoding.decoder import N_BEST_PROBABILITY, EncoderOutput, Model, SearchResult, patience_of
from quran_asr.decoding.endpoint import Pause
from quran_asr.decoding.fusion import (
    NO_FUSION,
    Candidate,
    Doubles,
    Fusion,
    Ints,
    Tail,
    joined,
    rescore,
    shared_tokens,
)
from quran_asr.decoding.options import Decoding
from quran_asr.records import Hypothesis

LEAST_PROBABILITY = 1e-3


@dataclass(frozen=True, slots=True, eq=False)
class BeamState:
    """State of the search of one stream: K texts, best first. Its arrays are never modified."""

    tails: tuple[Tail, ...]
    """A token's frame is where it was most probable while the text ended in it."""
    in_blank: Doubles
    """[K] log probability of the alignments of each text that end in blank."""
    in_token: Doubles
    """[K] of those that end in the text's last token."""
    fused: Doubles
    """[K] the contribution of the language model and the token bonus."""
    lm_states: Ints
    """[K]"""
    rows: tuple[Doubles, Ints]
    """[K, V] twice: `Fusion.rows` of these states."""
    shared: int | None = None
    """Last token before the tails; None where there is none or where it cannot continue."""
    frame: int = 0
    """Frames searched so far."""
    last: int | None = None
    """Last frame in which the best text was still being recited; None before the first of an utterance."""

    @property
    def score(self) -> float:
        """Of the best text since the utterance began."""
        return float(self.whole[0])

    @property
    def whole(self) -> Doubles:
        """[K] score of each text, all its alignments in the beam together."""
        return np.logaddexp(self.in_blank, self.in_token) + self.fused

    @property
    def best(self) -> Hypothesis:
        """The tokens of the best text after those already emitted; they may still change."""
        tail = self.tails[0]
        return Hypothesis(tail.tokens, tail.frames, 0.0, tail.log_probs)

    def candidates(self) -> list[Candidate]:
        """The n-best list of the tokens that are not emitted yet."""
        whole = self.whole.tolist()
        acoustic = np.logaddexp(self.in_blank, self.in_token).tolist()
        return [
            Candidate(joined([tail], score), only)
            for tail, score, only in zip(self.tails, whole, acoustic, strict=True)
        ]


def start(vocabulary_size: int, fusion: Fusion = NO_FUSION) -> BeamState:
    """The state before the first frame."""
    lm_states = np.array([fusion.start], np.int64)
    rows = fusion.rows(lm_states, vocabulary_size)
    return BeamState((Tail(),), np.zeros(1), np.full(1, -np.inf), np.zeros(1), lm_states, rows)


def search(
    log_probs: NDArray[np.float32],
    *,
    fusion: Fusion = NO_FUSION,
    beam: int = 8,
    least_probability: float = LEAST_PROBABILITY,
    n_best: int = 1,
) -> list[Candidate]:
    """Search a whole utterance.

    Args:
        log_probs: [n, vocabulary + 1], natural log, blank last.
        fusion: the language model.
        beam, least_probability: as in `beam_chunk`.
        n_best: length of the list.

    Returns:
        At most `n_best` and `beam` texts, the best first.

    Raises:
        QuranAsrError: not two dimensions, no column, or a frame with NaN or without any probability.
    """
    check_scores(log_probs)
    least = np.log(least_probability) if least_probability else -np.inf
    state = start(log_probs.shape[1] - 1, fusion)
    for row in log_probs.astype(np.float64):
        state = _advance(row, state, fusion, beam, least)
    return state.candidates()[:n_best]


def beam_chunk(
    log_probs: NDArray[np.float32],
    state: BeamState,
    *,
    fusion: Fusion = NO_FUSION,
    beam: int = 8,
    least_probability: float = LEAST_PROBABILITY,
    pause: Pause | None = None,
    final: bool = False,
) -> tuple[Hypothesis, tuple[int, ...], BeamState]:
    """Search one more chunk of a stream; the chunk boundaries do not affect the tokens.

    Args:
        log_probs: [n, vocabulary + 1], natural log, blank last.
        state: `start(...)` at the beginning, then the state that the last call returned.
        fusion: the language model, the same for the whole stream.
        beam: texts that are kept after every frame.
        least_probability: tokens less probable in a frame are not tried there, and texts less probable than
            this share of the best, with the language model, are dropped; 0 tries and keeps all.
        pause: ends an utterance: its best text is taken and the search restarts with that text as the context
            of the language model.
        final: the audio has ended: the best text is taken.

    Returns:
        The tokens that became certain (all texts of the beam share them) with frames counted from the
        beginning of the stream, the frames at which an utterance was over, and the next state, whose `best`
        holds the tokens after them. The score is the change of the best text's score.

    Raises:
        QuranAsrError: not two dimensions, no column, or a frame with NaN or without any probability.
    """
    check_scores(log_probs)
    least = np.log(least_probability) if least_probability else -np.inf
    begin = start(log_probs.shape[1] - 1, fusion)
    found: list[Tail] = []
    ends: list[int] = []
    score = 0.0
    for place, row in enumerate(log_probs.astype(np.float64)):
        frame, before = state.frame, state.score
        advanced = _undecided(_advance(row, state, fusion, beam, least))
        state, certain = _give_out_shared(advanced)
        found.append(certain)
        score += state.score - before
        if pause is not None and pause.over(place, frame, state.last):
            ends.append(frame + 1)
            found.append(state.tails[0])
            state = _next_utterance(begin, state)
    if final:
        found.append(state.tails[0])
        state = replace(begin, frame=state.frame)
    return joined(found, score), tuple(ends), state


def _next_utterance(begin: BeamState, over: BeamState) -> BeamState:
    """Restart the search; the language model continues from the best text, as the reciter does."""
    rows = over.rows[0][:1], over.rows[1][:1]
    return replace(begin, lm_states=over.lm_states[:1], rows=rows, frame=over.frame)


def _advance(row: Doubles, state: BeamState, fusion: Fusion, beam: int, least: float) -> BeamState:
    """One frame: every text stays, by a blank or a repeat of its last token, or grows by a token."""
    blank, texts = len(row) - 1, len(state.tails)
    tokens = np.flatnonzero(row[:blank] >= min(least, row.max()))
    before = -1 if state.shared is None else state.shared
    lasts = np.array([tail.tokens[-1] if tail.tokens else before for tail in state.tails])
    either = np.logaddexp(state.in_blank, state.in_token)
    stay_blank = either + row[blank]
    stay_token = state.in_token + np.where(lasts < 0, -np.inf, row[lasts])
    # a text grows by its own last token only after a blank: without one it is a repeat of the same token
    grown = np.where(lasts[:, None] == tokens, state.in_blank[:, None], either[:, None]) + row[tokens]

    places = {tail.tokens: at for at, tail in enumerate(state.tails)}
    for at, tail in enumerate(state.tails):  # merge texts that grow into another one
        parent = places.get(tail.tokens[:-1]) if tail.tokens else None
        column = np.searchsorted(tokens, tail.tokens[-1]) if parent is not None else len(tokens)
        if parent is not None and column < len(tokens) and tokens[column] == tail.tokens[-1]:
            stay_token[at] = np.logaddexp(stay_token[at], grown[parent, column])
            grown[parent, column] = -np.inf

    stays = np.logaddexp(stay_blank, stay_token) + state.fused
    scores = np.concatenate([stays, (grown + state.fused[:, None] + state.rows[0][:, tokens]).ravel()])
    worst = scores.max() + least
    if len(scores) > beam:
        worst = max(worst, np.partition(scores, -beam)[-beam])
    best = np.flatnonzero((scores >= worst) & (scores > -np.inf))
    best = best[np.argsort(-scores[best], kind="stable")][:beam]

    stayed = best < texts
    parents = np.where(stayed, best, (best - texts) // max(1, len(tokens)))
    in_blank, in_token = np.full(len(best), -np.inf), np.empty(len(best))
    in_blank[stayed], in_token[stayed] = stay_blank[best[stayed]], stay_token[best[stayed]]
    fused, lm_states = state.fused[parents], state.lm_states[parents]
    rows = state.rows[0][parents], state.rows[1][parents]
    added = np.full(len(best), -1)
    if not stayed.all():
        columns = (best[~stayed] - texts) % len(tokens)
        added[~stayed] = tokens[columns]
        in_token[~stayed] = grown[parents[~stayed], columns]
        fused[~stayed] += rows[0][~stayed, tokens[columns]]
        lm_states[~stayed] = rows[1][~stayed, tokens[columns]]
        rows[0][~stayed], rows[1][~stayed] = fusion.rows(lm_states[~stayed], blank)
    tails = [
        state.tails[parent].grown(token, state.frame, float(row[token]))
        if token >= 0
        else _peaked(state.tails[parent], state.frame, row, bool(in_token[nth] > in_blank[nth]))
        for nth, (parent, token) in enumerate(zip(parents.tolist(), added.tolist(), strict=True))
    ]
    emits = bool(in_token[0] > in_blank[0])
    last = state.frame if emits else state.last
    return BeamState(
        tuple(tails), in_blank, in_token, fused, lm_states, rows, state.shared, state.frame + 1, last
    )


def _peaked(tail: Tail, frame: int, row: Doubles, emits: bool) -> Tail:
    """The same tokens, the last of them at this frame if it is emitted and more probable here."""
    if not emits or not tail.tokens or row[tail.tokens[-1]] <= tail.log_probs[-1]:
        return tail
    token = tail.tokens[-1]
    shorter = Tail(tail.tokens[:-1], tail.frames[:-1], tail.log_probs[:-1])
    return shorter.grown(token, frame, float(row[token]))


def _undecided(state: BeamState) -> BeamState:
    """The texts, best first, without those that can never overtake another one.

    Two texts with the same last token and the same language model state have the same continuations: the one
    with the lower score for both kinds of alignment stays lower, unless another text is its prefix, and adds
    to it, or its continuation. Without this, doubt about one word would keep all later ones uncommitted.
    """
    tails, lm_states = state.tails, state.lm_states.tolist()
    in_blank, in_token = (state.in_blank + state.fused).tolist(), (state.in_token + state.fused).tolist()
    alive: list[int] = []
    for at, tail in enumerate(tails):
        behind = tail.tokens and any(
            tails[other].tokens[-1:] == tail.tokens[-1:]
            and lm_states[other] == lm_states[at]
            and in_blank[other] >= in_blank[at]
            and in_token[other] >= in_token[at]
            for other in alive
        )
        size = len(tail.tokens)
        if not behind or any(
            other is not tail and other.tokens[:size] == tail.tokens[: len(other.tokens)] for other in tails
        ):
            alive.append(at)
    if len(alive) == len(tails):
        return state
    return replace(
        state,
        tails=tuple(tails[at] for at in alive),
        in_blank=state.in_blank[alive],
        in_token=state.in_token[alive],
        fused=state.fused[alive],
        lm_states=state.lm_states[alive],
        rows=(state.rows[0][alive], state.rows[1][alive]),
    )


def _give_out_shared(state: BeamState) -> tuple[BeamState, Tail]:
    """Remove the common prefix of all tails from them.

    Where the texts have a token in different frames, the first frame counts: in the others the next token
    could already be in the same frame.
    """
    shared = shared_tokens(state.tails)
    if not shared:
        return state, Tail()
    best = state.tails[0]
    frames = tuple(min(tail.frames[nth] for tail in state.tails) for nth in range(shared))
    given = Tail(best.tokens[:shared], frames, best.log_probs[:shared])
    tails = tuple(tail.from_token(shared) for tail in state.tails)
    return replace(state, tails=tails, shared=given.tokens[-1]), given


class CtcBeamDecoder:
    """Prefix beam search of each stream; see `decoder.Decoder`."""

    def __init__(self, decoding: Decoding, model: Model) -> None:
        self._fusion = decoding.fusion or NO_FUSION
        self._beam = decoding.beam
        least = decoding.least_probability
        self._least_probability = LEAST_PROBABILITY if least is None else least
        self._patience = patience_of(decoding, model)
        self.start = start(model.blank, self._fusion)

    def step(self, chunks: Sequence[EncoderOutput], states: Sequence[BeamState]) -> list[SearchResult]:
        results = []
        for chunk, state in zip(chunks, states, strict=True):
            tokens, ends, after = beam_chunk(
                chunk.ctc,
                state,
                fusion=self._fusion,
                beam=self._beam,
                least_probability=self._least_probability,
                pause=None if self._patience is None else Pause(self._patience, chunk.may_end),
            )
            results.append(SearchResult(tokens, after.best, ends, after))
        return results

    def draft(self, state: BeamState) -> Hypothesis:
        return state.best

    def n_best(self, whole: EncoderOutput, count: int, *, rescoring: bool = False) -> list[Candidate]:
        found = search(
            whole.ctc,
            fusion=NO_FUSION if rescoring else self._fusion,
            beam=max(self._beam, count),
            least_probability=min(self._least_probability, N_BEST_PROBABILITY),
            n_best=count,
        )
        return rescore(found, self._fusion) if rescoring else found
