"""Audio augmentation: speed, tempo, voice, rooms, noise, equalizer, lossy codecs.

They are applied in the order in which they happen to a recitation: speed, tempo, voice, silence around the
clip, room, noise, bandwidth and tone, codec, level, an overdriven microphone. A new one is a key of
`config.schema.Augment` and a line in `augment`; what changes the length of a clip belongs in `draw_timing`.
SpecAugment's masks are NeMo's; their settings are in the recipe under `model.spec_augment`.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from quran_asr import audio
from quran_asr.config.schema import Augment
from quran_asr.corpus.effects import (
    BANDS_HZ,
    at_level,
    at_tempo,
    equalize,
    in_room,
    low_pass,
    overdriven,
    with_noise,
    with_silence,
    without_silence,
)
from quran_asr.records import SAMPLE_RATE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from quran_asr.records import Samples

    FloatArray = NDArray[np.floating[Any]]


ROOMS = 64
_REFLECTIONS = 40
"""Most walls in a row. In 64 rooms of 0.2 to 0.8 s the echo then decays (20 dB, times three) in 1.07 times
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
            [drawn.uniform(_WALL_METRES, length - _WALL_METRES) for length in size] for _ in "rm"
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


_OVERDRIVE_DB = (6.0, 18.0)
"""By how much an overdriven microphone cuts the peaks of a clip."""


def without_changes(settings: Augment) -> Augment:
    """Settings that only bring every clip to the middle of the levels."""
    if settings.level_db is None:
        return Augment(windows=settings.windows)
    middle = sum(settings.level_db) / 2
    return Augment(level_db=(middle, middle), windows=settings.windows)


@dataclass(frozen=True, slots=True)
class Timing:
    """How a clip's length is changed."""

    speed: float
    tempo: float
    voice: float
    """How much higher the voice is, at the same tempo."""
    before: float
    """Seconds of silence before the clip."""
    after: float

    def seconds(self, length: float) -> float:
        """Of a clip that is so many seconds long."""
        return length / self.speed / self.tempo + self.before + self.after


def draw_timing(settings: Augment, drawn: random.Random) -> Timing:
    """The first draws of a clip's changes, so that batches can be planned by the lengths that follow.

    Short silences are more frequent than long ones: the length grows with the square of an even draw.
    """
    speed, tempo = drawn.choice(settings.speed), drawn.choice(settings.tempo)
    # No draw for one voice: recipes without this key keep the draws that they had before there was one.
    voice = drawn.choice(settings.voice) if len(settings.voice) > 1 else settings.voice[0]
    shortest, longest = settings.silence_seconds
    before, after = (
        shortest + (longest - shortest) * drawn.random() ** 2
        if settings.silence_probability > drawn.random()
        else 0.0
        for _ in range(2)
    )
    return Timing(speed, tempo, voice, before, after)


def augment(
    samples: Samples, settings: Augment, drawn: random.Random, rooms: Sequence[Samples] = ()
) -> Samples:
    """A changed copy of a clip. Whoever gives the generator decides what is drawn.

    Args:
        samples: float32 [samples].
        settings: what is drawn, and how often.
        drawn: the generator.
        rooms: impulse responses to choose from (`impulse_responses`).

    Returns:
        float32 [samples], of the same length but for the speed, the tempo and the silence.
    """
    timing = draw_timing(settings, drawn)
    if (higher := timing.speed * timing.voice) != 1.0:
        samples = audio.resample(samples, round(SAMPLE_RATE * higher))
    samples = at_tempo(samples, timing.tempo / timing.voice)
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
        bent = [drawn.uniform(-settings.equalizer_db, settings.equalizer_db) for _ in BANDS_HZ]
        samples = equalize(samples, bent)
    if settings.codec_probability > drawn.random():
        samples = audio.through(drawn.choice(audio.CODECS), samples)
    if settings.gain_db:
        samples = samples * np.float32(10 ** (drawn.uniform(-settings.gain_db, settings.gain_db) / 20))
    if settings.level_db is not None:
        samples = at_level(samples, drawn.uniform(*settings.level_db))
    if settings.clip_probability > drawn.random():
        samples = overdriven(samples, drawn.uniform(*_OVERDRIVE_DB))
    return samples
