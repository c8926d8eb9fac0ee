"""Transducer beam search with a language model, chunk by chunk.

Modified adaptive expansion search (Kim et al. 2020, arXiv 2006.14589): in every frame each text of the beam
can grow by tokens, and the alignments of one text are summed. With an unlimited beam the scores are those of
the forward algorithm (Graves 2012) with at most `max_symbols` tokens per frame. All texts that grow in a
frame share one call of each network. The state is a value, and the chunk boundaries do not affect the texts.
"""

from __future__ import annotations

import math
import sys
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from quran_asr.decoding.decoder import N_BEST_PROBABILITY, Model, Piece, SearchResult, patience_of
from quran_asr.decoding.endpoint import Pause, frames_of
from quran_asr.decoding.fusion import (
    NO_FUSION,
    NO_TOKENS,
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
from quran_asr.decoding.transducer import Floats, Hidden, Join, Predict
from quran_asr.errors import QuranAsrError
from quran_asr.records import Hypothesis

LEAST_PROBABILITY = 1e-2
COMMIT_SECONDS = 2.0
"""Seconds after which the tokens of the best text are final in a stream."""
LARGEST_BLOCK = 8
"""Frames in one call of the joint while no text grows."""


@dataclass(frozen=True, slots=True)
class BeamSettings:
    """How wide the search is."""

    beam: int = 8
    """Texts that are kept after every frame."""
    least_probability: float = LEAST_PROBABILITY
    """Texts less probable than this share of the best, with the language model, are dropped; 0 keeps all."""
    max_symbols: int = 3
    """Most tokens that a text can gain in one frame."""
    commit_frames: int | None = None
    """Tokens of the best text that are older than this many frames are final: texts that differ there are
    dropped, so that words are final in bounded time. None waits until no text in the beam differs."""

    @property
    def least(self) -> float:
        """`least_probability` as a natural log."""
        return math.log(self.least_probability) if self.least_probability else -math.inf


@dataclass(frozen=True, slots=True, eq=False)
class Scorer:
    """The networks, the language model and the beam: constant for a whole stream."""

    predict: Predict
    """The prediction network."""
    join: Join
    """The joint network."""
    fusion: Fusion = NO_FUSION
    """The language model."""
    settings: BeamSettings = field(default_factory=BeamSettings)


@dataclass(frozen=True, slots=True, eq=False)
class BeamState:
    """State of the search of one stream: K texts, best first. Its arrays are never modified."""

    tails: tuple[Tail, ...]
    acoustic: Doubles
    """[K] log probability of all alignments in the beam of each text."""
    fused: Doubles
    """[K] the contribution of the language model and the token bonus."""
    lm_states: Ints
    """[K]"""
    rows: tuple[Doubles, Ints]
    """[K, V] twice: `Fusion.rows` of these states."""
    hidden: Hidden
    """Each [layers, K, hidden]: the prediction network after each text."""
    predicted: Floats
    """[K, J]"""
    frame: int = 0
    """Frames searched so far."""
    last: int | None = None
    """Frame of the last token before the tails in this utterance; None where there is none."""
    certain: Tail = NO_TOKENS
    """Tokens before the tails that have not been emitted yet."""

    @property
    def best(self) -> Hypothesis:
        """The tokens of the best text after those already emitted; they may still change."""
        tail = self.tails[0]
        return Hypothesis(tail.tokens, tail.frames, 0.0, tail.log_probs)

    @property
    def score(self) -> float:
        """Of the best text since the utterance began."""
        return float((self.acoustic + self.fused).max())

    def candidates(self) -> list[Candidate]:
        """The n-best list of the tokens that are not emitted yet."""
        whole = self.acoustic + self.fused
        return [
            Candidate(joined([self.certain, self.tails[at]], float(whole[at])), float(self.acoustic[at]))
            for at in np.argsort(-whole, kind="stable").tolist()
        ]


def start(scorer: Scorer, empty: Hidden, blank: int) -> BeamState:
    """The state before the first frame.

    Args:
        scorer: the networks and the language model.
        empty: the prediction network's state before anything, each [layers, 1, hidden] of zeros.
        blank: the blank's token number, which is the size of the vocabulary.
    """
    predicted, hidden = scorer.predict(np.array([blank], np.int64), empty)
    states = np.array([scorer.fusion.start], np.int64)
    rows = scorer.fusion.rows(states, blank)
    return BeamState((NO_TOKENS,), np.zeros(1), np.zeros(1), states, rows, hidden, predicted)


def search(encoded: Floats, scorer: Scorer, begin: BeamState, n_best: int = 1) -> list[Candidate]:
    """Search a whole utterance.

    Args:
        encoded: [n, J] frames of the encoder, projected for the joint.
        scorer: the networks and the language model; `commit_frames` keeps only texts with a common prefix.
        begin: from `start`.
        n_best: length of the list.

    Returns:
        At most `n_best` and `beam` texts, the best first.

    Raises:
        QuranAsrError: a score is NaN.
    """
    state = begin
    while state.frame < len(encoded):
        state = _advance(encoded[state.frame :], state, scorer)
    return state.candidates()[:n_best]


def beam_piece(
    encoded: Floats,
    state: BeamState,
    scorer: Scorer,
    begin: BeamState,
    *,
    pause: Pause | None = None,
    final: bool = False,
) -> tuple[Hypothesis, tuple[int, ...], BeamState]:
    """Search one more chunk of a stream.

    Args:
        encoded: [n, J] frames of the encoder, projected for the joint.
        state: `begin` at first, then the state that the last call returned.
        scorer: the networks and the language model.
        begin: from `start`: the state from which the search restarts after an utterance.
        pause: ends an utterance: its best text is taken and the search restarts with that text as the context
            of the language model.
        final: the audio has ended: the best text is taken.

    Returns:
        The tokens that became certain with frames counted from the beginning of the stream, the frames at
        which an utterance was over, and the next state, whose `best` holds the tokens after them. The score
        is the change of the best text's score.

    Raises:
        QuranAsrError: a score is NaN.
    """
    found: list[Tail] = []
    ends: list[int] = []
    score, before, origin = 0.0, state.score, state.frame
    while state.frame - origin < len(encoded):
        rest = encoded[state.frame - origin :]
        state = _advance(rest, state, scorer, pause, origin)
        if _is_over(state, pause, origin):
            ends.append(state.frame)
            found += [state.certain, state.tails[0]]
            score += state.score - before
            state, before = _next_utterance(begin, state), begin.score
    score += state.score - before
    found.append(state.certain)
    if final:
        found.append(state.tails[0])
        return joined(found, score), tuple(ends), replace(begin, frame=state.frame)
    return joined(found, score), tuple(ends), replace(state, certain=NO_TOKENS)


def _next_utterance(begin: BeamState, over: BeamState) -> BeamState:
    """Restart the networks; the language model continues from the best text, as the reciter does."""
    rows = over.rows[0][:1], over.rows[1][:1]
    return replace(begin, lm_states=over.lm_states[:1], rows=rows, frame=over.frame)


def _advance(
    encoded: Floats, state: BeamState, scorer: Scorer, pause: Pause | None = None, origin: int = 0
) -> BeamState:
    """Search a block of frames, or up to the end of the utterance in it. The chunk began at `origin`."""
    block = encoded[:LARGEST_BLOCK]
    scores = _ask(block, state, scorer.join)
    while len(block):
        blanks = scores[:, :, -1].cumsum(axis=0)
        quiet = _quiet_frames(scores, blanks, state, scorer.settings)
        if pause is not None:
            quiet = _until_over(quiet, blanks, state, pause, origin)
        if quiet:
            acoustic = state.acoustic + blanks[quiet - 1]
            order = np.argsort(-(acoustic + state.fused), kind="stable")
            state = _chosen(state, order, state.tails, acoustic, state.frame + quiet)
            block, scores = block[quiet:], scores[quiet:, order]
            if _is_over(state, pause, origin):
                return state
        if len(block):
            state, scores = _grow(block, scores, state, scorer)
            block, scores = block[1:], scores[1:]
            if _is_over(state, pause, origin):
                return state
    return state


def _ask(block: Floats, state: BeamState, join: Join) -> Doubles:
    """Log probabilities [frames, K, V + 1] of every token and blank, in each frame after each text."""
    frames, texts = len(block), len(state.tails)
    pairs = np.repeat(block, texts, axis=0), np.concatenate([state.predicted] * frames)
    scores = join(*pairs)
    if math.isnan(scores.max()):
        bad = int(np.isnan(scores).any(axis=1).argmax()) // texts
        raise QuranAsrError(f"the transducer's scores of frame {state.frame + bad} hold NaN")
    return scores.astype(np.float64).reshape(frames, texts, -1)


def _quiet_frames(scores: Doubles, blanks: Doubles, state: BeamState, settings: BeamSettings) -> int:
    """Number of frames from here that leave the beam unchanged: no text grows, none is dropped.

    Args:
        scores: [frames, K, V + 1].
        blanks: [frames, K] score of each text after each frame if it has not grown.
    """
    stays = state.acoustic + blanks + state.fused
    floor, fewest = stays.max(axis=1) + settings.least, stays.min(axis=1)
    gain = (scores[:, :, :-1] + state.rows[0]).max(axis=2) - scores[:, :, -1]
    grows = (stays + gain).max(axis=1)
    needed = np.maximum(floor, fewest) if len(state.tails) == settings.beam else floor
    quiet = (grows < needed) & (fewest >= floor)
    return len(quiet) if quiet.all() else int(quiet.argmin())


def _until_over(quiet: int, blanks: Doubles, state: BeamState, pause: Pause, origin: int) -> int:
    """Number of these quiet frames before the utterance is over."""
    best = (state.acoustic + blanks[:quiet] + state.fused).argmax(axis=1)
    for place, text in enumerate(best.tolist()):
        frame = state.frame + place
        if pause.over(frame - origin, frame, _last(state, text)):
            return place + 1
    return quiet


def _is_over(state: BeamState, pause: Pause | None, origin: int) -> bool:
    frame = state.frame - 1
    return pause is not None and pause.over(frame - origin, frame, _last(state, 0))


def _last(state: BeamState, text: int) -> int | None:
    """Frame of the last token of one text of the beam in this utterance; None before its first."""
    return state.tails[text].frames[-1] if state.tails[text].frames else state.last


def _chosen(
    state: BeamState, places: Ints, tails: Sequence[Tail], acoustic: Doubles, frame: int
) -> BeamState:
    """Some texts of a state, with other tails and acoustic scores (of all its texts), at another frame."""
    if places.tolist() == list(range(len(state.predicted))):
        return replace(state, tails=tuple(tails), acoustic=acoustic, frame=frame)
    return BeamState(
        tuple(tails[place] for place in places.tolist()),
        acoustic[places],
        state.fused[places],
        state.lm_states[places],
        (state.rows[0][places], state.rows[1][places]),
        tuple(part[:, places] for part in state.hidden),
        state.predicted[places],
        frame,
        state.last,
        state.certain,
    )


def _grow(block: Floats, scores: Doubles, state: BeamState, scorer: Scorer) -> tuple[BeamState, Doubles]:
    """The first frame of a block: every text stays, and grows by up to `max_symbols` tokens.

    Args:
        block: [frames, J].
        scores: [frames, K, V + 1] after each text.

    Returns:
        The next state, and the scores after its texts.
    """
    settings, least = scorer.settings, scorer.settings.least
    alike = _not_late(state, settings.commit_frames)
    if len(alike) < len(state.tails):
        state = _chosen(state, alike, state.tails, state.acoustic, state.frame)
        scores = scores[:, alike]
    size, texts = scores.shape[2] - 1, len(state.tails)
    places = {tail.tokens: at for at, tail in enumerate(state.tails)}
    pool, tails = state, list(state.tails)  # those of the beam, then new ones
    after = state.acoustic + scores[0, :, -1]  # [pool] with the frame's blank
    mass, growing = state.acoustic, np.arange(texts)  # of the texts that grow, before the blank
    for _ in range(settings.max_symbols):
        whole = after + pool.fused
        floor = whole.max() + least
        if len(whole) >= settings.beam:
            floor = max(floor, np.partition(whole, -settings.beam)[-settings.beam])
        arriving = mass[:, None] + scores[0, growing, :size]
        best = _best_places((arriving + pool.fused[growing, None] + pool.rows[0][growing]).ravel(), floor)
        if not len(best):
            break
        best = best[: settings.beam]
        parents, tokens, mass = growing[best // size], best % size, arriving.ravel()[best]
        log_probs = scores[0, parents, tokens]
        each = zip(parents.tolist(), tokens.tolist(), log_probs.tolist(), strict=True)
        grown = [tails[parent].grown(token, state.frame, log_prob) for parent, token, log_prob in each]
        new = [nth for nth, tail in enumerate(grown) if tail.tokens not in places]
        if new:
            fresh = _extended(pool, parents[new], tokens[new], scorer)
            for nth in new:
                places[grown[nth].tokens] = len(places)
                tails.append(grown[nth])
            pool = _together(pool, fresh)
            scores = np.concatenate([scores, _ask(block, fresh, scorer.join)], axis=1)
            after = np.concatenate([after, np.full(len(new), -np.inf)])
        growing = np.array([places[tail.tokens] for tail in grown], np.int64)
        with_blank = mass + scores[0, growing, -1]
        for nth in np.flatnonzero((growing < texts) & (with_blank > after[growing])).tolist():
            tails[growing[nth]] = grown[nth]  # the alignment through this frame is the more probable one
        after[growing] = np.logaddexp(after[growing], with_blank)
    whole = after + pool.fused
    best = _best_places(whole, whole.max() + least)[: settings.beam]
    return _set_apart_shared(_chosen(pool, best, tails, after, state.frame + 1)), scores[:, best]


def _set_apart_shared(state: BeamState) -> BeamState:
    """Remove the common prefix of all tails from them.

    Where the texts have a token in different frames, the first frame counts: in the others the next token
    could already be in the same frame.
    """
    shared = shared_tokens(state.tails)
    if not shared:
        return state
    best = state.tails[0]
    frames = tuple(min(tail.frames[nth] for tail in state.tails) for nth in range(shared))
    alike = Tail(best.tokens[:shared], frames, best.log_probs[:shared])
    tails = tuple(tail.from_token(shared) for tail in state.tails)
    return replace(state, tails=tails, last=frames[-1], certain=state.certain.followed_by(alike))


def _best_places(scores: Doubles, floor: float) -> Ints:
    """Indices of all finite scores [n] that are not below a floor, best first."""
    (places,) = (scores >= max(floor, -sys.float_info.max)).nonzero()
    return places if len(places) < 2 else places[np.argsort(-scores[places], kind="stable")]


def _extended(pool: BeamState, parents: Ints, tokens: Ints, scorer: Scorer) -> BeamState:
    """These texts of the pool with one more token each; their tails and acoustic scores are not filled in."""
    predicted, hidden = scorer.predict(tokens, tuple(part[:, parents] for part in pool.hidden))
    lm_states = pool.rows[1][parents, tokens]
    return BeamState(
        (NO_TOKENS,) * len(parents),
        np.full(len(parents), -np.inf),
        pool.fused[parents] + pool.rows[0][parents, tokens],
        lm_states,
        scorer.fusion.rows(lm_states, pool.rows[0].shape[1]),
        hidden,
        predicted,
        pool.frame,
    )


def _together(first: BeamState, second: BeamState) -> BeamState:
    return replace(
        first,
        tails=first.tails + second.tails,
        acoustic=np.concatenate([first.acoustic, second.acoustic]),
        fused=np.concatenate([first.fused, second.fused]),
        lm_states=np.concatenate([first.lm_states, second.lm_states]),
        rows=(
            np.concatenate([first.rows[0], second.rows[0]]),
            np.concatenate([first.rows[1], second.rows[1]]),
        ),
        hidden=tuple(
            np.concatenate(parts, axis=1) for parts in zip(first.hidden, second.hidden, strict=True)
        ),
        predicted=np.concatenate([first.predicted, second.predicted]),
    )


def _not_late(state: BeamState, frames: int | None) -> Ints:
    """Indices of the texts that agree with the best in its tokens older than this many frames; None: all.

    Evaluated before a frame in which some text grows, so that the chunk boundaries do not matter.
    """
    everything = np.arange(len(state.tails))
    if frames is None:
        return everything
    late = [bisect_left(tail.frames, state.frame - frames) for tail in state.tails]
    if not any(late):
        return everything
    best = state.tails[0].tokens
    alike = [
        tail.tokens[: max(late[0], count)] == best[: max(late[0], count)]
        for tail, count in zip(state.tails, late, strict=True)
    ]
    return everything[alike]


class TransducerBeamDecoder:
    """Beam search of each stream; see `decoder.Decoder`."""

    def __init__(self, decoding: Decoding, model: Model) -> None:
        least = decoding.least_probability
        settings = BeamSettings(
            beam=decoding.beam,
            least_probability=LEAST_PROBABILITY if least is None else least,
            max_symbols=decoding.max_symbols or min(model.max_symbols, BeamSettings().max_symbols),
            commit_frames=frames_of(COMMIT_SECONDS, model.frame_seconds),
        )
        self._patience = patience_of(decoding, model)
        self._scorer = Scorer(model.predict, model.join, decoding.fusion or NO_FUSION, settings)
        empty = np.zeros((model.prediction_layers, 1, model.prediction_width), np.float32)
        self._empty, self._blank = (empty, empty), model.blank
        self.start = start(self._scorer, self._empty, self._blank)

    def step(self, pieces: Sequence[Piece], states: Sequence[BeamState]) -> list[SearchResult]:
        results = []
        for piece, state in zip(pieces, states, strict=True):
            pause = None if self._patience is None else Pause(self._patience, piece.may_end)
            tokens, ends, after = beam_piece(piece.joint, state, self._scorer, self.start, pause=pause)
            results.append(SearchResult(tokens, after.best, ends, after))
        return results

    def draft(self, state: BeamState) -> Hypothesis:
        return state.best

    def n_best(self, whole: Piece, count: int, *, rescoring: bool = False) -> list[Candidate]:
        settings = self._scorer.settings
        wide = replace(
            settings,
            beam=max(settings.beam, count),
            least_probability=min(settings.least_probability, N_BEST_PROBABILITY),
            commit_frames=None,
        )
        fusion = NO_FUSION if rescoring else self._scorer.fusion
        scorer = replace(self._scorer, settings=wide, fusion=fusion)
        found = search(whole.joint, scorer, start(scorer, self._empty, self._blank), count)
        return rescore(found, self._scorer.fusion) if rescoring else found
