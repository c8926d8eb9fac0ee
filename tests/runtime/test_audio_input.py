"""A microphone behind PortAudio's interface, played by a backend that calls back from a thread as it does."""

from __future__ import annotations

import itertools
import sys
import threading
from types import SimpleNamespace

import numpy as np
import pytest

from quran_asr import audio
from quran_asr.errors import QuranAsrError
from quran_asr.runtime.audio_input import input_devices, load_backend, microphone

DEVICES = [
    {"index": 0, "name": "Loudspeaker", "max_input_channels": 0, "default_samplerate": 48_000.0},
    {"index": 1, "name": "Built-in Microphone", "max_input_channels": 1, "default_samplerate": 44_100.0},
    {"index": 2, "name": "USB Microphone", "max_input_channels": 2, "default_samplerate": 48_000.0},
]


class PortAudioError(Exception):
    pass


class Backend:
    """Plays `sound` [frames, channels] through the callback, as fast as it can, and then falls silent."""

    PortAudioError = PortAudioError

    def __init__(self, sound, takes=((16_000, 1),), devices=DEVICES, overflows=(), ends=False, opens=True):
        self.sound, self.takes, self.devices = sound, takes, devices
        self.overflows, self.ends, self.opens = overflows, ends, opens
        self.opened: list[dict[str, object]] = []
        self.closed = threading.Event()

    def query_devices(self, device=None, kind=None):
        if kind is None:
            return self.devices
        inputs = [one for one in self.devices if one["max_input_channels"]]
        if device is None:
            if not inputs:
                raise PortAudioError("Error querying device -1")
            return inputs[0]
        found = [one for one in inputs if device in (one["index"], one["name"]) or str(device) in one["name"]]
        if len(found) != 1:
            raise ValueError(f"Multiple or no input devices found for {device!r}")
        return found[0]

    def check_input_settings(self, *, device, channels, dtype, samplerate):
        if (samplerate, channels) not in self.takes:
            raise PortAudioError("Invalid sample rate")

    def InputStream(self, *, callback, finished_callback, blocksize, **settings):  # noqa: N802
        if not self.opens:
            raise PortAudioError("Error opening InputStream:\n  Device unavailable [PaErrorCode -9985]")
        self.opened.append({"blocksize": blocksize, **settings})
        return _Stream(self, callback, finished_callback, blocksize)


class _Stream:
    def __init__(self, backend, callback, finished, blocksize):
        self.backend, self.callback, self.finished, self.blocksize = backend, callback, finished, blocksize
        self.thread = threading.Thread(target=self.play)

    def play(self):
        memory = np.empty((self.blocksize, self.backend.sound.shape[1]), np.float32)
        for number, start in enumerate(range(0, len(self.backend.sound), self.blocksize)):
            block = memory[: len(self.backend.sound) - start]
            block[:] = self.backend.sound[start : start + self.blocksize]
            status = SimpleNamespace(input_overflow=number in self.backend.overflows)
            self.callback(block, len(block), None, status)
            memory[:] = np.nan  # as PortAudio, which uses its memory again
        if self.backend.ends:
            self.finished()

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *raised):
        self.thread.join()
        self.backend.closed.set()


def noise(frames: int, channels: int = 1) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((frames, channels)).astype(np.float32) * 0.1


def test_audio_arrives_in_blocks_of_80_ms():
    sound = noise(16_000)
    backend = Backend(sound)
    blocks = list(itertools.islice(microphone(backend=backend), 12))
    assert {len(piece) for piece in blocks} == {1_280}
    np.testing.assert_array_equal(np.concatenate(blocks), sound[: 12 * 1_280, 0])
    assert backend.opened == [
        {"device": 1, "samplerate": 16_000, "channels": 1, "dtype": "float32", "blocksize": 1_280}
    ]


def test_a_device_of_another_rate_with_two_channels_is_converted():
    sound = noise(48_000, 2)
    backend = Backend(sound, takes=((48_000, 2),))
    samples = np.concatenate(list(itertools.islice(microphone("USB", backend=backend), 12)))
    assert backend.opened[0]["device"] == 2
    assert len(samples) > 14_000
    whole = audio.resample(audio.mono(sound), 48_000)
    np.testing.assert_allclose(samples, whole[: len(samples)], atol=1e-6)


