"""A trained hybrid as a folder for sherpa-onnx: one look-ahead, metadata, `tokens.txt`.

sherpa-onnx runs NeMo's streaming models on phones, boards and in browsers, in a dozen languages. It cuts the
features into windows of `window_size` frames, `chunk_shift` apart, and hands each to the encoder with three
opaque tensors: zeros first, then those that the encoder returned. An incomplete last window is dropped.
Consequences for the graph:

- Windows do not overlap (`window_size` = `chunk_shift` = one chunk), so the graph keeps the 14 frames of
  history that its subsampling needs in one of those tensors. It starts at frame 0: no frame is computed
  twice, none is dropped, and the words are those of a whole-file pass.
- sherpa's features are NeMo's (Slaney mel, Hann window, no dither) with three differences. Frames are centred
  half a hop later: 80 samples of silence before a recording put them where NeMo has them. The logarithm is
  cut at 2^-23 where NeMo adds 2^-24: undone in the graph (`nemo_features`). The Hann window is periodic.

Names of inputs, outputs and metadata are those that `online-transducer-nemo-model.cc` and
`online-nemo-ctc-model.cc` of sherpa-onnx read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

from quran_asr.decoding.vocabulary import Vocabulary
from quran_asr.errors import QuranAsrError
from quran_asr.export.graphs import Joint, Prediction, StreamingEncoder, write_graph
from quran_asr.files import temporary_folder, write_atomically
from quran_asr.runtime.bundle import Shape
from quran_asr.runtime.sessions import HISTORY, MASKED, Context
from quran_asr.training.model import EncDecHybridRNNTCTCBPEModel

BLANK = "<blk>"
"""How sherpa-onnx spells the blank."""
HEADS = ("transducer", "ctc")
CTC_REPEATS = 2
"""How often each frame of CTC is given: sherpa-onnx assumes 40 ms per frame there, whatever the metadata
has. A repeated frame does not change a greedy search, and times and pauses come out right."""
FLOOR = math.log(2.0**-23)
"""The smallest logarithm in sherpa-onnx's features."""
FRAME_SECONDS = 0.08


def window_frames(look_ahead_frames: int, subsampling: int = 8) -> int:
    """Feature frames (10 ms) in one window of sherpa-onnx."""
    return subsampling * (look_ahead_frames + 1)


def tail_seconds(look_ahead_frames: int, subsampling: int = 8) -> float:
    """Silence to append to a recording, so that sherpa-onnx processes each of its encoder frames.

    A window is processed once one more frame than its length is available. At worst the last encoder frame is
    the first of its window and looks up to the seventh feature frame past the recording: a window and those
    seven, less the half hop by which sherpa rounds up.
    """
    return round(0.01 * (window_frames(look_ahead_frames, subsampling) + 7) - 0.005, 3)


def write_sherpa(
    model: EncDecHybridRNNTCTCBPEModel,
    shape: Shape,
    folder: Path,
    look_ahead_frames: int,
    heads: Sequence[str] = HEADS,
) -> None:
    """Write `tokens.txt` and the graphs of one look-ahead into `folder`, each file atomically.

    `transducer` is `encoder.onnx`, `decoder.onnx` and `joiner.onnx`, for `OnlineRecognizer.from_transducer`;
    `ctc` is `model.onnx`, for `OnlineRecognizer.from_nemo_ctc`. The encoder's weights are in both.

    Args:
        model: in evaluation mode, on the CPU.
        shape: its encoder's.
        folder: created if missing.
        look_ahead_frames: encoder frames to the right, one of `shape.look_aheads`.
        heads: which of the two to write.

    Raises:
        QuranAsrError: a look-ahead that the model lacks, another head, or a vocabulary that `tokens.txt`
            cannot hold.
        OSError: the folder cannot be written.
    """
    if look_ahead_frames not in shape.look_aheads:
        known = ", ".join(f"{round(1000 * FRAME_SECONDS * frames)} ms" for frames in shape.look_aheads)
        raise QuranAsrError(
            f"the model has no look-ahead of {round(1000 * FRAME_SECONDS * look_ahead_frames)} ms",
            where=str(folder),
            remedy=f"it has: {known}",
        )
    if unknown := set(heads) - set(HEADS):
        raise QuranAsrError(f"no head `{unknown.pop()}`", where=str(folder), remedy="use transducer or ctc")
    tokens = _tokens(Vocabulary(tuple(model.tokenizer.ids_to_tokens(range(model.tokenizer.vocab_size)))))
    files = {"tokens.txt": tokens}
    for head in heads:
        encoder = SherpaEncoder(model, shape, look_ahead_frames, head).eval()
        name = "encoder.onnx" if head == "transducer" else "model.onnx"
        files[name] = _graph(encoder, encoder.metadata(model))
    if "transducer" in heads:
        files["decoder.onnx"] = _graph(SherpaDecoder(model).eval(), {})
        files["joiner.onnx"] = _graph(SherpaJoiner(model).eval(), {})
    for name, data in files.items():
        write_atomically(folder / name, data)


