"""The sherpa-onnx worker of the runtime benchmark: `OnlineRecognizer` on exported folders."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import sherpa_onnx

from quran_asr import audio
from quran_asr.benchmark.runtime_worker import RuntimeWorker, Shown
from quran_asr.records import SAMPLE_RATE

if TYPE_CHECKING:
    from quran_asr.records import Samples


class Sherpa:
    def __init__(self, setup: dict[str, Any]) -> None:
        self.setup = setup
        """`folders`, and `tails` (seconds of silence needed at the end), by look-ahead in milliseconds."""
        self.widest = max(map(int, setup["folders"]))
        self.loaded: tuple[int, Any] | None = None

    def whole(self, files: Sequence[str]) -> list[str]:
        texts = []
        for file in files:
            recording = audio.read(file)
            *_, last = self.listen([recording], self.widest, len(recording))
            texts.append(last.texts[0])
        return texts

    def listen(self, recordings: Sequence[Samples], look_ahead_ms: int, piece: int | None) -> Iterator[Shown]:
        recognizer = self._recognizer(look_ahead_ms)
        streams = [recognizer.create_stream() for _ in recordings]
        step = piece or (look_ahead_ms + 80) * SAMPLE_RATE // 1000
        length = len(recordings[0])
        tail = np.zeros(round(self.setup["tails"][str(look_ahead_ms)] * SAMPLE_RATE), np.float32)
        for start in range(0, length, step):
            for stream, recording in zip(streams, recordings, strict=True):
                stream.accept_waveform(SAMPLE_RATE, recording[start : start + step])
                if start + step >= length:
                    stream.accept_waveform(SAMPLE_RATE, tail)
                    stream.input_finished()
            while ready := [stream for stream in streams if recognizer.is_ready(stream)]:
                recognizer.decode_streams(ready)
            texts = [" ".join(recognizer.get_result(stream).split()) for stream in streams]
            yield Shown(min(start + step, length) / SAMPLE_RATE, texts)

    def _recognizer(self, look_ahead_ms: int) -> Any:
        """The recognizer of this look-ahead; a folder is for one look-ahead, and only one is loaded."""
        if self.loaded is None or self.loaded[0] != look_ahead_ms:
            self.loaded = None
            folder = Path(self.setup["folders"][str(look_ahead_ms)])
            recognizer = sherpa_onnx.OnlineRecognizer.from_transducer(
                tokens=str(folder / "tokens.txt"),
                encoder=str(folder / "encoder.onnx"),
                decoder=str(folder / "decoder.onnx"),
                joiner=str(folder / "joiner.onnx"),
                num_threads=self.setup["threads"],
            )
            self.loaded = (look_ahead_ms, recognizer)
        return self.loaded[1]


@contextmanager
def load(setup: dict[str, Any]) -> Iterator[RuntimeWorker]:
    """For `benchmark.worker`."""
    yield RuntimeWorker(Sherpa(setup))
