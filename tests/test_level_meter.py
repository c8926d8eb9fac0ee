"""Silent, very quiet, clipped and cancelling recordings are noted; ordinary ones are not."""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from quran_asr import audio
from quran_asr.corpus.effects import at_level, overdriven
from quran_asr.level_meter import LevelMeter


def voice(seconds: float = 4.0) -> NDArray[np.float32]:
    """A buzz with overtones whose level moves like speech."""
    times = np.arange(round(seconds * 16_000)) / 16_000
    buzz = sum(np.sin(2 * np.pi * 140 * k * times + k * k) / k for k in range(1, 28))
    moving = 0.55 + 0.45 * np.sin(2 * np.pi * 1.7 * times) * np.sin(2 * np.pi * 0.4 * times + 1)
    return (0.1 * buzz * moving).astype(np.float32)


def codes(channels: NDArray[np.float32], block: int = 16_000) -> list[str]:
    meter = LevelMeter()
    for begin in range(0, len(channels), block):
        meter.add(channels[begin : begin + block])
    return [note.code for note in meter.notes("recording")]


def stereo(left: NDArray[np.float32], right: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.stack([left, right], axis=1)


@pytest.mark.parametrize("block", [997, 16_000, 1 << 20])
def test_each_fault_is_noted_by_its_name_however_the_recording_is_cut(block: int) -> None:
    sound = voice()
    one = sound[:, None]
    assert codes(one, block) == []
    assert codes(at_level(sound, -40)[:, None], block) == []
    assert codes(np.zeros((8000, 1), np.float32), block) == ["silent"]
    assert codes(one * np.float32(1e-5), block) == ["silent"]
    assert codes(at_level(sound, -62)[:, None], block) == ["very-quiet"]
    assert codes(overdriven(sound, 12.0)[:, None], block) == ["clipped"]
    assert codes(stereo(sound, -sound), block) == ["cancelling-channels"]
    assert codes(stereo(sound, np.zeros_like(sound)), block) == ["empty-channel"]
    assert codes(stereo(sound, sound), block) == []
    assert LevelMeter().notes("nothing")[0].code == "silent"


@pytest.mark.slow
@pytest.mark.data
def test_nothing_is_noted_of_ordinary_recitations(recordings: Path) -> None:
    for folder in sorted((recordings / "recitations").iterdir()):
        for clip in sorted(folder.glob("*.opus"))[::60] if folder.is_dir() else ():
            meter = LevelMeter()
            audio.read(clip, on_stored=meter.add)
            assert meter.notes(str(clip)) == []


def test_numbers_that_are_no_samples_are_left_to_the_error_and_overflowing_ones_are_noted() -> None:
    broken = voice()
    broken[7] = np.nan
    assert codes(broken[:, None]) == []
    assert codes(100 * voice()[:, None]) == ["over-full-scale"]


def test_the_one_peak_of_a_very_short_recording_is_not_clipping() -> None:
    assert "clipped" not in codes(0.3 * voice(0.006)[:, None])
    assert codes(np.clip(20 * voice(1.0), -1, 1)[:, None]) == ["clipped"]


def test_the_command_in_a_hint_is_one_that_a_shell_takes_as_it_is() -> None:
    meter = LevelMeter()
    meter.add(stereo(voice(), -voice()))
    (note,) = meter.notes("recording")
    words = list(shlex.shlex(note.remedy.partition(": ")[2], posix=True, punctuation_chars=True))
    assert "|" not in words, "a pipe, for a shell"
    assert "pan=mono|c0=c0" in words
