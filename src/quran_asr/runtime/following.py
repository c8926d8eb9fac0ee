"""Follow a reciter in the Quran, word by word: from samples to positions and final words."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from quran_asr.decoding.tokenization import Tokenizer
from quran_asr.decoding.vocabulary import Vocabulary
from quran_asr.errors import QuranAsrError
from quran_asr.records import SAMPLE_RATE
from quran_asr.runtime.audio_input import blocks_of_file
from quran_asr.runtime.bundle import default_model, read_bundle
from quran_asr.runtime.recognizer import Recognizer, load
from quran_asr.runtime.tracking import (
    Text,
    Update,
    WordRef,
    build_text,
    finish_tracking,
    start_tracking,
    track,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

LONGEST_LOOK_AHEAD_MS = 500
"""A longer look-ahead would show words too late."""


class Follower:
    """One recitation that is followed. Not to be used from two threads at once."""

    def __init__(self, recognizer: Recognizer, at: WordRef | None = None, where: str = "") -> None:
        """
        Args:
            recognizer: with the decoder `ctc`, which loads fastest; the decoder itself is not used.
            at: where the recitation is expected to begin; None: anywhere.
            where: the recording is from, named in errors.

        Raises:
            QuranAsrError: there is no such word.
        """
        self._recognizer = recognizer
        self._text = text_of(recognizer)
        self._tracking = start_tracking(self._text, at)
        self._stream = recognizer.stream(where=where)

    def accept(self, samples: NDArray[Any], rate: int = SAMPLE_RATE) -> tuple[Update, ...]:
        """Process more audio and return what is new. Arguments and errors as in `Stream.accept`."""
        self._stream.push(samples, rate)
        return self._track()

    def finish(self) -> tuple[Update, ...]:
        """The recitation has ended: the last words, final."""
        self._stream.end()
        updates = self._track()
        return (*updates, *finish_tracking(self._text, self._tracking, self._recognizer.bundle.frame_seconds))

    def _track(self) -> tuple[Update, ...]:
        scores = self._recognizer.encode(self._stream)
        frame_seconds = self._recognizer.bundle.frame_seconds
        self._tracking, updates = track(self._text, self._tracking, scores, frame_seconds)
        return updates


def follow(
    audio: str | Path | Iterable[NDArray[Any]],
    model: str | Path | Recognizer | None = None,
    at: str | None = None,
    rate: int = SAMPLE_RATE,
) -> Iterator[Update]:
    """Follow a reciter through the Quran.

    ```python
    for update in quran_asr.follow(microphone, "bundle"):
        if isinstance(update, Position):
            print("now at", update.word)           # 2:255:4; may still change
        else:
            for word in update.words:              # final
                print(word.word, word.kind, word.skipped, word.confidence)
    ```

    Args:
        audio: a recording (wav, flac, mp3, ogg, opus), or chunks of samples: float32 or int16 [samples];
            one array is one chunk.
        model: a bundle, or a recognizer that is loaded already; None takes the model of the package.
        at: where the recitation is expected to begin, `36:1` or `2:255:4`; None: anywhere.
        rate: hertz of samples; not needed for a recording.

    Yields:
        `Position` when the current word changes, `Words` when more words are final, in order. Final words
        never change, and the chunk boundaries do not affect them.

    Raises:
        QuranAsrError: no such recording, model or word; a sample is not a number or far too large.
    """
    if not isinstance(audio, str | Path | Iterable):
        raise QuranAsrError(
            f"a recording is the name of a file or chunks of samples, not {type(audio).__name__}",
            remedy="give `recitation.mp3`, or an iterator of int16 or float32 arrays",
        )
    recognizer = model if isinstance(model, Recognizer) else load_for_following(model)
    place = None if at is None else WordRef.parse(str(at))
    is_file = isinstance(audio, str | Path)
    follower = Follower(recognizer, place, str(audio) if is_file else "")
    if isinstance(audio, str | Path):
        seconds = recognizer.chunk_samples / SAMPLE_RATE
        chunks: Iterable[NDArray[Any]] = blocks_of_file(audio, seconds)
        rate = SAMPLE_RATE
    else:
        chunks = [audio] if isinstance(audio, np.ndarray) else audio
    for chunk in chunks:
        yield from follower.accept(chunk, rate)
    yield from follower.finish()


def load_for_following(
    model: str | Path | None = None, look_ahead_ms: int | None = None, threads: int | None = None
) -> Recognizer:
    """A recognizer with the widest look-ahead that shows words in time. Arguments and errors as `load`."""
    folder = Path(default_model() if model is None else model)
    if look_ahead_ms is None:
        known = read_bundle(folder).look_aheads_ms
        look_ahead_ms = max((ms for ms in known if ms <= LONGEST_LOOK_AHEAD_MS), default=min(known))
    return load(folder, decoder="ctc", look_ahead_ms=look_ahead_ms, threads=threads)


def text_of(recognizer: Recognizer) -> Text:
    """The whole Quran as a recognizer spells it. Built once for each vocabulary."""
    return _text(recognizer.bundle.vocabulary, recognizer.spelling)


@lru_cache(maxsize=2)
def _text(vocabulary: Vocabulary, spelling: str) -> Text:
    return build_text(Tokenizer(vocabulary), spelling)
