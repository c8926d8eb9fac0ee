"""Validations take up to 3 % of a training's time, and come as often as that allows."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from quran_asr.experiments.planning.timing import SHARE, epochs_between, validated_epochs

SECONDS = st.floats(0.1, 10_000.0)


@given(SECONDS, SECONDS, st.integers(1, 500))
def test_validations_take_no_more_than_their_share(validation: float, epoch: float, epochs: int) -> None:
    between = epochs_between(validation, epoch, epochs)
    often = validated_epochs(between, epochs)
    assert often == len({*range(0, epochs, between), epochs - 1})
    spent = often * validation / (epochs * epoch)
    assert spent <= SHARE * (1 + 1e-9) or between == epochs, "but the first and the last"
    if 1 < between < epochs:  # one epoch less between them could be too much
        assert (epochs / (between - 1) + 2) * validation > SHARE * epochs * epoch * (1 - 1e-9)


def test_the_share_by_hand() -> None:
    assert epochs_between(3.0, 100.0, 10) == 1, "3 s of 100 s are 3 %"
    assert epochs_between(10.0, 100.0, None) == 4, "10 s in 400 s are 2.5 %"
    assert epochs_between(10.0, 100.0, 5) == 5, "no more than the first and the last"
    assert epochs_between(10.0, 0.0, None) == 1, "nothing was measured"
