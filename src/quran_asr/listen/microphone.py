"""A microphone as an iterator of samples, through PortAudio (package `sounddevice`, extra `mic`).

PortAudio's thread puts blocks of 80 ms, one encoder frame, into a queue; the iterator takes them out. What
would pass unheard is told: sound that was lost, a microphone that gives nothing, one that is muted.
"""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from quran_asr.findings import QuranAsrError
from quran_asr.listen.resampling import Resampler
from quran_asr.records import SAMPLE_RATE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from quran_asr.records import Samples

BLOCK_SECONDS = 0.08

_QUEUE_BLOCKS = 750
"""A minute: a recognizer that lags further behind will not catch up, and memory must end somewhere."""

_QUIET_SECONDS = 3.0
"""Even a silent room gives noise; only a muted or forbidden microphone gives zeros for so long."""

_TELL_EVERY_SECONDS = 5.0


class Backend(Protocol):
    """What is used of the module `sounddevice`."""

    InputStream: Callable[..., Any]
    PortAudioError: type[Exception]

    def query_devices(self, device: int | str | None = None, kind: str | None = None) -> Any: ...
    def check_input_settings(self, *, device: int, channels: int, dtype: str, samplerate: float) -> None: ...


@dataclass(frozen=True, slots=True)
class InputDevice:
    """A microphone or line that can be listened to."""

    index: int
    name: str
    channels: int
    rate: int
    """Hertz, its own."""


def load_backend() -> Backend:
    """The module `sounddevice`.

    Raises:
        QuranAsrError: the package or the PortAudio library is missing; it says what to install.
    """
    try:
        import sounddevice
    except ImportError:
        raise QuranAsrError(
            "listening to a microphone needs sounddevice, which the core install leaves out",
            remedy="pip install 'quran-asr[mic]'",
        ) from None
    except OSError:  # the package is there; on Linux it brings no library
        raise QuranAsrError(
            "the PortAudio library is not installed",
            remedy="sudo apt install libportaudio2, or the portaudio package of this system",
        ) from None
    backend: Backend = sounddevice
    return backend


def input_devices(backend: Backend | None = None) -> tuple[InputDevice, ...]:
    """All that can be listened to, perhaps nothing.

    Raises:
        QuranAsrError: as `load_backend`.
    """
    devices = (backend or load_backend()).query_devices()
    return tuple(_input_device(device) for device in devices if device["max_input_channels"] > 0)


def microphone(
    device: int | str | None = None,
    *,
    stall_seconds: float = 5.0,
    tell: Callable[[str], None] = lambda message: None,
    backend: Backend | None = None,
) -> Iterator[Samples]:
    """Listen until the caller stops iterating; closing the iterator closes the microphone.

    Args:
        device: number or part of the name, as `input_devices` lists them; None is the system's default.
        stall_seconds: no sound for so long is an error.
        tell: called with one line when sound was lost (at most every five seconds), or when there is nothing
            but zeros.
        backend: another module like `sounddevice`.

    Yields:
        float32 [samples], mono at 16 kHz, about 80 ms at a time.

    Raises:
        QuranAsrError: as `load_backend`; no such device; one that cannot be opened; one that falls silent for
            `stall_seconds` or is unplugged.
    """
    backend = backend or load_backend()
    chosen = _chosen(backend, device)
    rate, channels = _mode(backend, chosen)
    arrivals = _Arrivals()
    try:
        stream = backend.InputStream(
            device=chosen.index,
            samplerate=rate,
            channels=channels,
            dtype="float32",
            blocksize=round(BLOCK_SECONDS * rate),
            callback=arrivals.take,
            finished_callback=arrivals.end,
        )
        with stream:
            yield from _heard(arrivals, Resampler(rate, where=chosen.name), stall_seconds, tell)
    except backend.PortAudioError as error:
        raise QuranAsrError(
            f"cannot be listened to ({_one_line(error)})",
            where=chosen.name,
            remedy="close other programs that use it, or choose another microphone",
        ) from None


