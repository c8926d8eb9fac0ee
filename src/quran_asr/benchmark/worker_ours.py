"""Our worker of the runtime benchmark: a bundle in ONNX Runtime. No torch in its process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quran_asr.benchmark.runtime_worker import RuntimeWorker, Shown
from quran_asr.decoding.options import Decoding
from quran_asr.records import SAMPLE_RATE
from quran_asr.runtime.bundle import read_bundle
from quran_asr.runtime.recognizer import Recognizer

if TYPE_CHECKING:
    from quran_asr.records import Samples


class Ours:
    def __init__(self, setup: dict[str, Any]) -> None:
        decoding = Decoding(decoder="transducer", pause_seconds=None)
        self.recognizer = Recognizer(read_bundle(Path(setup["folder"])), decoding, threads=setup["threads"])

    def whole(self, files: Sequence[str]) -> list[str]:
        return [self.recognizer.recognize(file).text for file in files]

    def listen(self, recordings: Sequence[Samples], look_ahead_ms: int, piece: int | None) -> Iterator[Shown]:
        bundle = self.recognizer.bundle
        chunk = bundle.look_ahead(look_ahead_ms) + 1
        step = piece or round(chunk * bundle.frame_seconds * SAMPLE_RATE)
        streams = [self.recognizer.stream(look_ahead_ms) for _ in recordings]
        length = len(recordings[0])
        for start in range(0, length, step):
            for stream, recording in zip(streams, recordings, strict=True):
                stream.push(recording[start : start + step])
                if start + step >= length:
                    stream.end()
            results = self.recognizer.advance(streams)
            words = [[word.text for word in stream.words] for stream in streams]
            yield Shown(
                min(start + step, length) / SAMPLE_RATE,
                [
                    " ".join([*committed, *(word.text for word in result.partial)])
                    for committed, result in zip(words, results, strict=True)
                ],
                [len(committed) for committed in words],
            )


@contextmanager
def load(setup: dict[str, Any]) -> Iterator[RuntimeWorker]:
    """For `benchmark.worker`."""
    yield RuntimeWorker(Ours(setup))
