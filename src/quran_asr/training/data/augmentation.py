"""Audio augmentation: speed, rooms, noise, equalizer, lossy codecs.

They come in the order in which sound meets them: speed, silence around the clip, room, noise, bandwidth and
tone, codec, level, an overdriven microphone.
SpecAugment's masks are NeMo's and stand in the recipe under `model.spec_augment`.
"""

from __future__ import annotations

import io
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import soundfile

from quran_asr import audio
from quran_asr.config.schema import Augment
from quran_asr.records import SAMPLE_RATE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from quran_asr.records import Samples

    FloatArray = NDArray[np.floating[Any]]


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
    decoded, _ = soundfile.read(file, dtype="float32")
    if codec.rate != SAMPLE_RATE:
        decoded = audio.resample(decoded, codec.rate)
    whole = np.zeros(len(samples), np.float32)
    decoded = decoded[codec.delay : codec.delay + len(samples)]
    whole[: len(decoded)] = decoded * peak
    return whole


ROOMS = 64
_REFLECTIONS = 40
"""Most walls in a row. In 64 rooms of 0.2 to 0.8 s the sound then decays (20 dB, times three) in 1.07 times
what was asked in the median, half of them within 0.97 to 1.19; with 14 walls in 0.81 times."""
_WALL_METRES = 0.4
"""Nobody recites, and no microphone stands, nearer to a wall."""


def impulse_responses(seconds: tuple[float, float], seed: int, count: int = ROOMS) -> tuple[Samples, ...]:
    """Impulse responses of rooms of many sizes, with the reciter half a metre to three metres away.

    Args:
        seconds: the reverberation time (until 60 dB less are left) is drawn between these.
        seed: the same seed makes the same rooms.
        count: rooms.

    Returns:
        Each float32 [samples], beginning when the direct sound arrives, with the energy 1.
    """
    import pyroomacoustics  # seconds to import, and most trainings need none
    from pyroomacoustics import constants

    drawn = random.Random(f"rooms {seed}")
    responses: list[Samples] = []
    while len(responses) < count:
        size = [drawn.uniform(3, 12), drawn.uniform(3, 9), drawn.uniform(2.4, 4.5)]
        try:
            absorption, order = pyroomacoustics.inverse_sabine(drawn.uniform(*seconds), size)
        except ValueError:  # no wall absorbs enough for so short an echo in so large a room
            continue
        reciter, microphone = (
            [drawn.uniform(_WALL_METRES, side - _WALL_METRES) for side in size] for _ in "rm"
        )
        metres = float(np.linalg.norm(np.subtract(reciter, microphone)))
        if not 0.5 <= metres <= 3:
            continue
        room = pyroomacoustics.ShoeBox(
            size,
            fs=SAMPLE_RATE,
            materials=pyroomacoustics.Material(absorption),
            max_order=min(order, _REFLECTIONS),
        )
        room.add_source(reciter)
        room.add_microphone(microphone)
        room.compute_rir()
        response = np.asarray(room.rir[0][0], np.float32)
        arrival = metres / constants.get("c") * SAMPLE_RATE + constants.get("frac_delay_length") // 2
        response = response[round(arrival) :]
        responses.append(response / np.float32(np.sqrt(np.square(response).sum())))
    return tuple(responses)


def in_room(samples: Samples, response: Samples) -> Samples:
    """A clip as it sounds in a room, float32 and as long as it was: the echo of its end is not waited for."""
    from scipy.signal import oaconvolve

    echoing: Samples = oaconvolve(samples, response)[: len(samples)].astype(np.float32)
    return echoing


_OVERDRIVE_DB = (6.0, 18.0)
"""By how much an overdriven microphone cuts the peaks of a clip."""
_BANDS_HZ = SAMPLE_RATE / 2 / 2.0 ** np.arange(7, -1, -1)
"""An octave apart, 62.5 Hz to 8 kHz: where the tone is bent."""