class _Arrivals:
    """What PortAudio's thread leaves for ours."""

    def __init__(self) -> None:
        self.blocks: queue.Queue[NDArray[np.float32]] = queue.Queue(_QUEUE_BLOCKS)
        self.lost = 0
        """Times that sound was lost. Only PortAudio's thread writes it."""
        self.ended = False

    def take(self, block: NDArray[np.float32], frames: int, when: object, status: Any) -> None:
        if status.input_overflow:
            self.lost += 1
        try:
            self.blocks.put_nowait(block.copy())  # PortAudio uses its memory again
        except queue.Full:
            self.lost += 1

    def end(self) -> None:
        self.ended = True


def _heard(
    arrivals: _Arrivals, resampler: Resampler, stall_seconds: float, tell: Callable[[str], None]
) -> Iterator[Samples]:
    told_lost, tell_again_at, only_zeros = 0, 0.0, True
    while True:
        block = _next_block(arrivals, stall_seconds, resampler.where)
        piece = resampler.push(block)
        seconds = resampler.heard / resampler.rate
        if arrivals.lost > told_lost and seconds >= tell_again_at:
            tell(
                f"{resampler.where}: at {seconds:.1f} s sound was lost {_times(arrivals.lost - told_lost)}: "
                "this computer does not keep up"
            )
            told_lost, tell_again_at = arrivals.lost, seconds + _TELL_EVERY_SECONDS
        if only_zeros:
            only_zeros = not block.any()
            if only_zeros and seconds >= _QUIET_SECONDS:
                tell(f"{resampler.where}: gives only zeros: is it muted, or forbidden to this program?")
                only_zeros = False
        if len(piece):
            yield piece


def _next_block(arrivals: _Arrivals, stall_seconds: float, name: str) -> NDArray[np.float32]:
    """The next block; short waits, so that one who presses Ctrl-C is answered on every system."""
    waits = max(1, round(stall_seconds / 0.1))
    for _ in range(waits):
        try:
            return arrivals.blocks.get(timeout=min(0.1, stall_seconds))
        except queue.Empty:
            if arrivals.ended:
                raise QuranAsrError("the microphone has gone (unplugged?)", where=name) from None
    raise QuranAsrError(
        f"no sound has come for {stall_seconds:g} s",
        where=name,
        remedy="plug it in again, or choose another microphone",
    )


def _chosen(backend: Backend, device: int | str | None) -> InputDevice:
    try:
        return _input_device(backend.query_devices(device, "input"))
    except (ValueError, backend.PortAudioError):
        names = "; ".join(f"{one.index} {one.name}" for one in input_devices(backend))
    if not names:
        raise QuranAsrError("this computer has no microphone that can be listened to")
    if device is None:
        raise QuranAsrError("the system has no default microphone", remedy=f"choose one of: {names}")
    raise QuranAsrError(f"`{device}` is not one microphone", remedy=f"choose one of: {names}")


def _mode(backend: Backend, device: InputDevice) -> tuple[int, int]:
    """Rate and channels in which the device can be opened: 16 kHz mono where the system converts."""
    for rate in (SAMPLE_RATE, device.rate):
        for channels in (1, min(2, device.channels)):
            try:
                backend.check_input_settings(
                    device=device.index, channels=channels, dtype="float32", samplerate=rate
                )
            except backend.PortAudioError:
                continue
            return rate, channels
    return device.rate, device.channels  # opening it will say why it cannot


def _input_device(described: dict[str, Any]) -> InputDevice:
    return InputDevice(
        index=int(described["index"]),
        name=str(described["name"]),
        channels=int(described["max_input_channels"]),
        rate=round(described["default_samplerate"]),
    )


def _times(number: int) -> str:
    return "once" if number == 1 else f"{number:,} times"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
