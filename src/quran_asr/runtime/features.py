"""Log-mel features as in training, of a whole recording or chunk by chunk.

They are those of NeMo's AudioToMelSpectrogramPreprocessor in evaluation (no dither, `normalize: NA`), in
numpy: pre-emphasis, short-time Fourier transform with zeros before the beginning and after the end, power,
mel filters with Slaney's scale and areas, natural logarithm of the power plus a guard.

The state of a stream is a value: `MelState.push` takes samples and returns the complete frames and the next
state. The frames equal those of the whole recording to the last bit, whatever the chunks.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from quran_asr.errors import QuranAsrError
from quran_asr.records import SAMPLE_RATE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Float32 = NDArray[np.float32]

_FRAMES_AT_ONCE = 1024
"""Ten seconds: their spectra take a few megabytes, whatever the length of the recording."""


@dataclass(frozen=True, slots=True)
class FeatureSettings:
    """Feature settings. The defaults are those of every recipe; a bundle stores them.

    Raises:
        QuranAsrError: a setting that is not a number or that allows no features; it names the setting.
    """

    sample_rate: int = SAMPLE_RATE
    """Hertz."""
    window: int = 400
    """Samples under one (symmetric) Hann window; even. Frame t begins at sample hop * t - window / 2."""
    hop: int = 160
    """Samples from one frame to the next; at most half a window."""
    n_fft: int = 512
    """Points of the Fourier transform; even, at least `window`."""
    mels: int = 80
    """Mel filters: features of one frame."""
    lowest_hertz: float = 0.0
    """Where the first filter begins."""
    highest_hertz: float = SAMPLE_RATE / 2
    """Where the last filter ends; at most half the sample rate."""
    preemphasis: float = 0.97
    """Share of the previous sample that is subtracted."""
    guard: float = 2.0**-24
    """Added to the power before the logarithm: silence is log(guard)."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            kinds = (int,) if field.type == "int" else (int, float)
            if isinstance(value, bool) or not isinstance(value, kinds) or not math.isfinite(value):
                raise QuranAsrError(
                    f"{value!r} is not a valid value",
                    where=field.name,
                    remedy=f"give a {'whole' if kinds == (int,) else 'finite'} number",
                )
        wrong = {
            "sample_rate": not 1_000 <= self.sample_rate <= 1_000_000,
            "n_fft": not 2 <= self.n_fft <= 65_536 or self.n_fft % 2,
            "window": not 2 <= self.window <= self.n_fft or self.window % 2,
            "hop": not 1 <= self.hop <= self.window // 2,
            "mels": not 1 <= self.mels <= 1024,
            "highest_hertz": not 0 <= self.lowest_hertz < self.highest_hertz <= self.sample_rate / 2,
            "preemphasis": not 0 <= self.preemphasis < 1,
            "guard": not 0 < self.guard < 1,
        }
        for name, is_wrong in wrong.items():
            if is_wrong:
                raise QuranAsrError(
                    f"{getattr(self, name)} fits no features with {asdict(self)}",
                    where=f"features: {name}",
                    remedy="use the settings of the shipped recipes: 16 kHz, window 400, hop 160, n_fft 512",
                )

    def frames(self, samples: int) -> int:
        """Frames of a recording of this many samples."""
        return samples // self.hop

    def samples_for(self, frames: int) -> int:
        """Samples after which a stream has this many frames; each ends half a window after its centre."""
        return self.hop * (frames - 1) + self.window // 2 if frames > 0 else 0


DEFAULT = FeatureSettings()


def log_mel(samples: Float32, settings: FeatureSettings = DEFAULT) -> Float32:
    """Features of a whole recording, or of several of one length.

    Args:
        samples: float32 [samples] or [recordings, samples], finite, in about [-1, 1].
        settings: as the recognizer was trained.

    Returns:
        float32 [frames, mels] or [recordings, frames, mels]; `samples // hop` frames, perhaps none.
    """
    given, state = MelState.start(settings, samples.shape[:-1]).push(samples)
    return np.concatenate([given, state.finish()], axis=-2)


