"""Our transducer beam with a language model against NeMo's `malsd_batch`, with NeMo's own networks."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from omegaconf import OmegaConf

from quran_asr.decode.transducer import Hidden
from quran_asr.decoding.arpa import write_arpa
from quran_asr.decoding.fusion import NO_FUSION, Fusion
from quran_asr.decoding.ngram_estimation import estimate
from quran_asr.decoding.transducer_beam import BeamSettings, search, start
from quran_asr.runs.schema import Recipe
from quran_asr.train.model import build_model
from quran_asr.train.tokenizer import Tokenizer

LENGTHS = (12, 1, 9, 12, 6, 12, 12, 3)


@pytest.mark.slow
@pytest.mark.parametrize("weight", [0.0, 0.5])
@torch.inference_mode()
def test_the_texts_and_their_scores_are_nemos(
    tiny: Recipe, tokenizer: Tokenizer, weight: float, tmp_path: Path
) -> None:
    """With beams so wide that little is dropped both add up the same alignments, so the scores agree too."""
    torch.manual_seed(3)
    model = build_model(tiny, tokenizer.folder).eval()
    for name, parameter in (*model.decoder.named_parameters(), *model.joint.named_parameters()):
        if "weight" in name and "embed" not in name:
            parameter.mul_(6)  # random weights alone spread the probability evenly
    model.joint.joint_net[-1].bias[-1] += 8
    size = model.tokenizer.vocab_size
    random = np.random.default_rng(0)
    language = estimate([[random.integers(0, size, 12).tolist()] for _ in range(300)], size, order=3)
    write_arpa(language, tmp_path / "model.arpa")

    encoded = 2 * torch.randn(len(LENGTHS), int(model.cfg.encoder.d_model), max(LENGTHS))
    decoding = OmegaConf.create(copy.deepcopy(OmegaConf.to_container(model.cfg.decoding)))
    decoding.strategy = "malsd_batch"
    decoding.beam = OmegaConf.create(
        {
            "beam_size": 32,
            "return_best_hypothesis": True,
            "score_norm": False,
            "max_symbols": 3,
            "allow_cuda_graphs": False,
            "ngram_lm_model": str(tmp_path / "model.arpa") if weight else None,
            "ngram_lm_alpha": weight,
            "blank_lm_score_mode": "no_score",
            "pruning_mode": "late",
        }
    )
    model.change_decoding_strategy(decoding, decoder_type="rnnt", verbose=False)
    theirs = model.decoding.rnnt_decoder_predictions_tensor(
        encoder_output=encoded, encoded_lengths=torch.tensor(LENGTHS), return_hypotheses=True
    )

    def predict(tokens: NDArray[np.int64], hidden: Hidden) -> tuple[NDArray[np.float32], Hidden]:
        state = [torch.from_numpy(np.ascontiguousarray(part)) for part in hidden]
        said, state = model.decoder.predict(torch.from_numpy(tokens)[:, None], state, add_sos=False)
        return model.joint.project_prednet(said)[:, 0].numpy(), tuple(part.numpy() for part in state)

    def join(frames: NDArray[np.float32], predicted: NDArray[np.float32]) -> NDArray[np.float32]:
        pair = torch.from_numpy(frames)[:, None], torch.from_numpy(predicted)[:, None]
        return model.joint.joint_after_projection(*pair)[:, 0, 0].log_softmax(-1).numpy()

    fusion = Fusion(language, weight) if weight else NO_FUSION
    empty = np.zeros((model.decoder.pred_rnn_layers, 1, model.decoder.pred_hidden), np.float32)
    projected = model.joint.project_encoder(encoded.transpose(1, 2)).numpy()
    begin = start(predict, (empty, empty), size, fusion)
    tokens = 0
    for row, length in enumerate(LENGTHS):
        settings = BeamSettings(beam=64, least_probability=0, max_symbols=3)
        (ours,) = search(projected[row, :length], predict, join, begin, fusion=fusion, settings=settings)
        assert list(ours.hypothesis.tokens) == theirs[row].y_sequence.tolist()
        assert ours.hypothesis.score == pytest.approx(float(theirs[row].score), abs=0.05)
        tokens += len(ours.hypothesis.tokens)
    assert tokens > 15
