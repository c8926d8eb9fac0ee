"""Silence before speech: where nothing has sounded yet, nothing can have been said."""

from __future__ import annotations

import torch
from torch import Tensor


def first_sound(audio: Tensor, samples_per_frame: int) -> Tensor:
    """The encoder frame in which each clip first reaches 1 % of its peak. audio [B, samples] -> [B]."""
    loudness = audio.abs()
    heard = loudness >= 0.01 * loudness.amax(dim=1, keepdim=True)
    return heard.to(torch.uint8).argmax(dim=1) // samples_per_frame


def silent_until(scores: Tensor, frame: Tensor) -> Tensor:
    """CTC scores under which nothing but blanks may stand up to and in a frame.

    A start from random weights may put the first token of every clip into one of its first frames, which
    are easily told from all others. With a wide look-ahead that costs nothing; without one the model then
    guesses how a recitation begins (in one of three quickstarts 111 of 134 first words were wrong at 0 ms).
    Before anything sounds, nothing can have been heard.

    Args:
        scores: [B, T, V + 1], natural log, blank last.
        frame: [B], the last silent frame of each clip.
    """
    silent = torch.arange(scores.shape[1], device=scores.device) <= frame[:, None]
    token = torch.arange(scores.shape[2], device=scores.device) < scores.shape[2] - 1
    return scores.masked_fill(silent[:, :, None] & token, -1e4)
