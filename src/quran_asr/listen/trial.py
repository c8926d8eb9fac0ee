"""Do the graphs of a bundle fit together and its vocabulary? Found out at loading, by hearing a piece.

Checksums tell that files are those that were written, not that they are a recognizer's. A piece of silence
through all three graphs does: what they take, what they give, how wide it is. It costs some milliseconds, and
the first piece of the first stream comes sooner for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from quran_asr.findings import QuranAsrError
from quran_asr.listen.bundle import AGAIN, JOINT, PREDICTION, TOKENIZER, VOCABULARY
from quran_asr.listen.sessions import Sessions

if TYPE_CHECKING:
    from collections.abc import Callable


def try_out(sessions: Sessions) -> None:
    """Hear a piece of silence.

    Raises:
        QuranAsrError: a graph takes or gives something else than is needed, gives what is no number, or is
            made for another vocabulary; it names the file.
    """
    bundle = sessions.bundle
    shape, classes = bundle.shape, len(bundle.vocabulary) + 1
    chunk = shape.look_aheads[-1] + 1
    silence = np.zeros((1, shape.subsampling * chunk + 7, bundle.features.mels), np.float32)
    state = np.zeros((shape.prediction_layers, 1, shape.prediction_width), np.float32)
    blank = np.array([bundle.vocabulary.blank], np.int64)

    heard, _ = _asked(sessions, TOKENIZER, lambda: sessions.encode(silence, [None], chunk, [sessions.start]))
    predicted, _ = _asked(sessions, PREDICTION, lambda: sessions.predict(blank, (state, state)))
    _check(sessions, TOKENIZER, heard[0].joint, (chunk, shape.joint_width))
    _check(sessions, PREDICTION, predicted, (1, shape.joint_width))
    joined = _asked(sessions, JOINT, lambda: sessions.join(heard[0].joint[:1], predicted))
    for name, scores in ((TOKENIZER, heard[0].ctc), (JOINT, joined)):
        if scores.ndim == 2 and scores.shape[1] != classes:
            raise QuranAsrError(
                f"has {classes - 1:,} pieces, and {name} is made for {scores.shape[1] - 1:,}",
                where=str(bundle.folder / VOCABULARY),
                remedy=AGAIN,
            )
    _check(sessions, TOKENIZER, heard[0].ctc, (chunk, classes))
    _check(sessions, JOINT, joined, (1, classes))


def _asked(sessions: Sessions, name: str, ask: Callable[[], Any]) -> Any:
    try:
        return ask()
    except Exception as error:  # ONNX Runtime raises a class of its own for each kind of misfit
        reason = " ".join(str(error).split())[:200]
        raise QuranAsrError(
            f"is another graph than a bundle's ({reason})",
            where=str(sessions.bundle.folder / name),
            remedy=AGAIN,
        ) from error


def _check(sessions: Sessions, name: str, given: np.ndarray[Any, Any], shape: tuple[int, ...]) -> None:
    where = str(sessions.bundle.folder / name)
    if given.shape != shape:
        raise QuranAsrError(
            f"gives {list(given.shape)} where {list(shape)} is needed", where=where, remedy=AGAIN
        )
    if not np.isfinite(given).all():
        raise QuranAsrError("gives what is no number (NaN or infinite)", where=where, remedy=AGAIN)