def without_changes(settings: Augment) -> Augment:
    """Settings that only bring every clip to the middle of the levels."""
    level = settings.level_db
    return replace(
        settings,
        speed=(1.0,),
        gain_db=0.0,
        level_db=None if level is None else ((level[0] + level[1]) / 2,) * 2,
        equalizer_db=0.0,
        lowpass_probability=0.0,
        noise_probability=0.0,
        room_probability=0.0,
        codec_probability=0.0,
        clip_probability=0.0,
        silence_probability=0.0,
        tight_probability=0.0,
    )


@dataclass(frozen=True, slots=True)
class Timing:
    """How a clip's length is changed."""

    speed: float
    before: float
    """Seconds of silence before the clip."""
    after: float

    def seconds(self, length: float) -> float:
        """Of a clip that is so many seconds long."""
        return length / self.speed + self.before + self.after


def draw_timing(settings: Augment, drawn: random.Random) -> Timing:
    """The first draws of a clip's changes, so that batches can be planned by the lengths that follow.

    Short silences are more frequent than long ones: the length grows with the square of an even draw.
    """
    speed = drawn.choice(settings.speed)
    shortest, longest = settings.silence_seconds
    before, after = (
        shortest + (longest - shortest) * drawn.random() ** 2
        if settings.silence_probability > drawn.random()
        else 0.0
        for _ in range(2)
    )
    return Timing(speed, before, after)


def augment(
    samples: Samples, settings: Augment, drawn: random.Random, rooms: Sequence[Samples] = ()
) -> Samples:
    """A changed copy of a clip. Whoever gives the generator decides what is drawn.

    Args:
        samples: float32 [samples].
        settings: what is drawn, and how often.
        drawn: the generator.
        rooms: impulse responses to choose from, of `train.rooms.impulse_responses`.

    Returns:
        float32 [samples], of the same length but for the speed and the silence.
    """
    timing = draw_timing(settings, drawn)
    if timing.speed != 1.0:
        samples = audio.resample(samples, round(SAMPLE_RATE * timing.speed))
    if settings.tight_probability > drawn.random():
        samples = without_silence(samples)
    if timing.before or timing.after:
        samples = with_silence(samples, timing.before, timing.after, drawn)
    if rooms and settings.room_probability > drawn.random():
        samples = in_room(samples, drawn.choice(rooms))
    if settings.noise_probability > drawn.random():
        samples = with_noise(samples, drawn.uniform(*settings.noise_snr_db), drawn)
    if settings.lowpass_probability > drawn.random():
        samples = low_pass(samples, drawn.uniform(*settings.lowpass_hz))
    if settings.equalizer_db:
        bent = [drawn.uniform(-settings.equalizer_db, settings.equalizer_db) for _ in _BANDS_HZ]
        samples = equalize(samples, bent)
    if settings.codec_probability > drawn.random():
        samples = through(drawn.choice(CODECS), samples)
    if settings.gain_db:
        samples = samples * np.float32(10 ** (drawn.uniform(-settings.gain_db, settings.gain_db) / 20))
    if settings.level_db is not None:
        samples = at_level(samples, drawn.uniform(*settings.level_db))
    if settings.clip_probability > drawn.random():
        samples = overdriven(samples, drawn.uniform(*_OVERDRIVE_DB))
    return samples


def without_silence(samples: Samples) -> Samples:
    """A clip from 20 ms before it first reaches 2 % of its peak to 20 ms after it last does."""
    loudness = np.abs(samples)
    voiced = np.flatnonzero(loudness >= 0.02 * loudness.max(initial=0.0))
    if not len(voiced):
        return samples
    margin = SAMPLE_RATE // 50
    return samples[max(0, voiced[0] - margin) : voiced[-1] + margin]


