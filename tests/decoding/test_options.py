"""Settings of a search are refused with what there is."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest

from quran_asr.decoding.options import DECODERS, Decoding
from quran_asr.errors import QuranAsrError


def test_every_decoder_can_be_chosen() -> None:
    assert [Decoding(decoder).decoder for decoder in DECODERS] == [
        "transducer",
        "ctc",
        "ctc-beam",
        "transducer-beam",
    ]


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        (
            {"decoder": "viterbi"},
            "no decoder `viterbi`\nhint: there are transducer, ctc, ctc-beam, t",
        ),
        ({"beam": 0}, "beam is 0"),
        ({"max_symbols": -1}, "max_symbols is -1"),
        ({"least_probability": 1.0}, "least_probability is 1.0"),
        ({"least_probability": math.nan}, "least_probability is nan"),
        ({"temperature": 0.0}, "temperature is 0.0\nhint: give a number from 0.1 to 10"),
        ({"temperature": math.nan}, "temperature is nan"),
        ({"pause_seconds": 0.0}, "pause_seconds is 0.0"),
        ({"pause_seconds": math.inf}, "pause_seconds is inf"),
        ({"pause_seconds": 1e18}, "pause_seconds is 1e+18\nhint: give seconds above 0 and at most 3,600"),
        ({"pause_seconds": "1"}, "pause_seconds is '1'"),
    ],
)
def test_a_setting_out_of_range_is_named(settings: dict[str, object], what: str) -> None:
    with pytest.raises(QuranAsrError) as caught:
        Decoding(**settings)  # type: ignore[arg-type]
    assert str(caught.value).startswith(what)


def test_options_need_no_numpy() -> None:
    code = "import sys, quran_asr.decoding.options; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
