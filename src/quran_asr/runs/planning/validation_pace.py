"""Every how many epochs a training validates, so that validations do not hold it up."""

from __future__ import annotations

import math

SHARE = 0.03
"""The most of the time of training that validations may take."""


def epochs_between(validation_seconds: float, epoch_seconds: float, epochs: float | None) -> int:
    """The smallest k with which validations in the first epoch, every k-th and the last take up to `SHARE`.

    Args:
        validation_seconds: of all validations in an epoch that has some.
        epoch_seconds: of an epoch's training.
        epochs: in the whole training; None where no limit is set. Where even first and last are too much,
            k is as many.
    """
    if validation_seconds <= 0 or epoch_seconds <= 0:
        return 1
    if epochs is None:
        return max(1, math.ceil(validation_seconds / (SHARE * epoch_seconds)))
    if epochs * validation_seconds <= SHARE * epochs * epoch_seconds:
        return 1
    room = SHARE * epochs * epoch_seconds - 2 * validation_seconds
    if room <= 0:
        return max(1, math.ceil(epochs))
    return min(max(1, math.ceil(epochs)), math.ceil(epochs * validation_seconds / room))


def validated_epochs(between: int, epochs: int) -> int:
    """How many of so many epochs have validations: the first, every one `between` later, and the last."""
    every = -(-epochs // between)
    return every + (epochs > 1 and (epochs - 1) % between > 0)
