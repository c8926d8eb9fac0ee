"""Rooms in which a clip may sound: impulse responses by the image-source method of pyroomacoustics."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import numpy as np

from quran_asr.records import SAMPLE_RATE

if TYPE_CHECKING:
    from quran_asr.records import Samples

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
