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

from quran_asr.decoding.decoder import N_BEST_PROBABILITY, EncoderOutput, Model, SearchResult, patience_of
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
from quran_asr.decoding.options import BEAM, Decoding
from quran_asr.decoding.transducer import Floats, Hidden, Join, Predict
from quran_asr.errors import QuranAsrError
from quran_asr.records import Hypothesis

LEAST_PROBABILITY = 3e-2
"""The search takes a sixth less time than with 2e-2; its WER rises by one or two hundredths of its
value, and by four with 4e-2."""
COMMIT_SECONDS = 2.0
"""Seconds after which the tokens of the best text are final in a stream."""
LARGEST_BLOCK = 8
"""Frames in one call of the joint while no text grows."""
ROUNDING = 1e-6
"""A text is looked at more closely if its best token may reach the floor but for the rounding of sums."""


@dataclass(frozen=True, slots=True)
class BeamSettings:
    """How wide the search is."""

    beam: int = BEAM
    """Texts that are kept after every frame."""
    least_probability: float = LEAST_PROBABILITY
    """Texts less probable than this share of the best, with the language model, are dropped; 0 keeps all."""
    max_symbols: int = 3
    """Most tokens that a text can gain in one frame."""
    temperature: float = 1.0
    """The joint network's log-probabilities are divided by it, and normalized again."""
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
class Text:
    """What the networks and the language model make of one text. Its arrays are never modified."""

    fused: float
    """The contribution of the language model and the token bonus since the utterance began."""
    gains: Doubles
    """[V] what each next token would add to it."""
    following: Ints
    """[V] the language model's state after each next token."""
    hidden: Hidden
    """Each [layers, 1, hidden]: the prediction network after the text."""
    predicted: Floats
    """[1, J]"""


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """What the joint network says of a block of frames after one text.

    Frames are counted from the end of the block (-1 is its last), because a text that is found in a frame is
    asked from that frame on.
    """

    log_probs: Doubles
    """[frames, V + 1] of every token and blank."""
    blanks: list[float]
    """[frames] of blank."""
    leads: list[float]
    """[frames] by how much the best token, with the language model, is ahead of blank."""


@dataclass(frozen=True, slots=True, eq=False)
class BeamState:
    """State of the search of one stream: K texts, best first. A value: it is never modified.

    A beam has few texts, two most of the time: numbers of a text are plain floats, and numpy is left to what
    has a number for each token.
    """

    texts: tuple[Text, ...]
    tails: tuple[Tail, ...]
    """[K]"""
    acoustic: tuple[float, ...]
    """[K] log probability of all alignments in the beam of each text."""
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
    def whole(self) -> list[float]:
        """[K] acoustic score and language model of each text since the utterance began."""
        return _whole(self.acoustic, self.texts)

    def candidates(self) -> list[Candidate]:
        """The n-best list of the tokens that are not emitted yet."""
        whole = self.whole
        return [
            Candidate(joined([self.certain, self.tails[at]], whole[at]), self.acoustic[at])
            for at in _best_first(whole)
        ]


def start(scorer: Scorer, empty: Hidden, blank: int) -> BeamState:
    """The state before the first frame.

    Args:
        scorer: the networks and the language model.
        empty: the prediction network's state before anything, each [layers, 1, hidden] of zeros.
        blank: the blank's token number, which is the size of the vocabulary.
    """
    predicted, hidden = scorer.predict(np.array([blank], np.int64), empty)
    gains, following = scorer.fusion.rows(np.array([scorer.fusion.start], np.int64), blank)
    return BeamState((Text(0.0, gains[0], following[0], hidden, predicted),), (NO_TOKENS,), (0.0,))


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


