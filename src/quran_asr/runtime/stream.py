"""The state of one unfinished recording: buffered audio, and the states of encoder, decoder and words.

Audio becomes features as soon as possible, features are buffered until the encoder can take a chunk, and
scores become tokens and words. The parts are values and a stream holds the latest of each, so only words
accumulate. `engine.Engine` advances streams, many at once.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from quran_asr.decoding.endpoint import Loudness, levels, may_end
from quran_asr.decoding.partial import NOTHING, OpenWords, StreamingResult, add_tokens
from quran_asr.errors import QuranAsrError
from quran_asr.records import SAMPLE_RATE, Transcript
from quran_asr.runtime.features import FeatureSettings, MelState
from quran_asr.runtime.resampling import Resampler
from quran_asr.runtime.sessions import HISTORY, encoder_frames

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from quran_asr.decoding.decoder import SearchResult
    from quran_asr.records import TimedWord
    from quran_asr.runtime.bundle import Bundle

    Float32 = NDArray[np.float32]


class StreamState:
    """An unfinished recording. Not to be used from two threads at once."""

    def __init__(self, bundle: Bundle, chunk: int, encoder: Any, search: Any, where: str = "") -> None:
        """
        Args:
            bundle: of the model.
            chunk: look-ahead in frames + 1: the fewest frames that are encoded at once.
            encoder: the cache of the networks before the first frame; it counts `frames`.
            search: the decoder's state before the first frame.
            where: the recording is from, named in errors.
        """
        self.bundle = bundle
        self.chunk = chunk
        self.where = where
        self.words: list[TimedWord] = []
        """The committed ones. They never change."""
        self.error: QuranAsrError | None = None
        """Why the stream ended before its recording did."""
        self.encoder = encoder
        self.search = search
        self._open = OpenWords()
        self._features = FeatureQueue(bundle.features)
        self._loudness = Loudness()
        self._resampler: Resampler | None = None
        self._ended = False
        self._complete = False
        """Whether all words are committed."""
        self._shown = StreamingResult((), ())
        self._draft = NOTHING

    @property
    def transcript(self) -> Transcript:
        """The committed text so far."""
        return Transcript(" ".join(word.text for word in self.words), tuple(self.words))

    def push(self, samples: NDArray[Any], rate: int = SAMPLE_RATE) -> None:
        """Buffer samples until the stream is advanced. Arguments and errors as in `Stream.accept`."""
        if self.error is not None:
            raise self.error
        if self._ended:
            raise QuranAsrError(
                "more audio after the end of the stream",
                where=self.where,
                remedy="begin a new one: recognizer.stream()",
            )
        try:
            if self._resampler is None:
                self._resampler = Resampler(rate, self.where)
            elif rate != self._resampler.rate:
                what = f"the rate changes from {self._resampler.rate:,} to {rate:,} Hz"
                raise QuranAsrError(what, where=self.where, remedy="begin a new stream")
            self._features.push(self._resampler.push(samples))
        except QuranAsrError as error:
            self.error = error
            raise

    def end(self) -> None:
        """Mark the end of the audio."""
        if self._ended or self.error is not None:
            return
        self._ended = True
        if self._resampler is not None:
            self._features.push(self._resampler.finish())
        self._features.finish()

    def ready(self) -> int:
        """Frames that the encoder can take now, a multiple of the chunk; 0 if it must wait for more audio."""
        if self.error is not None:
            return 0
        most = self.bundle.shape.left_frames // self.chunk * self.chunk
        total = self.total
        if total is None:
            waiting = self._features.frames // self.chunk * self.chunk
        elif total:
            waiting = -(-(encoder_frames(total) - self.encoder.frames) // self.chunk) * self.chunk
        else:
            waiting = 0
        return max(0, min(most, waiting))

    @property
    def total(self) -> int | None:
        """Feature frames of the whole recording; None before its end."""
        return self._features.count if self._ended else None

    def take(self, frames: int) -> Float32:
        """Take the features [8 frames + 7, mels] of the next chunk from the queue."""
        return self._features.take(frames)

    def may_end(self, features: Float32) -> NDArray[np.bool_]:
        """After which frames of a chunk the audio allows an utterance to end: bool [frames]."""
        loud = levels(features[7:], self.bundle.shape.subsampling)  # frame j ends with feature 8j
        allowed, self._loudness = may_end(loud, self._loudness, self.bundle.frame_seconds)
        return allowed

    def put(self, found: SearchResult) -> StreamingResult:
        """Add the tokens of a chunk (none at the end of an empty recording)."""
        if self._complete:
            return self._shown
        final = self._complete = self._ended and not self.ready()
        if not (final or found.tokens.tokens or found.ends) and found.draft == self._draft:
            return self._shown
        self._draft = found.draft
        result, self._open = add_tokens(
            self._open,
            found.tokens,
            self.bundle.vocabulary,
            self.bundle.frame_seconds,
            draft=found.draft,
            ends=found.ends,
            final=final,
        )
        self.words.extend(result.committed)
        self._shown = StreamingResult((), result.partial)
        return result

    def wait(self) -> StreamingResult | None:
        """The tokens that may still change, without a new chunk; None at the end, when they are committed."""
        return None if self._ended else self._shown


class FeatureQueue:
    """Features buffered for the encoder, after the history that it needs."""

    def __init__(self, settings: FeatureSettings) -> None:
        self._settings = settings
        self._samples: list[Float32] = []
        """Samples without features yet: a short chunk alone is not worth a Fourier transform."""
        self._held = 0
        self._mel = MelState.start(settings)
        self._silence = np.float32(math.log(settings.guard))
        self._waiting = np.full((HISTORY, settings.mels), self._silence)
        self._taken = 0
        """Encoder frames."""
        self.count = 0
        """Feature frames of the recording so far."""

    @property
    def frames(self) -> int:
        """Encoder frames whose features are complete."""
        return max(0, (len(self._waiting) - 7) // 8)

    def push(self, samples: Float32) -> None:
        self._samples.append(samples)
        self._held += len(samples)
        due = self._settings.samples_for(8 * (self._taken + self.frames) + 1)  # for one encoder frame more
        if self._mel.samples_seen + self._held >= due:
            self._settle()
        else:
            self._samples[-1] = samples.copy()  # a caller may reuse its buffer

    def finish(self) -> None:
        self._settle()
        self._add(self._mel.finish())

    def take(self, frames: int) -> Float32:
        needed = 8 * frames + 7
        missing = needed - len(self._waiting)  # at the end of the recording
        if missing > 0:
            silence = np.full((missing, self._waiting.shape[1]), self._silence)
            self._waiting = np.concatenate([self._waiting, silence])
        taken, self._waiting = self._waiting[:needed], self._waiting[8 * frames :]
        self._taken += frames
        return taken

    def _settle(self) -> None:
        if self._samples:
            features, self._mel = self._mel.push(np.concatenate(self._samples))
            self._samples, self._held = [], 0
            self._add(features)

    def _add(self, features: Float32) -> None:
        if len(features):
            self.count += len(features)
            self._waiting = np.concatenate([self._waiting, features])
