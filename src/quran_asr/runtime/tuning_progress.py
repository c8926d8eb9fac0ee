"""What `lm tune` has finished so far, kept beside the bundle until it ends, so that it can be interrupted."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import astuple, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from quran_asr import __version__
from quran_asr.decoding.decoder import EncoderOutput
from quran_asr.files import json_line, write_atomically
from quran_asr.locks import locked
from quran_asr.records import Counts
from quran_asr.runtime.bundle import DESCRIPTION
from quran_asr.runtime.n_best import encode

if TYPE_CHECKING:
    from quran_asr.decoding.fusion import Fusion
    from quran_asr.decoding.language_model import LanguageModel
    from quran_asr.records import Segment
    from quran_asr.runtime.recognizer import Recognizer

    Evaluate = Callable[[Fusion, Sequence[int]], Sequence[tuple[Counts, Counts]]]

LOCK, INPUTS, ERRORS = "lock", "inputs.txt", "errors.jsonl"


class TuningProgress:
    """Encoder outputs of clips, and errors made with pairs of weight and token bonus, in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._errors: dict[str, list[tuple[Counts, Counts]]] = {}
        with suppress(FileNotFoundError):
            for line in (folder / ERRORS).read_bytes().splitlines():
                with suppress(ValueError, TypeError):  # a line that was being written
                    key, counts = json.loads(line)
                    self._errors[key] = [
                        (Counts(*words), Counts(*characters)) for words, characters in counts
                    ]
        self.encoded_clips = len(list(folder.glob("*.npz")))
        """By the runs before."""
        self.evaluated_clips = sum(map(len, self._errors.values()))
        """Times a pair, by the runs before."""

    def encoded(self, recognizer: Recognizer, segment: Segment, number: int) -> EncoderOutput:
        """As `encode`; from the folder if the clip of this number is there.

        Raises:
            QuranAsrError: as `encode`.
            OSError: the folder cannot be written.
        """
        path = self._folder / f"{number}.npz"
        with suppress(OSError, ValueError, EOFError, zipfile.BadZipFile), np.load(path) as kept:
            return EncoderOutput(*(kept[name] for name in kept.files))
        encoded = encode(recognizer, segment)
        file = io.BytesIO()
        np.savez(file, *(one for one in (encoded.joint, encoded.ctc, encoded.may_end) if one is not None))
        write_atomically(path, file.getvalue())
        return encoded

    def remembering(self, evaluate: Evaluate) -> Evaluate:
        """As `evaluate`, which is called only for pairs and clips that are not in the folder."""

        def remembered(fusion: Fusion, clips: Sequence[int]) -> Sequence[tuple[Counts, Counts]]:
            key = f"{fusion.lm_weight} {fusion.token_bonus} {list(clips)}"
            if key not in self._errors:
                self._errors[key] = list(evaluate(fusion, clips))
                counts = [(astuple(words), astuple(characters)) for words, characters in self._errors[key]]
                with (self._folder / ERRORS).open("ab") as file:
                    file.write(json_line([key, counts]).encode())
            return self._errors[key]

        return remembered


@contextmanager
def tuning_progress(
    recognizer: Recognizer, model: LanguageModel, segments: Sequence[Segment]
) -> Iterator[TuningProgress]:
    """What an interrupted run with the same inputs has finished, in `tuning-DECODER` in the bundle's folder.

    With other inputs nothing is reused, and once the block ends without an error nothing is left.

    Args:
        recognizer: of the bundle, with the decoder.
        model: the language model.
        segments: the validation clips.

    Raises:
        QuranAsrError: another process tunes this decoder of the bundle.
        OSError: the folder cannot be written.
    """
    folder = recognizer.bundle.folder / f"tuning-{recognizer.decoding.decoder}"
    with locked(folder / LOCK, busy="another `lm tune` works here"):
        inputs = _digest(recognizer, model, segments)
        if not (folder / INPUTS).is_file() or (folder / INPUTS).read_text() != inputs:
            for path in folder.iterdir():
                if path.name != LOCK:
                    path.unlink()
            write_atomically(folder / INPUTS, inputs.encode())
        yield TuningProgress(folder)
        shutil.rmtree(folder)


def _digest(recognizer: Recognizer, model: LanguageModel, segments: Sequence[Segment]) -> str:
    """Of all on which encoder outputs and errors depend; audio files by size and time of change."""
    digest = hashlib.sha256((recognizer.bundle.folder / DESCRIPTION).read_bytes())
    digest.update(
        f"{__version__} {replace(recognizer.decoding, fusion=None)} {recognizer.look_ahead_ms}".encode()
    )
    for array in (model.tokens, model.log_probs, model.first, model.backoffs):
        digest.update(array.tobytes())
    for segment in segments:
        state = ""
        with suppress(OSError):
            file = Path(segment.audio).stat()
            state = f"{file.st_size} {file.st_mtime_ns}"
        digest.update(f"{segment} {state}\n".encode(errors="backslashreplace"))
    return digest.hexdigest()
