"""A trained model's networks fed chunk by chunk, as `runtime.engine.Engine` feeds those of a bundle.

So a `.nemo` or a checkpoint is searched by the code that searches its bundle, on recordings of any length:
NeMo's cache-aware encoder keeps what each layer needs of the chunks before, and its frames are those of the
whole recording.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from quran_asr.decoding.decoder import EncoderOutput
from quran_asr.decoding.vocabulary import Vocabulary
from quran_asr.errors import QuranAsrError
from quran_asr.runtime.bundle import Bundle, Shape
from quran_asr.runtime.features import FeatureSettings, log_mel
from quran_asr.runtime.sessions import HISTORY, encoder_frames
from quran_asr.training.model import EncDecHybridRNNTCTCBPEModel, set_look_ahead

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Float32 = NDArray[np.float32]
    Int64 = NDArray[np.int64]

DROPPED = 2
"""Encoder frames before a chunk that are computed again: NeMo's padding reaches so far into a chunk."""
FEATURE_TOLERANCE = 1e-2
"""Of a log-mel feature, natural log: the runtime's against NeMo's."""


def model_shape(model: EncDecHybridRNNTCTCBPEModel, name: str) -> Shape:
    """How a model is fed chunk by chunk.

    Raises:
        QuranAsrError: the encoder is none that can be fed chunk by chunk; says which of its keys is why.
    """
    cfg = model.cfg.encoder
    needed = {
        "subsampling": "dw_striding",
        "subsampling_factor": 8,
        "causal_downsampling": True,
        "self_attention_model": "rel_pos",
        "att_context_style": "chunked_limited",
        "conv_norm_type": "layer_norm",
        "conv_context_size": "causal",
    }
    for key, value in needed.items():
        if cfg.get(key) != value:
            raise QuranAsrError(
                f"not a streaming model: encoder.{key} is {cfg.get(key)}, not {value}",
                where=name,
                remedy="train with one of the shipped recipes; `transcribe` and `evaluate` take this model",
            )
    if str(model.cfg.preprocessor.get("normalize", "NA")) not in ("NA", "None", "null"):
        raise QuranAsrError(
            f"features are normalised over the recording (preprocessor.normalize: "
            f"{model.cfg.preprocessor.normalize}), which a stream cannot know",
            where=name,
            remedy="train with model.preprocessor.normalize=NA",
        )
    encoder = model.encoder
    attention = encoder.layers[0].self_attn
    contexts = [(int(left), int(right)) for left, right in encoder.att_context_size_all]
    lefts = {left for left, _ in contexts}
    if len(lefts) != 1 or min(min(context) for context in contexts) < 0:
        raise QuranAsrError(
            f"not a streaming model: its attention contexts are {contexts}",
            where=name,
            remedy="each needs the same number of frames to the left, and a number to the right",
        )
    return Shape(
        layers=len(encoder.layers),
        heads=attention.h,
        head_size=attention.d_k,
        width=int(cfg.d_model),
        kernel=int(cfg.conv_kernel_size),
        left_frames=lefts.pop(),
        look_aheads=tuple(sorted({right for _, right in contexts}, reverse=True)),
        joint_width=model.joint.enc.out_features,
        prediction_layers=model.decoder.pred_rnn_layers,
        prediction_width=model.decoder.pred_hidden,
        max_symbols=int(model.cfg.decoding.greedy.max_symbols),
    )


def describe(
    model: EncDecHybridRNNTCTCBPEModel,
    name: str,
    spelling: str,
    shape: Shape,
    folder: Path,
    provenance: Mapping[str, Any],
) -> Bundle:
    """What the `bundle.json` of a model says, in 32-bit floats; nothing is written."""
    pieces = tuple(model.tokenizer.ids_to_tokens(range(model.tokenizer.vocab_size)))
    sentencepiece = model.tokenizer.tokenizer
    preprocessor = model.cfg.preprocessor
    rate = int(preprocessor.sample_rate)
    return Bundle(
        folder=folder,
        name=name,
        spelling=spelling,
        features=FeatureSettings(
            sample_rate=rate,
            window=round(rate * float(preprocessor.window_size)),
            hop=round(rate * float(preprocessor.window_stride)),
            n_fft=int(preprocessor.n_fft),
            mels=int(preprocessor.features),
        ),
        shape=shape,
        vocabulary=Vocabulary(pieces, tuple(float(sentencepiece.GetScore(i)) for i in range(len(pieces)))),
        precision="float32",
        provenance=provenance,
        figures={},
    )


@torch.inference_mode()
def check_features(model: EncDecHybridRNNTCTCBPEModel, settings: FeatureSettings, name: str) -> None:
    """Check that the features of the model are those that the runtime computes.

    Raises:
        QuranAsrError: they differ by more than `FEATURE_TOLERANCE`.
    """
    noise = (0.1 * np.random.default_rng(0).standard_normal(settings.sample_rate)).astype(np.float32)
    device = next(model.parameters()).device
    signal, length = torch.from_numpy(noise)[None].to(device), torch.tensor([len(noise)], device=device)
    theirs, frames = model.preprocessor(input_signal=signal, length=length)
    ours = log_mel(noise, settings)
    given = theirs[0, :, : int(frames[0])].T.float().cpu().numpy()
    if ours.shape != given.shape or float(np.abs(ours - given).max()) > FEATURE_TOLERANCE:
        raise QuranAsrError(
            "not a streaming model: its features are not those of the runtime",
            where=name,
            remedy="train with one of the shipped recipes; `transcribe` and `evaluate` take this model",
        )