def test_the_microphone_is_closed_with_the_iterator():
    backend = Backend(noise(16_000))
    listening = microphone(backend=backend)
    next(listening)
    assert not backend.closed.is_set()
    listening.close()
    assert backend.closed.is_set()


def test_lost_audio_is_reported_once_in_a_while():
    messages: list[str] = []
    backend = Backend(noise(16_000 * 8), overflows={2, 3, 4, 80})
    list(itertools.islice(microphone(backend=backend, tell=messages.append), 100))
    backend.closed.wait(5)
    assert messages
    assert all("audio was lost" in line and "Built-in Microphone" in line for line in messages)
    assert len(messages) <= 2


def test_audio_that_nobody_takes_is_dropped_and_reported():
    messages: list[str] = []
    backend = Backend(noise(16_000 * 90))
    listening = microphone(backend=backend, tell=messages.append, stall_seconds=0.2)
    next(listening)
    with pytest.raises(QuranAsrError, match="no audio has come"):
        for _ in listening:
            threading.Event().wait(1e-5)
    assert backend.closed.is_set()
    assert any("does not keep up" in line for line in messages)


def test_a_muted_microphone_is_reported_once():
    messages: list[str] = []
    backend = Backend(np.zeros((16_000 * 8, 1), np.float32))
    list(itertools.islice(microphone(backend=backend, tell=messages.append), 100))
    assert messages == ["Built-in Microphone: gives only zeros: is it muted, or forbidden to this program?"]


def test_a_stall_is_an_error():
    backend = Backend(noise(3_000))
    with pytest.raises(QuranAsrError, match=r"no audio has come for 0\.3 s") as stalled:
        list(microphone(backend=backend, stall_seconds=0.3))
    assert stalled.value.where == "Built-in Microphone"
    assert backend.closed.is_set()


def test_a_microphone_that_is_unplugged_is_an_error():
    with pytest.raises(QuranAsrError, match="unplugged"):
        list(microphone(backend=Backend(noise(3_000), ends=True)))


@pytest.mark.parametrize(
    ("device", "devices", "message", "hint"),
    [
        (
            "Bluetooth",
            DEVICES,
            "`Bluetooth` is not one microphone",
            "1 Built-in Microphone; 2 USB",
        ),
        ("Microphone", DEVICES, "`Microphone` is not one microphone", "1 Built-in"),
        (7, DEVICES, "`7` is not one microphone", "1 Built-in"),
        (None, DEVICES[:1], "this computer has no microphone", ""),
        ("USB", [], "this computer has no microphone", ""),
    ],
)
def test_a_microphone_that_is_not_there(device, devices, message, hint):
    with pytest.raises(QuranAsrError) as missing:
        next(microphone(device, backend=Backend(noise(100), devices=devices)))
    assert message in missing.value.what
    assert hint in missing.value.remedy


def test_a_microphone_that_cannot_be_opened_says_why_in_one_line():
    with pytest.raises(QuranAsrError) as refused:
        next(microphone(backend=Backend(noise(100), opens=False)))
    assert "Device unavailable" in refused.value.what
    assert "\n" not in refused.value.what


def test_devices_are_listed_without_loudspeakers():
    assert [(one.index, one.channels, one.rate) for one in input_devices(Backend(noise(1)))] == [
        (1, 1, 44_100),
        (2, 2, 48_000),
    ]


def test_without_the_package_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    with pytest.raises(QuranAsrError) as missing:
        load_backend()
    assert missing.value.remedy == "pip install 'quran-asr[mic]'"


def test_without_portaudio_it_says_what_to_install(monkeypatch, tmp_path):
    """As `sounddevice` behaves on a Linux without the library."""
    (tmp_path / "sounddevice.py").write_text("raise OSError('PortAudio library not found')\n")
    monkeypatch.delitem(sys.modules, "sounddevice", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(QuranAsrError, match="PortAudio") as missing:
        load_backend()
    assert "libportaudio2" in missing.value.remedy
