"""Our search from piece to piece against NeMo's `greedy_batch` over the whole, with NeMo's own networks."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from omegaconf import OmegaConf

from quran_asr.config.schema import Recipe
from quran_asr.decoding.transducer import Hidden, greedy, start
from quran_asr.training.model import EncDecHybridRNNTCTCBPEModel, build_model
from quran_asr.training.tokenizer import Tokenizer


@pytest.fixture
def model(tiny: Recipe, tokenizer: Tokenizer) -> EncDecHybridRNNTCTCBPEModel:
    """Random weights, made large so that the outputs are no even spread, and a blank of middling appeal."""
    torch.manual_seed(3)
    model = build_model(tiny, tokenizer.folder).eval()
    with torch.no_grad():
        for name, weight in (*model.decoder.named_parameters(), *model.joint.named_parameters()):
            if "weight" in name and "embed" not in name:
                weight.mul_(6)
        model.joint.joint_net[-1].bias[-1] += 8
    return model


@pytest.mark.slow
@pytest.mark.parametrize("max_symbols", [1, 3, 10])
@torch.inference_mode()
def test_the_words_are_nemos_however_the_stream_is_cut(
    model: EncDecHybridRNNTCTCBPEModel, max_symbols: int
) -> None:
    lengths = [70, 0, 33, 1, 70, 52]
    encoded = 2 * torch.randn(len(lengths), int(model.cfg.encoder.d_model), max(lengths))
    decoding = OmegaConf.create(copy.deepcopy(OmegaConf.to_container(model.cfg.decoding)))
    decoding.greedy.max_symbols = max_symbols
    model.change_decoding_strategy(decoding, decoder_type="rnnt", verbose=False)
    theirs = model.decoding.rnnt_decoder_predictions_tensor(
        encoder_output=encoded, encoded_lengths=torch.tensor(lengths), return_hypotheses=True
    )

    def predict(tokens: NDArray[np.int64], hidden: Hidden) -> tuple[NDArray[np.float32], Hidden]:
        state = [torch.from_numpy(np.ascontiguousarray(part)) for part in hidden]
        label_arcs, state = model.decoder.predict(torch.from_numpy(tokens)[:, None], state, add_sos=False)
        return model.joint.project_prednet(label_arcs)[:, 0].numpy(), tuple(part.numpy() for part in state)

    def join(frames: NDArray[np.float32], predicted: NDArray[np.float32]) -> NDArray[np.float32]:
        pair = torch.from_numpy(frames)[:, None], torch.from_numpy(predicted)[:, None]
        return model.joint.joint_after_projection(*pair)[:, 0, 0].log_softmax(-1).numpy()

    layers, hidden = model.decoder.pred_rnn_layers, model.decoder.pred_hidden
    empty = np.zeros((layers, 1, hidden), np.float32)
    projected = model.joint.project_encoder(encoded.transpose(1, 2)).numpy()
    for piece in (1, 2, 7, 14, 70):
        states = [start(predict, (empty, empty), model.tokenizer.vocab_size)] * len(lengths)
        tokens: list[list[int]] = [[] for _ in lengths]
        frames: list[list[int]] = [[] for _ in lengths]
        for begin in range(0, max(lengths), piece):
            valid = [min(piece, max(0, length - begin)) for length in lengths]
            steps = greedy(
                projected[:, begin : begin + piece], valid, states, predict, join, max_symbols=max_symbols
            )
            states = [step.state for step in steps]
            for row, step in enumerate(steps):
                tokens[row] += step.found.tokens
                frames[row] += step.found.frames
        for ours, at, their in zip(tokens, frames, theirs, strict=True):
            assert ours == their.y_sequence.tolist()
            assert at == [int(frame) for frame in their.timestamp]
        label_arcs = sum(map(len, tokens))
        assert (
            20 < label_arcs < sum(lengths) * max_symbols - 20
        )  # neither silence nor babble: there is a search