@dataclass(frozen=True, slots=True, eq=False)
class EncoderCache:
    """What NeMo's encoder keeps of one stream; None before the first chunk."""

    frames: int = 0
    """Encoder frames so far."""
    attention: Tensor | None = None
    """[layers, reach, width]: inputs of each layer's attention; the last ones of `frames` are filled."""
    convolution: Tensor | None = None
    """[layers, width, kernel - 1]."""


class TorchNetworks:
    """Encoder, prediction network and joint of a model in torch: `runtime.engine.Networks`."""

    def __init__(self, model: EncDecHybridRNNTCTCBPEModel, shape: Shape) -> None:
        """The model in evaluation mode, on the device where it is to run."""
        self.model, self.shape = model, shape
        self.device = next(model.parameters()).device
        self.start = EncoderCache()

    @torch.inference_mode()
    def encode(
        self, features: Float32, totals: Sequence[int | None], chunk: int, states: Sequence[EncoderCache]
    ) -> tuple[list[EncoderOutput], list[EncoderCache]]:
        """A chunk of n frames of each of B streams; see `runtime.sessions.Sessions.encode`."""
        encoder = self.model.encoder
        set_look_ahead(self.model, [self.shape.left_frames, chunk - 1])
        reach = self.shape.left_frames // chunk * chunk  # whole chunks alone, or the mask would be displaced
        encoder.streaming_cfg.last_channel_cache_size = reach
        n = (features.shape[1] - 7) // self.shape.subsampling
        there = [
            n if total is None else min(n, max(0, encoder_frames(total) - state.frames))
            for total, state in zip(totals, states, strict=True)
        ]
        layers, width = self.shape.layers, self.shape.width
        attention, convolution = encoder.get_initial_cache_state(len(states), device=self.device)[:2]
        for row, state in enumerate(states):
            if state.attention is not None and state.convolution is not None:
                attention[:, row], convolution[:, row] = state.attention, state.convolution
        frames, _, attention, convolution, _ = encoder(
            audio_signal=self._subsampled(features, totals, states),
            length=torch.tensor(there, device=self.device),
            cache_last_channel=attention,
            cache_last_time=convolution,
            cache_last_channel_len=torch.tensor(
                [min(state.frames, reach) for state in states], device=self.device
            ),
            bypass_pre_encode=True,
        )
        assert attention.shape == (layers, len(states), reach, width)
        ctc = self.model.ctc_decoder(encoder_output=frames).float().cpu().numpy()
        joint = self.model.joint.enc(frames.transpose(1, 2)).float().cpu().numpy()
        encoded = [EncoderOutput(joint[row, :count], ctc[row, :count]) for row, count in enumerate(there)]
        following = [
            EncoderCache(state.frames + n, attention[:, row].clone(), convolution[:, row].clone())
            for row, state in enumerate(states)
        ]
        return encoded, following

    def _subsampled(
        self, features: Float32, totals: Sequence[int | None], states: Sequence[EncoderCache]
    ) -> Tensor:
        """[B, 8n + 7, mels] -> [B, n, width].

        Behind the beginning of a recording NeMo's padding of zeros would be in the first frames: they are
        computed of real features from `DROPPED` frames before, and dropped.
        """
        n = (features.shape[1] - 7) // self.shape.subsampling
        subsampled = torch.zeros(len(states), n, self.shape.width, device=self.device)
        for dropped in (0, DROPPED):
            rows = [row for row, state in enumerate(states) if (state.frames > 0) == (dropped > 0)]
            if not rows:
                continue
            before = HISTORY - self.shape.subsampling * dropped  # -2: features that the kept frames never see
            window = torch.from_numpy(features[rows][:, max(before, 0) :]).to(self.device)
            window = torch.nn.functional.pad(window, (0, 0, max(-before, 0), 0))
            first = [self.shape.subsampling * (states[row].frames - dropped) for row in rows]
            lengths = [
                window.size(1) if totals[row] is None else min(window.size(1), totals[row] - start)  # type: ignore[operator]
                for row, start in zip(rows, first, strict=True)
            ]
            made, _ = self.model.encoder.pre_encode(
                x=window, lengths=torch.tensor(lengths, device=self.device)
            )
            subsampled[rows] = made[:, dropped : dropped + n].float()
        return subsampled

    @torch.inference_mode()
    def predict(self, tokens: Int64, state: tuple[Float32, ...]) -> tuple[Float32, tuple[Float32, ...]]:
        """See `runtime.sessions.Sessions.predict`."""
        prediction = self.model.decoder.prediction
        hidden, cell = (torch.from_numpy(part).to(self.device) for part in state)
        embedded = prediction["embed"](torch.from_numpy(tokens).to(self.device)).unsqueeze(0)
        output, (hidden, cell) = prediction["dec_rnn"].lstm(embedded, (hidden, cell))
        predicted: Float32 = self.model.joint.pred(output[0]).cpu().numpy()
        return predicted, (hidden.cpu().numpy(), cell.cpu().numpy())

    @torch.inference_mode()
    def join(self, encoded: Float32, predicted: Float32) -> Float32:
        """See `runtime.sessions.Sessions.join`."""
        both = torch.from_numpy(encoded + predicted).to(self.device)
        log_probs: Float32 = torch.log_softmax(self.model.joint.joint_net(both), dim=-1).cpu().numpy()
        return log_probs
