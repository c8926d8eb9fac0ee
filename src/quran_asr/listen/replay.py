"""Recordings played to streams as if they came now: what is deployed, heard and measured on files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from quran_asr import audio
from quran_asr.decode.partial import Moment, Revisions, revisions
from quran_asr.findings import QuranAsrError
from quran_asr.listen.recognizer import Recognizer
from quran_asr.records import Segment, Transcript

if TYPE_CHECKING:
    from quran_asr.records import Samples


def moments(recognizer: Recognizer, samples: Samples, where: str = "") -> Iterator[Moment]:
    """What a listener is shown of a recording that comes a chunk at a time, to its end.

    Args:
        recognizer: hears it, at its own look-ahead.
        samples: float32 [samples], mono at 16 kHz.
        where: they are from, named in errors.

    Raises:
        QuranAsrError: a sample is no sound.
    """
    stream = recognizer.stream(where=where)
    size = recognizer.chunk_samples
    for start in range(0, len(samples), size):
        yield stream.accept(samples[start : start + size])
    yield stream.finish()


class Replay:
    """A recognizer for evaluations that hears every clip as a stream and, beside it, as a whole."""

    def __init__(self, recognizer: Recognizer) -> None:
        self.recognizer = recognizer
        self.differing: list[Segment] = []
        """Clips whose words are others than those of the whole file."""
        self.revisions = Revisions()
        """How steady the partial words were, over all clips so far."""

    def recognize_clips(
        self, segments: Sequence[Segment], on_progress: Callable[[int, int], None] | None = None
    ) -> Iterator[Transcript | QuranAsrError]:
        """One answer a segment, in their order; audio that cannot be read gives the error itself."""
        for done, segment in enumerate(segments, start=1):
            try:
                yield self._hear(segment)
            except QuranAsrError as error:
                yield error
            if on_progress is not None:
                on_progress(done, len(segments))

    def _hear(self, segment: Segment) -> Transcript:
        samples = audio.read(Path(segment.audio), segment.offset, segment.duration or None)
        shown = list(moments(self.recognizer, samples, segment.place))
        words = tuple(word for moment in shown for word in moment.committed)
        text = " ".join(word.text for word in words)
        if text != self.recognizer.recognize(samples, where=segment.place).text:
            self.differing.append(segment)
        self.revisions += revisions(shown)
        return Transcript(text, words)
