"""What the prediction network reads in training, so that it follows the sound and not the text by heart.

A transducer's prediction network sees the tokens before the next one. Trained on whole verses it learns them
by heart: it loses its thread where a recording goes on with another verse, and it corrects what a reciter
says. Two changes of what it reads cure that. It starts anew at a word in the middle of a clip, as the decoder
does behind a pause; and some tokens are others than those recited, as after a recognition error.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from torch import Tensor


def restarts(clips: Sequence[Sequence[int]], begins_word: Sequence[bool], share: float) -> list[int]:
    """How many tokens come before the place where the prediction network starts anew; 0: it does not.

    Drawn from Python's generator, which checkpoints keep.

    Args:
        clips: the tokens of each clip.
        begins_word: whether a token begins a word, by its id.
        share: of the clips, 0 to 1.
    """
    starts = []
    for tokens in clips:
        places = [place for place, token in enumerate(tokens) if place and begins_word[token]]
        starts.append(random.choice(places) if share and places and random.random() < share else 0)
    return starts


def with_wrong_tokens(tokens: Tensor, share: float, vocabulary: int) -> Tensor:
    """Tokens, int64 [B, U], of which a share is replaced by any of the vocabulary, equally likely."""
    if not share:
        return tokens
    wrong = torch.rand(tokens.shape, device=tokens.device) < share
    return torch.where(wrong, torch.randint_like(tokens, vocabulary), tokens)
