"""Decoder options. Without numpy, so that recipes and the command line can read them quickly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from quran_asr.errors import QuranAsrError

if TYPE_CHECKING:
    from quran_asr.decoding.fusion import Fusion

DECODERS = {
    "transducer": "quran_asr.decoding.transducer:TransducerDecoder",
    "ctc": "quran_asr.decoding.ctc:CtcDecoder",
    "ctc-beam": "quran_asr.decoding.ctc_beam:CtcBeamDecoder",
    "transducer-beam": "quran_asr.decoding.transducer_beam:TransducerBeamDecoder",
}
"""Name -> class (see `decoder.Decoder`): greedy search over the transducer, the best path of CTC, prefix beam
search over CTC, beam search over the transducer. Imported when one is chosen."""

BEAMS = {
    "transducer": "transducer-beam",
    "ctc": "ctc-beam",
    "ctc-beam": "ctc-beam",
    "transducer-beam": "transducer-beam",
}
"""Decoder -> the beam search over the same scores: language models and n-best lists need it."""

DEFAULT_DECODER = "transducer-beam"
"""For models that can be fed piece by piece. On 191 validation clips of studio reciters and phones a model
of 13M parameters had a WER of 0.123 with it and of 0.152 with greedy search, at 1.2 times the time."""

BEAM = 16
"""Width of a beam search. WER of 478 clips of two unseen reciters, of a model of 13M parameters, with a width
of 8 (temperature 2, texts below 2 % dropped) and of 16 (2.25, 3 %), and the search's processor time as a
share of the encoder's:

- 1040 ms: 0.074, 0.069; 480 ms: 0.079, 0.068; time 0.29, 0.32
- 480 ms with the language model of the Quran: 0.031, 0.033; over CTC 0.054, 0.046
"""
BEAM_TEMPERATURE = 2.0
"""Of `transducer-beam`, for a model that was not exported with another.

It softens the joint network's distributions, which are overconfident on unknown voices: the right text is
then still in the beam when later audio contradicts the first choice. WER on 195 validation clips of voices
that are not trained on, of a model of 13M parameters, with temperatures of 1, 1.5, 2 and 2.5:

- 1040 ms: 0.093, 0.080, 0.084, 0.081
- 480 ms: 0.103, 0.100, 0.086, 0.085
- 0 ms: 0.142, 0.127, 0.103, 0.104
- 1040 ms, degraded to a bad telephone: 0.440, 0.405, 0.404, 0.419
- 1040 ms, a model of 1.8M parameters: 0.552, 0.522, 0.517, 0.542
"""
TEMPERATURES = (0.1, 10.0)
"""The lowest and the highest."""
PAUSE_SECONDS = 0.4
"""Seconds after its last token at which an utterance ends by default.

WER of a model of 1.8M parameters (transducer) on 96 clips of 13 reciters without endpoints, and with
endpoints after 0.3, 0.4 and 0.6 s: joined in pairs 0.616, 0.599, 0.599, 0.605; all of a reciter joined 0.658,
0.639, 0.639, 0.641; alone 0.595, 0.599, 0.599, 0.599. CTC changes by at most 0.002.
"""
LONGEST_PAUSE = 3600
"""Seconds; no pause within an utterance is that long. For no endpoints at all, use None."""


def check_temperature(temperature: float) -> None:
    """Refuse a temperature that no search takes.

    Raises:
        QuranAsrError: out of range.
    """
    lowest, highest = TEMPERATURES
    if not lowest <= temperature <= highest:
        raise QuranAsrError(
            f"temperature is {temperature}",
            remedy=f"give a number from {lowest:g} to {highest:g}; 1 changes nothing",
        )


@dataclass(frozen=True, slots=True)
class Decoding:
    """A decoder and its settings.

    Raises:
        QuranAsrError: an unknown decoder or a setting out of its range, with what there is.
    """

    decoder: str = DEFAULT_DECODER
    """A key of DECODERS."""
    max_symbols: int | None = None
    """Most tokens that the transducer may emit per frame; None takes the model's (`greedy.max_symbols`)."""
    beam: int = BEAM
    """Beam width: texts that are kept after every frame."""
    least_probability: float | None = None
    """A beam search drops texts less probable than this share of the best, that over CTC also tokens less
    probable than this in a frame; 0 drops none; None takes 1e-3 for CTC and 3e-2 for the transducer."""
    temperature: float | None = None
    """Of `transducer-beam`: above 1 the joint network's distributions are softer, so that more texts stay in
    the beam, below 1 sharper; None takes the model's (2 unless it was exported with another)."""
    fusion: Fusion | None = None
    """Language model, its weight and the token bonus, for a beam search."""
    pause_seconds: float | None = PAUSE_SECONDS
    """Seconds after its last token at which an utterance ends, at most LONGEST_PAUSE; None: only with the
    audio."""

    def __post_init__(self) -> None:
        if self.decoder not in DECODERS:
            raise QuranAsrError(f"no decoder `{self.decoder}`", remedy=f"there are {', '.join(DECODERS)}")
        for name, value in (("max_symbols", self.max_symbols), ("beam", self.beam)):
            if value is not None and value < 1:
                raise QuranAsrError(f"{name} is {value}", remedy="give a whole number of at least 1")
        if self.fusion is not None and self.decoder not in BEAMS.values():
            raise QuranAsrError(
                f"the decoder {self.decoder} takes no language model",
                remedy=f"use {BEAMS[self.decoder]}",
            )
        if self.least_probability is not None and not 0 <= self.least_probability < 1:
            raise QuranAsrError(
                f"least_probability is {self.least_probability}", remedy="give a number from 0 to below 1"
            )
        if self.temperature is not None:
            check_temperature(self.temperature)
        pause = self.pause_seconds
        if pause is None:
            return
        number = isinstance(pause, int | float) and not isinstance(pause, bool)  # a caller may pass anything
        if not number or not 0 < pause <= LONGEST_PAUSE:
            raise QuranAsrError(
                f"pause_seconds is {pause!r}",
                remedy=f"give seconds above 0 and at most {LONGEST_PAUSE:,}, or none for no end",
            )
