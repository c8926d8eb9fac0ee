"""The ONNX Runtime sessions of a bundle: features in, scores out, state as a value."""

from __future__ import annotations

import ctypes
import math
import mmap
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime

from quran_asr.decoding.decoder import EncoderOutput
from quran_asr.errors import QuranAsrError
from quran_asr.runtime.bundle import AGAIN, ENCODER, JOINT, PREDICTION, VOCABULARY, Bundle

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Float32 = NDArray[np.float32]
    Int64 = NDArray[np.int64]
    from collections.abc import Callable

HISTORY = 14
"""Feature frames before 8j that encoder frame j depends on."""
INSIDE = {
    ("model", 7): "graph",
    ("model", 20): "training",
    ("model", 25): "function",
    ("training", 1): "graph",
    ("training", 2): "graph",
    ("function", 7): "node",
    ("function", 11): "attribute",
    ("graph", 1): "node",
    ("graph", 5): "tensor",
    ("graph", 15): "sparse",
    ("node", 5): "attribute",
    ("attribute", 5): "tensor",
    ("attribute", 6): "graph",
    ("attribute", 10): "tensor",
    ("attribute", 11): "graph",
    ("attribute", 22): "sparse",
    ("attribute", 23): "sparse",
    ("sparse", 1): "tensor",
    ("sparse", 2): "tensor",
}
"""(message, field) of ONNX's protobuf -> the message in it: all paths to a tensor. Source: onnx.proto."""
EXTERNAL = frozenset({("tensor", 13)})
"""A tensor's `external_data`, which names a file; a bundle's tensors have none."""
UNKNOWN = 1 << 40
"""Feature frames of a recording that has not ended."""


def encoder_frames(features: int) -> int:
    """Encoder frames of a recording of this many feature frames: three halvings, padded as in training."""
    for _ in range(3):
        features = features // 2 + 1
    return features


@dataclass(frozen=True, slots=True)
class EncoderState:
    """The encoder's cache of one stream."""

    frames: int
    """Encoder frames so far."""
    keys: Float32
    """[1, layers, heads, left, head size], as are the values."""
    values: Float32
    kept: Float32
    """[1, layers, kernel - 1, width]."""


@dataclass(frozen=True, slots=True)
class Context:
    """What frames of a chunk may see, the same for all layers: inputs of the encoder's graph.

    Most chunks in the middle of recordings have the same context, so contexts are kept.
    """

    inputs: dict[str, NDArray[Any]]
    """`valid_2`, `valid_4`: float32 [B, 1, 4n + 3, 1] and [B, 1, 2n + 1, 1], 1 for frames of the recording
    after one and two halvings, 0 for those outside.
    `mask`: float32 [B, 1, 1, n, left + n], 0 where a frame may look, MASKED elsewhere.
    `columns`: int64 [1, 1, 1, n, left + n], the column for each score in the table of positions, which begins
    with the distance 2 left - 1."""

    @classmethod
    def of(
        cls, left: int, n: int, chunk: int, begins: Sequence[int], totals: Sequence[int | None]
    ) -> Context:
        """The context of n frames of each of B streams.

        Args:
            left: frames of the left context.
            n: frames in the chunk, at most `left`.
            chunk: look-ahead in frames + 1.
            begins: frames of each stream so far.
            totals: feature frames of each recording, None while it continues.
        """
        each = []
        for begin, total in zip(begins, totals, strict=True):
            earlier = max(0, begin - max(left, 2))  # frames that no frame of this chunk reaches
            rest = None if total is None or total >= 8 * (begin + n) else total - 8 * earlier
            each.append(_context_of_one(left, n, chunk, begin - earlier, rest))
        if len(each) == 1:
            return each[0]
        joined = {name: np.concatenate([one.inputs[name] for one in each]) for name in JOINED}
        return cls({**each[0].inputs, **joined})