def beam_chunk(
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
    score, before, origin = 0.0, max(state.whole), state.frame
    while state.frame - origin < len(encoded):
        rest = encoded[state.frame - origin :]
        state = _advance(rest, state, scorer, pause, origin)
        if _is_over(state, pause, origin):
            ends.append(state.frame)
            found += [state.certain, state.tails[0]]
            score += max(state.whole) - before
            state, before = _next_utterance(begin, state), max(begin.whole)
    score += max(state.whole) - before
    found.append(state.certain)
    if final:
        found.append(state.tails[0])
        return joined(found, score), tuple(ends), replace(begin, frame=state.frame)
    return joined(found, score), tuple(ends), replace(state, certain=NO_TOKENS)


def _next_utterance(begin: BeamState, over: BeamState) -> BeamState:
    """Restart the networks; the language model continues from the best text, as the reciter does."""
    context = over.texts[0]
    text = replace(begin.texts[0], gains=context.gains, following=context.following)
    return replace(begin, texts=(text,), frame=over.frame)


def _advance(
    encoded: Floats, state: BeamState, scorer: Scorer, pause: Pause | None = None, origin: int = 0
) -> BeamState:
    """Search a block of frames, or up to the end of the utterance in it. The chunk began at `origin`."""
    block = encoded[:LARGEST_BLOCK]
    end = state.frame + len(block)
    asked = _ask(block, state.texts, scorer, state.frame)
    while state.frame < end:
        state, asked = _stay(state, asked, end, scorer.settings, pause, origin)
        if state.frame < end and not _is_over(state, pause, origin):
            state, asked = _grow(block, asked, state, end, scorer)
        if _is_over(state, pause, origin):
            break
    return state


def _ask(block: Floats, texts: Sequence[Text], scorer: Scorer, frame: int) -> list[Asked]:
    """Ask the joint network for each of these frames, the first of which is `frame`, after each text."""
    frames, first = len(block), texts[0]
    if len(texts) == 1:
        pairs, gains = (block, first.predicted.repeat(frames, axis=0)), first.gains
    else:
        predicted = np.concatenate([text.predicted for text in texts])
        pairs = np.concatenate([block] * len(texts)), predicted.repeat(frames, axis=0)
        gains = np.array([text.gains for text in texts])[:, None]
    log_probs, temperature = scorer.join(*pairs), scorer.settings.temperature
    if temperature != 1:
        log_probs = log_probs / np.float32(temperature)
        log_probs -= np.log(np.exp(log_probs).sum(axis=1, keepdims=True))
    scores = log_probs.astype(np.float64).reshape(len(texts), frames, -1)
    if math.isnan(scores.max()):
        bad = int(np.isnan(scores).any(axis=(0, 2)).argmax())
        raise QuranAsrError(
            f"the transducer's scores of frame {frame + bad} hold NaN",
            remedy="use an earlier checkpoint of the run, or export the model again",
        )
    blanks = scores[:, :, -1]
    leads = (scores[:, :, :-1] + gains).max(axis=2) - blanks
    return [Asked(*each) for each in zip(scores, blanks.tolist(), leads.tolist(), strict=True)]


def _stay(
    state: BeamState,
    asked: list[Asked],
    end: int,
    settings: BeamSettings,
    pause: Pause | None,
    origin: int,
) -> tuple[BeamState, list[Asked]]:
    """Pass the frames of a block that leave the beam unchanged: no text grows, none is dropped.

    Args:
        state: before them.
        asked: of each text.
        end: frame after the block.
        settings: of the beam.
        pause: ends the utterance, and the frames that are passed with it.
        origin: frame at which the chunk began.
    """
    acoustic, frame = state.acoustic, state.frame
    full = len(state.texts) == settings.beam
    while frame < end:
        stays = tuple([mass + one.blanks[frame - end] for mass, one in zip(acoustic, asked, strict=True)])
        whole = _whole(stays, state.texts)
        floor, fewest = max(whole) + settings.least, min(whole)
        needed = max(floor, fewest) if full else floor
        grows = [not score + one.leads[frame - end] < needed for score, one in zip(whole, asked, strict=True)]
        if fewest < floor or any(grows):
            break
        acoustic, frame = stays, frame + 1
        if pause is not None:
            best = whole.index(max(whole))
            if pause.over(frame - 1 - origin, frame - 1, _last(state, best)):
                break
    if frame == state.frame:
        return state, asked
    order = _best_first(_whole(acoustic, state.texts))
    return _chosen(state, order, acoustic, frame), [asked[at] for at in order]


def _is_over(state: BeamState, pause: Pause | None, origin: int) -> bool:
    """Whether the utterance ended with the last frame that was searched in this chunk."""
    frame = state.frame - 1
    return pause is not None and frame >= origin and pause.over(frame - origin, frame, _last(state, 0))


def _last(state: BeamState, text: int) -> int | None:
    """Frame of the last token of one text of the beam in this utterance; None before its first."""
    return state.tails[text].frames[-1] if state.tails[text].frames else state.last


def _whole(acoustic: Sequence[float], texts: Sequence[Text]) -> list[float]:
    return [score + text.fused for score, text in zip(acoustic, texts, strict=True)]


def _best_first(scores: Sequence[float]) -> list[int]:
    return sorted(range(len(scores)), key=lambda at: -scores[at])


def _finite(floor: float) -> float:
    """A floor that no text of probability 0 reaches."""
    return max(floor, -sys.float_info.max)


def _chosen(state: BeamState, places: Sequence[int], acoustic: Sequence[float], frame: int) -> BeamState:
    """Some texts of a state, with other acoustic scores (of all its texts), at another frame."""
    return BeamState(
        tuple([state.texts[at] for at in places]),
        tuple([state.tails[at] for at in places]),
        tuple([acoustic[at] for at in places]),
        frame,
        state.last,
        state.certain,
    )


def _grow(
    block: Floats, asked: list[Asked], state: BeamState, end: int, scorer: Scorer
) -> tuple[BeamState, list[Asked]]:
    """One frame: every text stays, and grows by up to `max_symbols` tokens.

    Args:
        block: [frames, J]; its last frame is the one before `end`.
        asked: of each text.
        state: before the frame.
        end: frame after the block.
        scorer: the networks and the language model.

    Returns:
        The next state, and what is asked of its texts.
    """
    settings, least, here = scorer.settings, scorer.settings.least, state.frame - end
    alike = _not_late(state, settings.commit_frames)
    if len(alike) < len(state.texts):
        state = _chosen(state, alike, state.acoustic, state.frame)
        asked = [asked[at] for at in alike]
    # those of the beam, then new ones
    texts, tails, asked = list(state.texts), list(state.tails), list(asked)
    places = {tail.tokens: at for at, tail in enumerate(tails)}
    after = [mass + one.blanks[here] for mass, one in zip(state.acoustic, asked, strict=True)]
    growing = list(enumerate(state.acoustic))  # text, its score before the frame's blank
    for _ in range(settings.max_symbols):
        whole = _whole(after, texts)
        floor = max(whole) + least
        if len(whole) >= settings.beam:
            floor = max(floor, sorted(whole)[-settings.beam])
        found = _growths(growing, texts, asked, here, floor)[: settings.beam]
        if not found:
            break
        grown = []
        for parent, token, mass in found:
            tail = tails[parent].grown(token, state.frame, asked[parent].log_probs.item(here, token))
            grown.append((tail, mass))
        new = [nth for nth, (tail, _) in enumerate(grown) if tail.tokens not in places]
        if new:
            fresh = _extended([(texts[found[nth][0]], found[nth][1]) for nth in new], scorer)
            for nth in new:
                places[grown[nth][0].tokens] = len(places)
                tails.append(grown[nth][0])
            texts += fresh
            asked += _ask(block[here:], fresh, scorer, state.frame)
            after += [-math.inf] * len(new)
        growing = []
        for tail, mass in grown:
            at = places[tail.tokens]
            growing.append((at, mass))
            with_blank = mass + asked[at].blanks[here]
            if at < len(state.texts) and with_blank > after[at]:
                tails[at] = tail  # the alignment through this frame is the more probable one
            after[at] = float(np.logaddexp(after[at], with_blank))
    whole = _whole(after, texts)
    floor = _finite(max(whole) + least)
    best = [at for at in _best_first(whole)[: settings.beam] if whole[at] >= floor]
    pool = replace(state, texts=tuple(texts), tails=tuple(tails))
    return _set_apart_shared(_chosen(pool, best, after, state.frame + 1)), [asked[at] for at in best]


def _growths(
    growing: Sequence[tuple[int, float]],
    texts: Sequence[Text],
    asked: Sequence[Asked],
    here: int,
    floor: float,
) -> list[tuple[int, int, float]]:
    """Texts of the pool and their next tokens that are not below a floor before the frame's blank.

    Returns:
        Text, token, and the acoustic score of both together; the best with the language model first.
    """
    floor = _finite(floor)
    found: list[tuple[float, int, int, float]] = []
    for at, mass in growing:
        text, one = texts[at], asked[at]
        if mass + text.fused + one.blanks[here] + one.leads[here] < floor - ROUNDING:
            continue
        arriving = mass + one.log_probs[here, :-1]
        whole = arriving + text.fused + text.gains
        for token in (whole >= floor).nonzero()[0].tolist():
            found.append((whole.item(token), at, token, arriving.item(token)))
    return [growth[1:] for growth in sorted(found, key=lambda growth: -growth[0])]


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


def _extended(growths: Sequence[tuple[Text, int]], scorer: Scorer) -> list[Text]:
    """Texts with one more token each."""
    parents = [text for text, _ in growths]
    tokens = np.array([token for _, token in growths], np.int64)
    hidden = parents[0].hidden
    if len(parents) > 1:
        each = zip(*(text.hidden for text in parents), strict=True)
        hidden = tuple(np.concatenate(parts, axis=1) for parts in each)
    predicted, hidden = scorer.predict(tokens, hidden)
    states = np.array([text.following[token] for text, token in growths], np.int64)
    gains, following = scorer.fusion.rows(states, len(parents[0].gains))
    return [
        Text(
            text.fused + text.gains.item(token),
            gains[at],
            following[at],
            tuple(part[:, at : at + 1] for part in hidden),
            predicted[at : at + 1],
        )
        for at, (text, token) in enumerate(growths)
    ]


def _not_late(state: BeamState, frames: int | None) -> Sequence[int]:
    """Indices of the texts that agree with the best in its tokens older than this many frames; None: all.

    Evaluated before a frame in which some text grows, so that the chunk boundaries do not matter.
    """
    everything = range(len(state.tails))
    if frames is None:
        return everything
    late = [bisect_left(tail.frames, state.frame - frames) for tail in state.tails]
    if not any(late):
        return everything
    best = state.tails[0].tokens
    return [
        at
        for at, (tail, count) in enumerate(zip(state.tails, late, strict=True))
        if tail.tokens[: max(late[0], count)] == best[: max(late[0], count)]
    ]


class TransducerBeamDecoder:
    """Beam search of each stream; see `decoder.Decoder`."""

    def __init__(self, decoding: Decoding, model: Model) -> None:
        least = decoding.least_probability
        settings = BeamSettings(
            beam=decoding.beam,
            least_probability=LEAST_PROBABILITY if least is None else least,
            max_symbols=decoding.max_symbols or min(model.max_symbols, BeamSettings().max_symbols),
            temperature=model.beam_temperature if decoding.temperature is None else decoding.temperature,
            commit_frames=frames_of(COMMIT_SECONDS, model.frame_seconds),
        )
        self._patience = patience_of(decoding, model)
        self._scorer = Scorer(model.predict, model.join, decoding.fusion or NO_FUSION, settings)
        empty = np.zeros((model.prediction_layers, 1, model.prediction_width), np.float32)
        self._empty, self._blank = (empty, empty), model.blank
        self.start = start(self._scorer, self._empty, self._blank)

    def step(self, chunks: Sequence[EncoderOutput], states: Sequence[BeamState]) -> list[SearchResult]:
        results = []
        for chunk, state in zip(chunks, states, strict=True):
            pause = None if self._patience is None else Pause(self._patience, chunk.may_end)
            tokens, ends, after = beam_chunk(chunk.joint, state, self._scorer, self.start, pause=pause)
            results.append(SearchResult(tokens, after.best, ends, after))
        return results

    def draft(self, state: BeamState) -> Hypothesis:
        return state.best

    def n_best(self, whole: EncoderOutput, count: int, *, rescoring: bool = False) -> list[Candidate]:
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
