from __future__ import annotations

import math
from itertools import groupby, product

import pytest
import torch
from torch.nn import functional

from quran_asr.config.schema import Recipe
from quran_asr.training.curriculum import Curriculum, token_entropy
from quran_asr.training.module import blanks_while_silent, first_audible_frame


def test_entropy_of_equal_tokens_is_the_logarithm_of_their_number() -> None:
    assert token_entropy([[0, 1], [2, 3], [0, 1, 2, 3]]) == pytest.approx(math.log(4))
    assert token_entropy([[5, 5, 5]]) == 0


def test_ctc_of_one_distribution_for_all_frames_costs_about_the_entropy() -> None:
    """The claim behind the plateau: the best constant answer costs the tokens' entropy, give or take 6 %."""
    generator = torch.Generator().manual_seed(0)
    shares = torch.softmax(torch.randn(47, generator=generator), dim=0)
    clips, frames, labels = 8, 60, 20
    targets = torch.multinomial(shares, clips * labels, replacement=True, generator=generator).view(clips, -1)
    logits = torch.zeros(48, requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=0.2)
    for _ in range(60):
        scores = logits.log_softmax(0).expand(frames, clips, 48)
        lengths = torch.full((clips,), frames), torch.full((clips,), labels)
        loss = functional.ctc_loss(scores, targets, *lengths, blank=47, reduction="sum") / targets.numel()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) == pytest.approx(token_entropy(targets.tolist()), rel=0.06)


def test_ctc_alone_and_short_clips_until_the_plateau_is_left(tiny: Recipe) -> None:
    settings = tiny.quran.curriculum
    assert settings is not None
    last, most = tiny.model.aux_ctc.ctc_loss_weight, tiny.model.train_ds.max_duration
    course = Curriculum(token_entropy=4.0)
    course.observe(settings, 1, 4.0)
    assert course.ctc_weight(settings, 2, 1000, last) == 1.0
    assert course.longest_seconds(settings, 2, most) == settings.first_seconds
    step = 2
    while course.left_at is None:
        course.observe(settings, step, 2.0)
        step += 1
    assert course.left_at < settings.latest_step
    assert course.ctc_weight(settings, course.left_at, 1000, last) == settings.ctc_loss_weight
    assert course.ctc_weight(settings, 1000, 1000, last) == pytest.approx(last)
    longest = course.longest_seconds(settings, course.left_at + settings.growth_steps // 2, most)
    assert longest is not None
    assert settings.first_seconds < longest < most
    assert course.longest_seconds(settings, course.left_at + settings.growth_steps, most) is None


def test_a_path_begins_with_a_blank_and_its_price_is_kept() -> None:
    """By enumeration: the loss over all paths of three frames whose first frame is blank."""
    torch.manual_seed(0)
    scores = torch.randn(1, 3, 3, dtype=torch.float64).log_softmax(-1).requires_grad_()
    allowed = [path for path in product(range(3), repeat=3) if path[0] == 2 and collapsed(path) == [0]]
    expected = -torch.logsumexp(
        torch.stack([sum(scores[0, t, token] for t, token in enumerate(path)) for path in allowed]), 0
    )
    lengths = torch.tensor([3]), torch.tensor([1])
    masked = blanks_while_silent(scores, torch.tensor([0])).transpose(0, 1)
    loss = functional.ctc_loss(masked, torch.tensor([[0]]), *lengths, blank=2, reduction="sum")
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-9)
    (gradient,) = torch.autograd.grad(loss, scores)
    assert gradient[0, 0, 2] < 0, "the blank of the first frame is learned"
    assert torch.isfinite(gradient).all()


def test_the_first_audible_frame_is_found() -> None:
    audio = torch.zeros(3, 4 * 1280)
    audio[0, 2 * 1280 + 5 :] = 0.3
    audio[1] = 0.001 * torch.randn(4 * 1280, generator=torch.Generator().manual_seed(0))  # all of it is loud
    assert first_audible_frame(audio, 1280).tolist() == [2, 0, 0]


def collapsed(path: tuple[int, ...]) -> list[int]:
    return [token for token, _ in groupby(path) if token != 2]


def test_a_plateau_that_is_never_left_ends_at_the_latest_step(tiny: Recipe) -> None:
    settings = tiny.quran.curriculum
    assert settings is not None
    course = Curriculum(token_entropy=4.0)
    for step in range(1, settings.latest_step + 1):
        assert course.left_at is None
        course.observe(settings, step, 4.0)
    assert course.left_at == settings.latest_step


def test_without_a_curriculum_all_is_as_in_the_recipe() -> None:
    course = Curriculum(token_entropy=4.0)
    assert course.ctc_weight(None, 1, 1000, 0.3) == 0.3
    assert course.longest_seconds(None, 1, 20.0) is None
