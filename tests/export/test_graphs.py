"""The encoder's graph says what NeMo's whole-file pass says, whatever the weights, in pieces of any size."""

from __future__ import annotations

import pytest
import torch

from quran_asr.config.recipe import load_recipe
from quran_asr.config.schema import Recipe
from quran_asr.export.graphs import StreamingEncoder
from quran_asr.runtime.sessions import Context
from quran_asr.training.model import EncDecHybridRNNTCTCBPEModel, build_model, look_aheads, set_look_ahead
from quran_asr.training.streaming import model_shape
from quran_asr.training.tokenizer import Tokenizer

LENGTHS = (417, 253)
"""Feature frames of two recordings that are encoded together."""


@pytest.fixture(scope="module")
def model(tiny: Recipe, tokenizer: Tokenizer) -> EncDecHybridRNNTCTCBPEModel:
    """Biases and norms begin as zeros and ones, which would hide how they are folded: all are moved."""
    built = build_model(tiny, tokenizer.folder).eval()
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in built.encoder.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    return built


@pytest.fixture(scope="module")
def tiny(tiny_overrides: tuple[str, ...]) -> Recipe:
    return load_recipe("quickstart", [*tiny_overrides, "model.encoder.n_layers=2"])


@torch.inference_mode()
def in_pieces(
    encoder: StreamingEncoder, features: torch.Tensor, totals: tuple[int, ...], chunk: int, frames: int
) -> torch.Tensor:
    """CTC log-probabilities [B, all frames, classes] of recordings [B, T, mels] fed `frames` at a time."""
    shape, batch = encoder.shape, len(totals)
    for recording, total in zip(features, totals, strict=True):
        recording[total:] = 0
    padded = torch.nn.functional.pad(features, (0, 0, 14, 8 * frames + 16))
    keys = torch.zeros(batch, shape.layers, shape.heads, shape.left_frames, shape.head_size)
    values, kept = keys.clone(), torch.zeros(batch, shape.layers, shape.kernel - 1, shape.width)
    found = []
    for begin in range(0, features.size(1) // 8 + 1, frames):
        piece = padded[:, 8 * begin : 8 * begin + 8 * frames + 7]
        context = Context.of(shape.left_frames, frames, chunk, [begin] * batch, totals)
        seen = {name: torch.from_numpy(value) for name, value in context.inputs.items()}
        _, scores, new_keys, new_values, kept = encoder(piece, **seen, keys=keys, values=values, kept=kept)
        keys = torch.cat([keys, new_keys], dim=3)[:, :, :, frames:]
        values = torch.cat([values, new_values], dim=3)[:, :, :, frames:]
        found.append(scores)
    return torch.cat(found, dim=1)


@pytest.mark.slow
@torch.inference_mode()
def test_whole_and_in_pieces_at_every_look_ahead(model: EncDecHybridRNNTCTCBPEModel) -> None:
    encoder = StreamingEncoder(model, model_shape(model, "tiny")).eval()
    torch.manual_seed(1)
    totals = torch.tensor(LENGTHS)
    features = torch.randn(2, max(LENGTHS), 80)
    features[1, LENGTHS[1] :] = 0
    contexts = look_aheads(model)
    assert list(contexts) == [1040, 480, 80, 0]
    for context in contexts.values():
        set_look_ahead(model, context)
        encoded, lengths = model.encoder(audio_signal=features.transpose(1, 2), length=totals)
        expected = model.ctc_decoder(encoder_output=encoded)
        chunk = context[1] + 1
        for frames in (chunk, 70 // chunk * chunk):
            found = in_pieces(encoder, features, LENGTHS, chunk, frames)
            for stream, length in enumerate(lengths.tolist()):
                difference = (found[stream, :length] - expected[stream, :length]).abs().max()
                assert difference < 1e-4, (context, frames, stream, float(difference))
