"""What the guide expects: the word error rate of a full-size training by epochs."""

from __future__ import annotations

Band = tuple[int, int, float, float]
"""From epoch, to epoch, lowest WER, highest WER."""

EXPECTED_PRETRAINED: tuple[Band, ...] = (
    (0, 10, 0.40, 0.50),
    (10, 30, 0.25, 0.35),
    (30, 50, 0.18, 0.25),
    (50, 80, 0.12, 0.18),
    (80, 100, 0.10, 0.15),
)
EXPECTED_RANDOM: tuple[Band, ...] = (
    (0, 10, 0.95, 1.00),
    (10, 30, 0.60, 0.80),
    (30, 50, 0.30, 0.50),
    (50, 80, 0.15, 0.30),
    (80, 100, 0.10, 0.20),
)


def band_at(epoch: float, pretrained: bool) -> Band | None:
    """The band of an epoch, counted from 0; of one that ends a band that band. None behind the last."""
    bands = EXPECTED_PRETRAINED if pretrained else EXPECTED_RANDOM
    return next((band for band in bands if epoch <= band[1]), None)
