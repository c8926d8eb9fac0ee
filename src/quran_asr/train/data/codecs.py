"""What lossy codecs do to sound: a clip is encoded and decoded in memory, by libsndfile."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import soundfile

from quran_asr import audio
from quran_asr.records import SAMPLE_RATE

if TYPE_CHECKING:
    from quran_asr.records import Samples


@dataclass(frozen=True, slots=True)
class Codec:
    """A way to store sound, in libsndfile's names."""

    format: str
    subtype: str
    rate: int
    """Hertz at which it is stored."""
    compression: float | None = None
    """0 to 1, where the codec can be asked; 1 is smallest."""
    delay: int = 0
    """Samples that come before the sound when it is decoded."""


CODECS = (
    Codec("MP3", "MPEG_LAYER_III", SAMPLE_RATE, 0.9, 1105),  # constant, 24 kbit/s
    Codec("OGG", "VORBIS", SAMPLE_RATE, 1.0),
    Codec("WAV", "GSM610", 8000),  # mobile telephony, 13 kbit/s
)
"""Opus is not among them: its encoder takes four to twelve times as long as these."""


def through(codec: Codec, samples: Samples) -> Samples:
    """What is left of a clip.

    Args:
        codec: one of `CODECS`.
        samples: float32 [samples]. What comes near full scale is made softer for the codec, and loud again.

    Returns:
        float32, as long as the clip and in time with it; nothing and what is no number come back as they are.
    """
    if not len(samples) or not np.isfinite(samples).all():  # LAME would end the process
        return samples
    stored = samples
    if codec.rate != SAMPLE_RATE:
        stored = audio.resample(samples, SAMPLE_RATE, codec.rate)
    # After resampling, which overshoots: beyond full scale 16 bits wrap around.
    peak = np.float32(max(1.0, 1.05 * float(np.abs(stored).max(initial=0.0))))
    stored = stored / peak
    file = io.BytesIO()
    soundfile.write(
        file,
        stored,
        codec.rate,
        codec.subtype,
        format=codec.format,
        compression_level=codec.compression,
        bitrate_mode="CONSTANT" if codec.format == "MP3" else None,
    )
    file.seek(0)
    heard, _ = soundfile.read(file, dtype="float32")
    if codec.rate != SAMPLE_RATE:
        heard = audio.resample(heard, codec.rate)
    whole = np.zeros(len(samples), np.float32)
    heard = heard[codec.delay : codec.delay + len(samples)]
    whole[: len(heard)] = heard * peak
    return whole