@dataclass(frozen=True, slots=True, eq=False)
class MelState:
    """State of a stream, of one recording or of several that advance together."""

    settings: FeatureSettings
    tail: Float32
    """Pre-emphasized samples from the beginning of the next frame's window, [..., under window + hop]."""
    last: Float32
    """The last sample before pre-emphasis, [..., 1]."""
    samples_seen: int
    """Samples so far."""
    given: int
    """Frames so far."""

    @classmethod
    def start(cls, settings: FeatureSettings = DEFAULT, streams: tuple[int, ...] = ()) -> MelState:
        """Before the first sample; `streams=(8,)` begins eight at once."""
        silence = np.zeros((*streams, settings.window // 2), dtype=np.float32)
        return cls(settings, silence, np.zeros((*streams, 1), dtype=np.float32), samples_seen=0, given=0)

    def push(self, samples: Float32) -> tuple[Float32, MelState]:
        """Process more audio.

        Args:
            samples: float32 [..., samples], any number of them, for each stream alike; finite.

        Returns:
            The frames that are complete now, float32 [..., frames, mels], and the next state; this one does
            not change.
        """
        if not samples.shape[-1]:
            return self._log_mel(self.tail, 0), self
        samples = np.asarray(samples, dtype=np.float32)
        before = np.concatenate([self.last, samples[..., :-1]], axis=-1)
        signal = np.concatenate(
            [self.tail, samples - np.float32(self.settings.preemphasis) * before], axis=-1
        )
        hop, window = self.settings.hop, self.settings.window
        count = max(0, (signal.shape[-1] - window) // hop + 1)
        after = MelState(
            self.settings,
            tail=signal[..., count * hop :].copy(),  # a view would keep all of `signal`
            last=samples[..., -1:].copy(),
            samples_seen=self.samples_seen + samples.shape[-1],
            given=self.given + count,
        )
        return self._log_mel(signal, count), after

    def finish(self) -> Float32:
        """The remaining frames if the audio ends here, float32 [..., frames, mels], padded with zeros."""
        count = self.settings.frames(self.samples_seen) - self.given
        missing = max(0, self.settings.hop * (count - 1) + self.settings.window - self.tail.shape[-1])
        zeros = np.zeros((*self.tail.shape[:-1], missing), dtype=np.float32)
        return self._log_mel(np.concatenate([self.tail, zeros], axis=-1), count)

    def _log_mel(self, signal: Float32, count: int) -> Float32:
        """Features of the first `count` windows of the pre-emphasized signal."""
        settings = self.settings
        hop, window = settings.hop, settings.window
        hann, filters = _window(settings), mel_filters(settings)
        features = np.empty((*signal.shape[:-1], count, settings.mels), dtype=np.float32)
        for first in range(0, count, _FRAMES_AT_ONCE):
            frames = min(_FRAMES_AT_ONCE, count - first)
            # The overlapping windows, without copying: `sliding_window_view` took as long as the transform of
            # a live chunk.
            size = signal.itemsize
            windows: Float32 = np.ndarray(
                (*signal.shape[:-1], frames, window),
                signal.dtype,
                signal,
                first * hop * size,
                (*signal.strides[:-1], hop * size, size),
            )
            # NeMo pads the window with zeros on both sides; their position affects only the phase.
            spectrum = np.fft.rfft(windows * hann, settings.n_fft)
            power = np.square(spectrum.real) + np.square(spectrum.imag)
            power = power.astype(np.float32, copy=False)  # before numpy 2 it is float64
            # One product per frame: in a larger one the order of summation depends on the number of frames.
            mels = np.matmul(power[..., None, :], filters)[..., 0, :]
            features[..., first : first + frames, :] = np.log(mels + np.float32(settings.guard))
        return features


@lru_cache(maxsize=8)
def _window(settings: FeatureSettings) -> Float32:
    """The symmetric Hann window, float32 [window]."""
    window: Float32 = np.hanning(settings.window).astype(np.float32)
    window.flags.writeable = False
    return window


@lru_cache(maxsize=8)
def mel_filters(settings: FeatureSettings = DEFAULT) -> Float32:
    """Triangular mel filters of equal area, float32 [n_fft / 2 + 1, mels].

    As in Slaney's Auditory Toolbox (Interval Research technical report 1998-010) and `librosa.filters.mel`:
    the scale is linear below 1 kHz and logarithmic above, and each triangle is 2 / (its width in hertz) high.
    """
    bins = np.arange(settings.n_fft // 2 + 1) * (settings.sample_rate / settings.n_fft)
    low, high = _mel(settings.lowest_hertz), _mel(settings.highest_hertz)
    corners = _hertz(np.linspace(low, high, settings.mels + 2))
    left, middle, right = corners[:-2], corners[1:-1], corners[2:]
    rising = (bins[:, None] - left) / (middle - left)
    falling = (right - bins[:, None]) / (right - middle)
    filters = np.maximum(0, np.minimum(rising, falling)) * (2 / (right - left))
    weights: Float32 = filters.astype(np.float32)
    weights.flags.writeable = False
    return weights


_LINEAR = 3 / 200
"""Mels per hertz below 1 kHz, where there are 15 mels."""
_LOGARITHMIC = 27 / math.log(6.4)
"""Mels per unit of the natural logarithm of the frequency above 1 kHz."""


def _mel(hertz: float) -> float:
    return hertz * _LINEAR if hertz < 1_000 else 15 + math.log(hertz / 1_000) * _LOGARITHMIC


def _hertz(mels: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(mels < 15, mels / _LINEAR, 1_000 * np.exp((mels - 15) / _LOGARITHMIC))
