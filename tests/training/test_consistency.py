"""Two views of each clip, and the consistency of CTC between them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import lightning.pytorch as lightning
import numpy as np
import pytest
import torch

from quran_asr.training.data.batches import ClipSet, collate, tokenize
from quran_asr.training.loss.consistency import consistency_loss
from quran_asr.training.model import build_model
from quran_asr.training.module import TrainingModule

if TYPE_CHECKING:
    from quran_asr.config.schema import Recipe
    from quran_asr.records import Segment
    from quran_asr.training.tokenizer import Tokenizer


def test_it_is_half_the_sum_of_both_divergences_over_the_frames_of_a_clip() -> None:
    torch.manual_seed(0)
    scores = torch.randn(6, 7, 5).log_softmax(dim=2)
    frames = torch.tensor([7, 4, 1] * 2)
    found = consistency_loss(scores, frames)
    p, q = scores.double().exp().numpy().reshape(2, 3, 7, 5)
    each = 0.5 * (p * np.log(p / q) + q * np.log(q / p)).sum(axis=2)
    expected = [each[clip, :length].sum() for clip, length in enumerate([7, 4, 1])]
    assert found.tolist() == pytest.approx(expected, rel=1e-5)


def test_views_that_agree_cost_nothing_and_each_follows_the_other() -> None:
    torch.manual_seed(0)
    logits = torch.randn(1, 3, 5)
    frames = torch.tensor([3, 3])
    assert consistency_loss(logits.repeat(2, 1, 1).log_softmax(dim=2), frames).item() == pytest.approx(0.0)
    views = torch.stack([logits[0], torch.randn(3, 5)]).requires_grad_()
    consistency_loss(views.log_softmax(dim=2), frames).sum().backward()
    first, second = views.detach().softmax(dim=2)
    assert views.grad is not None
    # of cross entropy with a fixed target: own probabilities minus the target's
    assert torch.allclose(views.grad[0], 0.5 * (first - second), atol=1e-6)
    assert torch.allclose(views.grad[1], 0.5 * (second - first), atol=1e-6)


def test_impossible_tokens_of_both_views_are_finite() -> None:
    """Where a clip is silent, tokens have a score of -10,000."""
    scores = torch.full((2, 1, 3), -1e4)
    scores[:, :, 2] = 0.0
    assert consistency_loss(scores.requires_grad_(), torch.tensor([1, 1])).item() == 0.0


@pytest.mark.slow
def test_a_step_sees_each_clip_behind_two_masks(
    tiny: Recipe, tokenizer: Tokenizer, segments: list[Segment]
) -> None:
    """Without masks both views are one, and the losses those of a single view."""
    clips = ClipSet(tokenize(segments[:3], tokenizer), cache_bytes=1 << 30)
    batch = collate([clips[i] for i in range(3)])
    plain = replace(tiny.quran, curriculum=None, consistency=0.0, prefix_noise=0.0, prefix_resets=0.0)

    def losses(consistency: float, time_masks: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        lightning.seed_everything(0, verbose=False)
        masks = replace(tiny.model.spec_augment, freq_masks=0, time_masks=time_masks, time_width=0.1)
        recipe = replace(
            tiny,
            model=replace(tiny.model, spec_augment=masks),
            quran=replace(plain, consistency=consistency),
        )
        model = build_model(recipe, tokenizer.folder)
        module = TrainingModule(model, recipe, clips, clips, lambda finding: None)
        for part in module.modules():
            if isinstance(part, torch.nn.Dropout):
                part.p = 0.0
        module.train()
        lightning.seed_everything(0, verbose=False)
        transducer, ctc, between = module.losses(batch)
        assert transducer is not None
        return transducer.detach(), ctc.detach(), between

    one, same, masked = losses(0.0, 0), losses(0.2, 0), losses(0.2, 4)
    assert one[2] is None
    assert torch.allclose(one[0], same[0], rtol=1e-4) and torch.allclose(one[1], same[1], rtol=1e-4)
    assert same[2] is not None and masked[2] is not None
    assert float(same[2].detach().abs().max()) < 1e-4
    assert masked[2].shape == (3,) and float(masked[2].detach().min()) > 1e-3