def with_silence(samples: Samples, before: float, after: float, drawn: random.Random) -> Samples:
    """A clip with seconds of silence before and behind it.

    Half of the silences are digital zeros, the others steady noise 30 to 70 dB below the clip: room tone.
    """
    parts = []
    for seconds in (before, after):
        length = round(seconds * SAMPLE_RATE)
        silence = np.zeros(length, np.float32)
        if length and drawn.random() < 0.5:
            level = np.sqrt(_power(samples)) * 10 ** (-drawn.uniform(30, 70) / 20)
            silence = coloured_noise(length, drawn) * np.float32(level)
        parts.append(silence)
    return np.concatenate([parts[0], samples, parts[1]])


def at_level(samples: Samples, level_db: float) -> Samples:
    """A clip brought to a level, RMS in dB below full scale; peaks may pass 1."""
    power = _power(samples)
    if power <= 0:
        return samples
    return samples * np.float32(10 ** (level_db / 20) / np.sqrt(power))


def overdriven(samples: Samples, decibels: float) -> Samples:
    """A clip of which the peaks are cut off so many dB below the highest; as loud at the peak as before."""
    peak = float(np.abs(samples).max(initial=0.0))
    if peak <= 0:
        return samples
    most = peak * 10 ** (-decibels / 20)
    clipped: Samples = np.clip(samples, -most, most) * np.float32(peak / most)
    return clipped


def low_pass(samples: Samples, cutoff_hz: float) -> Samples:
    """What a recording of that bandwidth keeps: the spectrum falls to nothing within 300 Hz.

    Published recitations end anywhere between 3.5 and 8 kHz; a model that has heard one bandwidth only
    learns the channel with the voice.
    """
    if cutoff_hz >= SAMPLE_RATE / 2:
        return samples
    return _filtered(samples, lambda hertz: np.clip((cutoff_hz + 150 - hertz) / 300, 0, 1))


def equalize(samples: Samples, decibels: Sequence[float]) -> Samples:
    """Another tone: the gains of eight octaves (62.5 Hz to 8 kHz), with straight lines between in dB."""

    def gain_at(hertz: FloatArray) -> FloatArray:
        octaves = np.log2(np.maximum(hertz, _BANDS_HZ[0]))
        gains: FloatArray = np.interp(octaves, np.log2(_BANDS_HZ), decibels)
        return np.float64(10) ** (gains / 20)

    return _filtered(samples, gain_at)


def with_noise(samples: Samples, snr_db: float, drawn: random.Random) -> Samples:
    """Steady noise beneath a clip: its power falls by 0 (white) to 6 dB (brown) an octave.

    Args:
        samples: float32 [samples].
        snr_db: power of the clip over that of the noise.
        drawn: draws colour and noise.
    """
    level = np.sqrt(_power(samples)) * 10 ** (-snr_db / 20)
    return samples + coloured_noise(len(samples), drawn) * np.float32(level)


def coloured_noise(length: int, drawn: random.Random) -> Samples:
    """Steady noise of power 1 that falls by 0 (white) to 6 dB (brown) an octave; float32 [length]."""
    white = np.random.default_rng(drawn.getrandbits(64)).standard_normal(length, dtype=np.float32)
    slope = drawn.uniform(0.0, 1.0)
    noise = _filtered(white, lambda hertz: np.maximum(hertz, 20.0) ** -slope)
    return noise / np.float32(np.sqrt(max(_power(noise), 1e-20)))


def _power(samples: Samples) -> float:
    return float(np.mean(np.square(samples, dtype=np.float64))) if len(samples) else 0.0


def _filtered(samples: Samples, gain_at: Callable[[FloatArray], FloatArray]) -> Samples:
    """A filter without delay, as its gain at each frequency in hertz."""
    from scipy import fft

    if not len(samples):
        return samples
    size = fft.next_fast_len(
        len(samples), real=True
    )  # lengths with large prime factors take four times as long
    gains = gain_at(np.fft.rfftfreq(size, 1 / SAMPLE_RATE)).astype(np.float32)
    filtered: Samples = fft.irfft(fft.rfft(samples, size) * gains, size)[: len(samples)]
    return filtered