def nemo_features(mels: Tensor) -> Tensor:
    """log(max(E, 2^-23)), as sherpa-onnx gives, to log(E + 2^-24), as NeMo does: float32 [B, T, mels].

    An energy at the floor is unknown. A frame with all its mels at the floor is digital silence, E = 0;
    elsewhere 2^-26 is closest on average (measured on recitations and on synthetic speech).
    """
    floor = mels <= FLOOR + 1e-4
    quiet = torch.where(floor.all(dim=2, keepdim=True), 0.0, 2.0**-26)
    return (torch.where(floor, quiet, mels.exp()) + 2.0**-24).log()


class Graph(nn.Module):
    """A module with names for its inputs and outputs."""

    def inputs(self) -> dict[str, tuple[Tensor, int]]:
        """Examples by name, each with its axis of streams."""
        raise NotImplementedError

    def outputs(self) -> dict[str, int]:
        """Names, each with its axis of streams."""
        raise NotImplementedError


class SherpaEncoder(Graph):
    """The encoder of `export_graph` with the inputs and outputs of NeMo's cache-aware export.

    The three tensors between windows: `cache_last_channel` holds keys and values, `cache_last_time` what the
    convolutions keep and the last feature frames, `cache_last_channel_len` the encoder frames so far.
    """

    def __init__(
        self, model: EncDecHybridRNNTCTCBPEModel, shape: Shape, look_ahead_frames: int, head: str
    ) -> None:
        super().__init__()
        self.streaming = StreamingEncoder(model, shape)
        self.shape = shape
        self.mels = int(model.cfg.preprocessor.features)
        self.head = head
        self.frames_behind = shape.subsampling // (CTC_REPEATS if head == "ctc" else 1)
        self.chunk = look_ahead_frames + 1
        self.window = window_frames(look_ahead_frames, shape.subsampling)
        self.channel = (2 * shape.layers, shape.heads, shape.left_frames * shape.head_size)
        self.kept = shape.layers * (shape.kernel - 1) * shape.width
        self.time = (1, 1, self.kept + HISTORY * self.mels)

    def forward(
        self, signal: Tensor, length: Tensor, channel: Tensor, time: Tensor, begin: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """A window of each of B streams.

        Args:
            signal: float32 [B, mels, window], sherpa's log-mel features.
            length: int64 [B], always the window.
            channel, time: float32 [B, *self.channel] and [B, *self.time].
            begin: int64 [B], encoder frames before this window.

        Returns:
            For the transducer the joint's encoder input [B, joint, chunk], for CTC log-probabilities
            [B, CTC_REPEATS * chunk, vocabulary + 1]; their frames, int64 [B]; what to give with the next
            window.
        """
        shape, batch = self.shape, signal.size(0)
        history = time[:, 0, 0, self.kept :].reshape(batch, HISTORY, self.mels)
        mels = torch.cat([history, nemo_features(signal.transpose(1, 2))], dim=1)
        keys, values = channel.reshape(
            batch, 2, shape.layers, shape.heads, shape.left_frames, shape.head_size
        ).unbind(1)
        kept = time[:, 0, 0, : self.kept].reshape(batch, shape.layers, shape.kernel - 1, shape.width)
        joint, ctc, new_keys, new_values, kept = self.streaming(
            mels[:, : self.window + 7],
            *self._context(begin),
            keys,
            values,
            kept,
        )
        keys = torch.cat([keys[:, :, :, self.chunk :], new_keys], dim=3)
        values = torch.cat([values[:, :, :, self.chunk :], new_values], dim=3)
        output = (
            joint.transpose(1, 2) if self.head == "transducer" else ctc.repeat_interleave(CTC_REPEATS, dim=1)
        )
        return (
            output,
            length // self.frames_behind,
            torch.stack([keys, values], dim=1).reshape(batch, *self.channel),
            torch.cat([kept.flatten(1), mels[:, self.window :].flatten(1)], dim=1).reshape(batch, *self.time),
            begin + self.chunk,
        )

    def _context(self, begin: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """`runtime.sessions.Context` of a window, begin int64 [B]: only the first ones differ.

        The features before the beginning are the zeros of the first cache.
        """
        n, left = self.chunk, self.shape.left_frames
        middle = Context.of(left, n, n, [left], [None]).inputs
        rows = begin.view(-1, 1, 1, 1)
        halves = torch.arange(-6, 4 * n - 3).view(1, 1, -1, 1)
        quarters = torch.arange(-2, 2 * n - 1).view(1, 1, -1, 1)
        seen = rows.unsqueeze(4) + torch.arange(-left, n) >= 0
        return (
            (4 * rows + halves >= 0).float(),
            (2 * rows + quarters >= 0).float(),
            torch.where(seen, torch.from_numpy(middle["mask"]), float(MASKED)),
            torch.from_numpy(middle["columns"]),
        )

    def inputs(self) -> dict[str, tuple[Tensor, int]]:
        return {
            "audio_signal": (torch.randn(2, self.mels, self.window), 0),
            "length": (torch.full((2,), self.window), 0),
            "cache_last_channel": (torch.randn(2, *self.channel), 0),
            "cache_last_time": (torch.randn(2, *self.time), 0),
            "cache_last_channel_len": (torch.tensor([0, self.chunk]), 0),
        }

    def outputs(self) -> dict[str, int]:
        caches = (f"cache_last_{name}_next" for name in ("channel", "time", "channel_len"))
        return dict.fromkeys(("outputs", "encoded_lengths", *caches), 0)

    def metadata(self, model: EncDecHybridRNNTCTCBPEModel) -> dict[str, object]:
        """What sherpa-onnx reads from the graph."""
        caches = {
            f"cache_last_{name}_dim{i}": size
            for name, sizes in (("channel", self.channel), ("time", self.time))
            for i, size in enumerate(sizes, start=1)
        }
        return {
            "model_type": "EncDecHybridRNNTCTCBPEModel",
            "version": 1,
            "vocab_size": model.tokenizer.vocab_size,
            "window_size": self.window,
            "chunk_shift": self.window,
            "subsampling_factor": self.frames_behind,
            "normalize_type": "NA",
            "feat_dim": self.mels,
            "pred_rnn_layers": model.decoder.pred_rnn_layers,
            "pred_hidden": model.decoder.pred_hidden,
            "look_ahead_ms": round(1000 * FRAME_SECONDS * (self.chunk - 1)),
            "tail_ms": round(1000 * tail_seconds(self.chunk - 1, self.shape.subsampling)),
            **caches,
        }


class SherpaDecoder(Graph):
    """The prediction network with the inputs and outputs of NeMo's export."""

    def __init__(self, model: EncDecHybridRNNTCTCBPEModel) -> None:
        super().__init__()
        self.prediction = Prediction(model)
        self.layers, self.width = model.decoder.pred_rnn_layers, model.decoder.pred_hidden

    def forward(
        self, tokens: Tensor, length: Tensor, hidden: Tensor, cell: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """int32 [B, 1] and [B], float32 [layers, B, width] twice -> [B, joint, 1], the length, the states."""
        predicted, hidden, cell = self.prediction(tokens[:, 0].long(), hidden, cell)
        return predicted.unsqueeze(2), length.clone(), hidden, cell

    def inputs(self) -> dict[str, tuple[Tensor, int]]:
        state = torch.randn(self.layers, 2, self.width)
        return {
            "targets": (torch.tensor([[0], [1]], dtype=torch.int32), 0),
            "target_length": (torch.ones(2, dtype=torch.int32), 0),
            "states.1": (state, 1),
            "states.2": (state, 1),
        }

    def outputs(self) -> dict[str, int]:
        return {"outputs": 0, "prednet_lengths": 0, "states.1_next": 1, "states.2_next": 1}


class SherpaJoiner(Graph):
    """The joint network with the inputs and outputs of NeMo's export."""

    def __init__(self, model: EncDecHybridRNNTCTCBPEModel) -> None:
        super().__init__()
        self.joint = Joint(model)
        self.width = model.joint.enc.out_features

    def forward(self, encoded: Tensor, predicted: Tensor) -> Tensor:
        """[B, joint, 1] and [B, joint, 1] -> log-probabilities [B, 1, 1, vocabulary + 1]."""
        return self.joint(encoded[:, :, 0], predicted[:, :, 0])[:, None, None]  # type: ignore[no-any-return]

    def inputs(self) -> dict[str, tuple[Tensor, int]]:
        inputs = torch.randn(2, 2, self.width, 1)
        return {"encoder_outputs": (inputs[0], 0), "decoder_outputs": (inputs[1], 0)}

    def outputs(self) -> dict[str, int]:
        return {"outputs": 0}


def _graph(module: Graph, metadata: Mapping[str, object]) -> bytes:
    """An ONNX file for any number of streams."""
    inputs, outputs = module.inputs(), module.outputs()
    axes = {name: axis for name, (_, axis) in inputs.items()} | outputs
    with temporary_folder() as folder:
        file = folder / "graph.onnx"
        write_graph(
            module,
            {name: example for name, (example, _) in inputs.items()},
            tuple(outputs),
            {name: {axis: "streams"} for name, axis in axes.items()},
            file,
        )
        graph = onnx.load(file)
    for key, value in metadata.items():
        graph.metadata_props.add(key=key, value=str(value))
    return graph.SerializeToString()  # type: ignore[no-any-return]


def _tokens(vocabulary: Vocabulary) -> bytes:
    """`tokens.txt`: a piece and its number on each line, the blank last."""
    for token, piece in enumerate(vocabulary.pieces):
        if not piece or piece.split() != [piece] or piece == BLANK:
            raise QuranAsrError(
                f"token {token}, `{piece!r}`, cannot be written into tokens.txt",
                remedy="leave out `--target sherpa`; quran-asr itself needs the bundle only",
            )
    return "".join(f"{piece} {i}\n" for i, piece in enumerate([*vocabulary.pieces, BLANK])).encode()
