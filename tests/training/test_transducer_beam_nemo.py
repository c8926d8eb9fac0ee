"""Our transducer beam against NeMo's beams, with NeMo's own networks and the same ARPA file."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from omegaconf import OmegaConf

from quran_asr.config.schema import Recipe
from quran_asr.decoding.arpa import write_arpa
from quran_asr.decoding.fusion import NO_FUSION, Candidate, Fusion
from quran_asr.decoding.ngram_estimation import estimate
from quran_asr.decoding.transducer import Hidden
from quran_asr.decoding.transducer_beam import BeamSettings, Scorer, search, start
from quran_asr.training.model import build_model
from quran_asr.training.tokenizer import Tokenizer

LENGTHS = (12, 1, 9, 12, 6, 12, 12, 3)


BEAM, MOST = 32, 3
TIME_SYNCHRONOUS = {"beam_size": BEAM, "tsd_max_sym_exp": MOST, "score_norm": False}
WITH_LANGUAGE_MODEL = {
    "beam_size": BEAM,
    "max_symbols": MOST,
    "score_norm": False,
    "allow_cuda_graphs": False,
    "ngram_lm_alpha": 0.5,
    "blank_lm_score_mode": "no_score",
    "pruning_mode": "late",
}


@pytest.mark.slow
@torch.inference_mode()
def test_the_texts_and_their_scores_are_nemos(tiny: Recipe, tokenizer: Tokenizer, tmp_path: Path) -> None:
    """NeMo's scores are those of its texts, less what it dropped; ours are never below them.

    On these random networks NeMo's time-synchronous search (`tsd`) often finds our text; `malsd_batch`, which
    compares texts at different frames, finds less probable ones.
    """
    torch.manual_seed(3)
    model = build_model(tiny, tokenizer.folder).eval()
    for name, parameter in (*model.decoder.named_parameters(), *model.joint.named_parameters()):
        if "weight" in name and "embed" not in name:
            parameter.mul_(6)  # random weights alone spread the probability evenly
    model.joint.joint_net[-1].bias[-1] += 12
    size = model.tokenizer.vocab_size
    random = np.random.default_rng(0)
    language = estimate([[random.integers(0, size, 12).tolist()] for _ in range(300)], size, order=3)
    write_arpa(language, tmp_path / "model.arpa")
    encoded = 2 * torch.randn(len(LENGTHS), int(model.cfg.encoder.d_model), max(LENGTHS))

    def nemo(strategy: str, beam: dict[str, Any]) -> list[Any]:
        decoding = OmegaConf.create(copy.deepcopy(OmegaConf.to_container(model.cfg.decoding)))
        decoding.strategy, decoding.beam = strategy, OmegaConf.create(beam)
        model.change_decoding_strategy(decoding, decoder_type="rnnt", verbose=False)
        return model.decoding.rnnt_decoder_predictions_tensor(
            encoder_output=encoded, encoded_lengths=torch.tensor(LENGTHS), return_hypotheses=True
        )

    def predict(tokens: NDArray[np.int64], hidden: Hidden) -> tuple[NDArray[np.float32], Hidden]:
        state = [torch.from_numpy(np.ascontiguousarray(part)) for part in hidden]
        output, state = model.decoder.predict(torch.from_numpy(tokens)[:, None], state, add_sos=False)
        return model.joint.project_prednet(output)[:, 0].numpy(), tuple(part.numpy() for part in state)

    def join(frames: NDArray[np.float32], predicted: NDArray[np.float32]) -> NDArray[np.float32]:
        pair = torch.from_numpy(frames)[:, None], torch.from_numpy(predicted)[:, None]
        return model.joint.joint_after_projection(*pair)[:, 0, 0].log_softmax(-1).numpy()

    projected = model.joint.project_encoder(encoded.transpose(1, 2)).numpy()
    empty = np.zeros((model.decoder.pred_rnn_layers, 1, model.decoder.pred_hidden), np.float32)
    settings = BeamSettings(beam=BEAM, least_probability=0, max_symbols=MOST)

    def ours(fusion: Fusion) -> list[Candidate]:
        scorer = Scorer(predict, join, fusion, settings)
        begin = start(scorer, (empty, empty), size)
        return [search(projected[row, :length], scorer, begin)[0] for row, length in enumerate(LENGTHS)]

    with_model = WITH_LANGUAGE_MODEL | {"ngram_lm_model": str(tmp_path / "model.arpa")}
    equal = 0
    for fusion, strategy, beam in (
        (NO_FUSION, "tsd", TIME_SYNCHRONOUS),
        (Fusion(language, 0.5), "malsd_batch", with_model),
    ):
        for found, theirs in zip(ours(fusion), nemo(strategy, beam), strict=True):
            sequence = [int(token) for token in theirs.y_sequence if token != size]
            assert found.hypothesis.score >= float(theirs.score) - 1e-3
            if list(found.hypothesis.tokens) == sequence:
                equal += abs(found.hypothesis.score - float(theirs.score)) < 1e-2
    assert equal >= 4