JOINED = ("valid_2", "valid_4", "mask")
MASKED = np.float32(-10_000)
"""Added to scores that attention must not see, as in NeMo."""


@lru_cache(maxsize=1024)
def _context_of_one(left: int, n: int, chunk: int, begin: int, total: int | None) -> Context:
    """The context of one stream."""
    halves = quarters = frames = math.inf  # of the recording
    if total is not None:
        halves = total // 2 + 1
        quarters = halves // 2 + 1
        frames = quarters // 2 + 1
    own, other = np.arange(n)[:, None], np.arange(-left, n)[None]
    start = own // chunk * chunk
    seen = (other >= start - left // chunk * chunk) & (other < start + chunk)
    seen &= (begin + other >= 0) & (begin + other < frames)
    inputs = {
        "valid_2": _inside(4 * begin - 6, 4 * n + 3, halves),
        "valid_4": _inside(2 * begin - 2, 2 * n + 1, quarters),
        "mask": np.where(seen, np.float32(0), MASKED)[None, None, None],
        "columns": (left - 1 - own + other + left)[None, None, None],
    }
    return Context(inputs)


def _inside(first: int, count: int, end: float) -> Float32:
    """1 for the frames of a recording among `count` from `first` on, float32 [1, 1, count, 1]."""
    index = np.arange(first, first + count)
    return ((index >= 0) & (index < end)).astype(np.float32)[None, None, :, None]


def _without_outside(features: Float32, begins: Sequence[int], totals: Sequence[int | None]) -> Float32:
    """Features with zeros for the frames before and after each recording."""
    changed = features
    for row, (begin, total) in enumerate(zip(begins, totals, strict=True)):
        first = HISTORY - 8 * begin  # feature frame 0
        if first > 0 or (total is not None and first + total < features.shape[1]):
            changed = features.copy() if changed is features else changed
            changed[row, : max(0, first)] = 0
            if total is not None:
                changed[row, max(0, first + total) :] = 0
    return changed


class Sessions:
    """The three graphs of a bundle, loaded. Safe to use from several threads: it holds no state."""

    def __init__(self, bundle: Bundle, threads: int = 0) -> None:
        """Load the graphs.

        Args:
            bundle: where they are.
            threads: of the encoder; 0 leaves the choice to ONNX Runtime (one per physical core).

        Raises:
            QuranAsrError: ONNX Runtime cannot load a graph, or its inputs are not the expected ones.
        """
        self.bundle = bundle
        self.encoder = _load(bundle.folder / ENCODER, threads)
        self.prediction = _load(bundle.folder / PREDICTION, 1)
        self.joint = _load(bundle.folder / JOINT, 1)
        _return_freed_memory()
        shape = bundle.shape
        self.start = EncoderState(
            0,
            np.zeros((1, shape.layers, shape.heads, shape.left_frames, shape.head_size), np.float32),
            np.zeros((1, shape.layers, shape.heads, shape.left_frames, shape.head_size), np.float32),
            np.zeros((1, shape.layers, shape.kernel - 1, shape.width), np.float32),
        )

    def encode(
        self,
        features: Float32,
        totals: Sequence[int | None],
        chunk: int,
        states: Sequence[EncoderState],
    ) -> tuple[list[EncoderOutput], list[EncoderState]]:
        """Encode a chunk of n frames of each of B streams.

        Args:
            features: [B, 8n + 7, mels]: feature frames 8j - 14 .. 8(j + n - 1) of a stream at frame j.
            totals: feature frames of each recording, None while it continues.
            chunk: look-ahead in frames + 1; n is a multiple of it, and each stream's frames so far too.
            states: of each stream.

        Returns:
            For each stream the frames that exist (fewer than n at the end of a recording) and its next state.
        """
        n = (features.shape[1] - 7) // self.bundle.shape.subsampling
        begins = [state.frames for state in states]
        joint, ctc, keys, values, kept = self.encoder.run(
            None,
            {
                **self._context(features, begins, totals, chunk),
                "keys": _joined([state.keys for state in states]),
                "values": _joined([state.values for state in states]),
                "kept": _joined([state.kept for state in states]),
            },
        )
        encoded: list[EncoderOutput] = []
        following: list[EncoderState] = []
        for i, (state, total) in enumerate(zip(states, totals, strict=True)):
            there = n if total is None else min(n, max(0, encoder_frames(total) - state.frames))
            encoded.append(EncoderOutput(joint[i, :there], ctc[i, :there]))
            one = slice(i, i + 1)
            latest = (_latest(state.keys, keys[one]), _latest(state.values, values[one]))
            following.append(EncoderState(state.frames + n, *latest, kept[one]))
        return encoded, following

    def _context(
        self, features: Float32, begins: Sequence[int], totals: Sequence[int | None], chunk: int
    ) -> dict[str, NDArray[Any]]:
        """The features, and what may be seen of them; a bundle of format 1 computes that in its graph."""
        if self.bundle.format == 1:
            return {
                "mels": features,
                "begin": np.array(begins, np.int64),
                "total": np.array([UNKNOWN if total is None else total for total in totals], np.int64),
                "chunk": np.array(chunk, np.int64),
            }
        n = (features.shape[1] - 7) // self.bundle.shape.subsampling
        context = Context.of(self.bundle.shape.left_frames, n, chunk, begins, totals)
        return {"mels": _without_outside(features, begins, totals), **context.inputs}

    def predict(self, tokens: Int64, state: tuple[Float32, ...]) -> tuple[Float32, tuple[Float32, ...]]:
        """Tokens [B] and the LSTM's state ([layers, B, width] twice) -> [B, joint width], next state."""
        predicted, hidden, cell = self.prediction.run(
            None, {"tokens": tokens, "hidden": state[0], "cell": state[1]}
        )
        return predicted, (hidden, cell)

    def join(self, encoded: Float32, predicted: Float32) -> Float32:
        """[N, joint width] twice -> log-probabilities [N, vocabulary + 1], blank last."""
        log_probs: Float32 = self.joint.run(None, {"encoded": encoded, "predicted": predicted})[0]
        return log_probs


def _latest(before: Float32, new: Float32) -> Float32:
    """[1, layers, heads, left, size] from those before and the new ones; format 1 returns all of them."""
    rows = new.shape[3]
    return new if rows == before.shape[3] else np.concatenate([before[:, :, :, rows:], new], axis=3)


def _joined(arrays: list[Float32]) -> Float32:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def refuse_external(path: Path) -> None:
    """A graph may keep its weights in other files, which no checksum of the bundle covers.

    Raises:
        QuranAsrError: it does, or is not laid out as ONNX lays graphs out.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            waiting = [("model", 0, len(content))]
            while waiting:
                message, place, end = waiting.pop()
                for field, start, stop in _fields(content, place, end):
                    if (message, field) in EXTERNAL:
                        raise QuranAsrError(
                            "keeps weights in another file, which the bundle does not list",
                            where=str(path),
                            remedy=AGAIN,
                        )
                    if inner := INSIDE.get((message, field)):
                        waiting.append((inner, start, stop))
    except (ValueError, IndexError, OSError) as error:
        raise QuranAsrError("is not an ONNX graph", where=str(path), remedy=AGAIN) from error


def _fields(content: mmap.mmap, place: int, end: int) -> Iterator[tuple[int, int, int]]:
    """(number, start, stop) of the fields of a protobuf message that lies at `place` to `end`."""

    def number() -> int:
        nonlocal place
        value = shift = 0
        while True:
            byte = content[place]
            place += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value
            if shift > 63:
                raise ValueError("a number of more than 64 bits")

    while place < end:
        key = number()
        start = place
        match key & 7:
            case 0:
                number()
            case 1:
                place += 8
            case 2:
                length = number()
                start, place = place, place + length
            case 5:
                place += 4
            case kind:
                raise ValueError(f"no field has the wire type {kind}")
        if place > end:
            raise ValueError("a field reaches beyond its message")
        yield key >> 3, start, place


def _load(path: Path, threads: int) -> Any:
    refuse_external(path)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # hides warnings about this machine's devices
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Otherwise threads that wait for the next chunk would spin and take processor time from the application.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Weights stored in 8 bits become floats once, here. ONNX Runtime would else make floats of them for every
    # chunk, and round what some of them are multiplied with to 8 bits as well.
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime raises a class of its own for each kind of fault
        what = f"ONNX Runtime {onnxruntime.__version__} cannot load it ({str(error).splitlines()[0][:200]})"
        raise QuranAsrError(what, where=str(path), remedy=AGAIN) from error


def _return_freed_memory() -> None:
    """glibc would keep the memory that only loading needed: 18 of 128 MB with the model of the package."""
    with suppress(OSError, AttributeError, TypeError):  # other systems have no such function
        ctypes.CDLL(None).malloc_trim(0)


# Checksums show that files are unchanged, not that they form a recognizer. A chunk of silence through all
# three graphs does: it checks their inputs, outputs and widths. It takes some milliseconds, and the first
# chunk of the first stream is faster for it.


def run_once(sessions: Sessions) -> None:
    """Recognize a chunk of silence.

    Raises:
        QuranAsrError: a graph has other inputs or outputs than expected, returns values that are not numbers,
            or is made for another vocabulary; it names the file.
    """
    bundle = sessions.bundle
    shape, classes = bundle.shape, len(bundle.vocabulary) + 1
    chunk = shape.look_aheads[-1] + 1
    silence = np.zeros((1, shape.subsampling * chunk + 7, bundle.features.mels), np.float32)
    state = np.zeros((shape.prediction_layers, 1, shape.prediction_width), np.float32)
    blank = np.array([bundle.vocabulary.blank], np.int64)

    encoded, _ = _asked(sessions, ENCODER, lambda: sessions.encode(silence, [None], chunk, [sessions.start]))
    predicted, _ = _asked(sessions, PREDICTION, lambda: sessions.predict(blank, (state, state)))
    _check(sessions, ENCODER, encoded[0].joint, (chunk, shape.joint_width))
    _check(sessions, PREDICTION, predicted, (1, shape.joint_width))
    joined = _asked(sessions, JOINT, lambda: sessions.join(encoded[0].joint[:1], predicted))
    for name, scores in ((ENCODER, encoded[0].ctc), (JOINT, joined)):
        if scores.ndim == 2 and scores.shape[1] != classes:
            raise QuranAsrError(
                f"has {classes - 1:,} pieces, and {name} is made for {scores.shape[1] - 1:,}",
                where=str(bundle.folder / VOCABULARY),
                remedy=AGAIN,
            )
    _check(sessions, ENCODER, encoded[0].ctc, (chunk, classes))
    _check(sessions, JOINT, joined, (1, classes))


def _asked(sessions: Sessions, name: str, ask: Callable[[], Any]) -> Any:
    try:
        return ask()
    except Exception as error:  # ONNX Runtime raises a class of its own for each kind of mismatch
        reason = " ".join(str(error).split())[:200]
        raise QuranAsrError(
            f"is another graph than a bundle's ({reason})",
            where=str(sessions.bundle.folder / name),
            remedy=AGAIN,
        ) from error


def _check(sessions: Sessions, name: str, given: np.ndarray[Any, Any], shape: tuple[int, ...]) -> None:
    where = str(sessions.bundle.folder / name)
    if given.shape != shape:
        raise QuranAsrError(
            f"gives {list(given.shape)} where {list(shape)} is needed", where=where, remedy=AGAIN
        )
    if not np.isfinite(given).all():
        raise QuranAsrError("gives values that are not numbers (NaN or infinite)", where=where, remedy=AGAIN)
