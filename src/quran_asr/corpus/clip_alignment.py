"""How well clips fit their words, by a model: detects swapped and cut clips of any length."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from quran_asr import audio
from quran_asr.corpus.workers import processes
from quran_asr.decoding.forced import FLOOR, ForcedAlignment, force
from quran_asr.decoding.graph import letter_names
from quran_asr.decoding.tokenization import Tokenizer
from quran_asr.errors import QuranAsrError
from quran_asr.records import Segment
from quran_asr.runtime.recognizer import Recognizer, load
from quran_asr.text.quran import load_quran

if TYPE_CHECKING:
    from numpy.typing import NDArray

EDGE_SHARE = 0.25
"""Tokens at each end that are scored separately: cuts lose more than single words."""
BETWEEN_NATS = 2.0
"""Nats that are not counted between a token and the next. What exceeds them is other speech; a clip of other
words loses as much in most of its gaps, so less of its losses is counted."""
_CHUNK = 16
"""Clips that one process aligns between two reports."""


@dataclass(frozen=True, slots=True)
class ClipAlignment:
    """The forced alignment of a clip with its words. Scores are nats per token by which the model prefers
    other tokens; 0 is best."""

    score: float
    """Of all tokens."""
    first: float
    """Of those at the beginning."""
    last: float
    """Of those at the end."""
    tokens: int
    extra: float = 0.0
    """Part of `score` that is lost to other speech: nats per token between the tokens, before and after them,
    without `BETWEEN_NATS` of each gap."""


def align_clips(
    segments: Sequence[Segment],
    bundle: Path,
    *,
    workers: int | None = None,
    executor: Executor | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[ClipAlignment | None]:
    """Align each clip with its text.

    Args:
        segments: in the spelling `letters`.
        bundle: folder of the model; on a cluster the workers find it under the same path.
        workers: processes; one for each processor if None.
        executor: where clips are aligned, instead of in processes here.
        on_progress: called with (clips done, clips).

    Returns:
        One for each segment in order; None where the recording cannot be read, or the model's spelling has
        marks and the text is not that of verses.

    Raises:
        QuranAsrError: no such model, a text that it cannot spell, or a worker died.
    """
    starts = range(0, len(segments), _CHUNK)
    pool = executor or processes(min(workers or os.cpu_count() or 1, max(1, len(starts))), "spawn")
    found: list[ClipAlignment | None] = [None] * len(segments)
    done = 0
    try:
        running = {
            pool.submit(_align_chunk, segments[start : start + _CHUNK], str(bundle)): start
            for start in starts
        }
        for future in as_completed(running):
            results = future.result()
            found[running[future] : running[future] + len(results)] = results
            done += len(results)
            if on_progress:
                on_progress(done, len(segments))
    except BrokenProcessPool as error:
        raise QuranAsrError(
            "a process that aligned clips died (out of memory, or a decoder crashed)",
            remedy="try again with --workers 1",
        ) from error
    finally:
        if executor is None:
            pool.shutdown(cancel_futures=True)
    return found


def _align_chunk(segments: Sequence[Segment], bundle: str) -> list[ClipAlignment | None]:
    recognizer, tokenizer = _loaded(bundle)
    found: list[ClipAlignment | None] = []
    for segment in segments:
        words = recited_words(segment, recognizer.spelling)
        try:
            samples = audio.read(segment.audio, segment.offset, segment.duration)
        except (QuranAsrError, OSError):
            words = []
        if not words:
            found.append(None)
            continue
        emissions = recognizer.emissions([samples], segment.place)
        tokens = tokenizer.encode(" ".join(words))
        forced = force(emissions.log_probs, tokens)
        if forced is None:  # the words need more frames than there are
            found.append(ClipAlignment(-FLOOR, -FLOOR, -FLOOR, len(tokens)))
            continue
        edge = max(1, round(EDGE_SHARE * len(tokens)))
        first, last = forced.losses[:edge].mean(), forced.losses[-edge:].mean()
        found.append(
            ClipAlignment(
                -float(forced.losses.mean()),
                -float(first),
                -float(last),
                len(tokens),
                _extra(emissions.log_probs, tokens, forced),
            )
        )
    return found


def _extra(log_probs: NDArray[np.float32], tokens: Sequence[int], forced: ForcedAlignment) -> float:
    """See `ClipAlignment.extra`."""
    kept = np.maximum(log_probs, -FLOOR)
    best = kept.max(axis=1)
    of_tokens = [
        float((best[start:end] - kept[start:end, token]).sum())
        for token, (start, end) in zip(tokens, forced.spans, strict=True)
    ]
    return float(np.maximum(forced.losses - of_tokens - BETWEEN_NATS, 0.0).mean())


@lru_cache(maxsize=1)
def _loaded(bundle: str) -> tuple[Recognizer, Tokenizer]:
    recognizer = load(bundle, decoder="ctc", threads=1)
    return recognizer, Tokenizer(recognizer.bundle.vocabulary)


def recited_words(segment: Segment, spelling: str) -> list[str]:
    """The words of a clip as they are recited: letters at the beginning of a surah by their names.

    Args:
        segment: in the spelling `letters`.
        spelling: of the words; without verses no other one than `letters` can be given, and there are none.
    """
    quran = load_quran(spelling)
    if not segment.verses or segment.text != load_quran("letters").text(segment.verses):
        return segment.text.split() if spelling == "letters" else []
    words: list[str] = []
    for verse in segment.verses:
        first, *rest = quran.verse(verse).split()
        words += [*(letter_names(verse, first, spelling) or first).split(), *rest]
    return words
