"""Audio measurements of clips, in parallel and cached by file."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from quran_asr import audio
from quran_asr.corpus.fingerprint import Fingerprint, fingerprint
from quran_asr.corpus.signal import Clipping, Signal, measure, power_spectra
from quran_asr.corpus.workers import processes
from quran_asr.errors import QuranAsrError
from quran_asr.files import parse_json
from quran_asr.records import Segment
from quran_asr.shards import member_of

_VERSION = 1
"""Increase it when a measurement changes: older entries of the cache are then ignored."""

_CHUNK = 8
"""Clips that one process measures between two reports."""

Stretch = tuple[str, float, float]
"""Absolute path, offset and duration in seconds."""


@dataclass(frozen=True, slots=True)
class Measured:
    """Measurements of the audio of one clip."""

    signal: Signal | None
    """None if it cannot be read."""
    error: str
    """Why it cannot be read; empty otherwise."""
    missing: bool
    """Whether the file does not exist."""
    rate: int
    """Hertz, as stored; 0 if it cannot be read."""
    channels: int
    format: str
    file_seconds: float
    """Length of the whole file."""
    digest: str
    """Hash of the decoded samples."""
    fingerprint: Fingerprint
    past_end: bool = False
    """Whether the recording is readable but shorter than its line states."""


@dataclass(frozen=True, slots=True)
class Effort:
    """Cost of the measurements, without cached clips."""

    clips: int
    audio_seconds: float
    cpu_seconds: float
    """Total of all workers."""
    cached: int
    """Cached clips."""

    @property
    def times_real_time(self) -> float | None:
        """Seconds of audio measured per second of one core."""
        return self.audio_seconds / self.cpu_seconds if self.clips and self.cpu_seconds else None


def measure_clips(
    segments: Sequence[Segment],
    *,
    cache: Path | None = None,
    workers: int | None = None,
    executor: Executor | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> tuple[list[Measured], Effort]:
    """Decode and measure each clip.

    Args:
        segments: `text` and `verses` are not used.
        cache: a database that is read and extended; it keeps the measurements of an interrupted call.
        workers: processes; one for each processor if None.
        executor: where clips are measured, instead of in processes here.
        on_progress: called with (clips done, clips).

    Returns:
        (a measurement for each segment in order, the cost).

    Raises:
        QuranAsrError: a worker died.
    """
    stretches: list[Stretch] = [(one.audio, one.offset, one.duration) for one in segments]
    keys = [_key(stretch) for stretch in stretches]
    with closing(_open(cache)) as database:
        known = _known(database, keys)
        todo = list(dict.fromkeys(s for s, key in zip(stretches, keys, strict=True) if key not in known))
        done = len(segments) - len(todo)
        new: dict[Stretch, Measured] = {}
        cpu = 0.0
        chunks = [todo[start : start + _CHUNK] for start in range(0, len(todo), _CHUNK)]
        pool = executor or processes(min(workers or os.cpu_count() or 1, max(1, len(chunks))))
        try:
            for future in as_completed([pool.submit(_measure_chunk, chunk) for chunk in chunks]):
                chunk, results, took = future.result()
                cpu += took
                new.update(zip(chunk, results, strict=True))
                _remember(database, chunk, results)
                if on_progress:
                    on_progress(done + len(new), len(segments))
        except BrokenProcessPool as error:
            raise QuranAsrError(
                "a process that measured clips died (out of memory, or a decoder crashed)",
                remedy="try again with --workers 1",
            ) from error
        finally:
            if executor is None:
                pool.shutdown(cancel_futures=True)
    measured = [known[key] if key in known else new[s] for s, key in zip(stretches, keys, strict=True)]
    seconds = sum(one.signal.seconds for one in new.values() if one.signal)
    return measured, Effort(len(new), seconds, cpu, len(segments) - len(todo))


def _measure_chunk(stretches: Sequence[Stretch]) -> tuple[Sequence[Stretch], list[Measured], float]:
    began = time.process_time()
    results = [measure_clip(*stretch) for stretch in stretches]
    return stretches, results, time.process_time() - began


def measure_clip(path: str, offset: float, duration: float) -> Measured:
    """Decode and measure one segment of a file; an unreadable file is a result too."""
    nothing = np.zeros(0, dtype=np.uint32)
    unread = Measured(None, "", False, 0, 0, "", 0.0, "", Fingerprint(nothing, nothing, 0))
    info = None
    try:
        info = audio.probe(path)
        clipping = Clipping()
        samples = audio.read(path, offset, duration, on_stored=clipping)
    except QuranAsrError as error:
        past_end = info is not None and offset + duration > info.seconds + audio.TOLERANCE_SECONDS
        missing = not Path(path).exists()
        return Measured(**{**_fields(unread), "error": error.what, "missing": missing, "past_end": past_end})
    except OSError as error:
        return Measured(**{**_fields(unread), "error": error.strerror or str(error)})
    power = power_spectra(samples)
    return Measured(
        signal=measure(samples, power, clipping),
        error="",
        missing=False,
        rate=info.rate,
        channels=info.channels,
        format=info.format,
        file_seconds=info.seconds,
        digest=hashlib.blake2b(samples.tobytes(), digest_size=16).hexdigest(),
        fingerprint=fingerprint(power),
    )


def _fields(measured: Measured) -> dict[str, Any]:
    return {name: getattr(measured, name) for name in Measured.__dataclass_fields__}


def _key(stretch: Stretch) -> str:
    """Identity of a file: a measurement is valid while it is unchanged. Empty if there is no file."""
    path, offset, duration = stretch
    try:
        member = member_of(path)
        state = os.stat(path if member is None else member.shard)  # noqa: PTH116 - faster, and there are many
    except (OSError, ValueError):
        return ""
    return f"{_VERSION} {state.st_size} {state.st_mtime_ns} {offset!r} {duration!r} {path}"


def _open(cache: Path | None) -> sqlite3.Connection:
    """The cache, or one in memory if there is none or it cannot be used."""
    if cache is not None:
        try:
            cache.parent.mkdir(parents=True, exist_ok=True)
            database = sqlite3.connect(cache, timeout=20.0)
            database.execute("CREATE TABLE IF NOT EXISTS measured (key TEXT PRIMARY KEY, value BLOB)")
            return database
        except (OSError, sqlite3.Error):  # a full disk, a damaged file: slower, and nothing is lost
            pass
    database = sqlite3.connect(":memory:")
    database.execute("CREATE TABLE measured (key TEXT PRIMARY KEY, value BLOB)")
    return database


def _known(database: sqlite3.Connection, keys: Sequence[str]) -> dict[str, Measured]:
    known: dict[str, Measured] = {}
    for key in keys:
        try:
            row = (
                database.execute("SELECT value FROM measured WHERE key = ?", (key,)).fetchone()
                if key
                else None
            )
            if row:
                known[key] = _decoded(row[0])
        except (sqlite3.Error, ValueError, KeyError, TypeError):
            continue
    return known


def _remember(database: sqlite3.Connection, chunk: Sequence[Stretch], results: Sequence[Measured]) -> None:
    rows = [
        (key, _encoded(one))
        for stretch, one in zip(chunk, results, strict=True)
        if one.signal and (key := _key(stretch))
    ]
    try:
        with database:
            database.executemany("INSERT OR REPLACE INTO measured VALUES (?, ?)", rows)
    except sqlite3.Error:  # a full disk costs the cache, not the audit
        pass


def _encoded(one: Measured) -> bytes:
    values = {**_fields(one), "signal": asdict(one.signal) if one.signal else None}
    values["fingerprint"] = one.fingerprint.length
    head = json.dumps(values).encode()
    return head + b"\n" + one.fingerprint.frames.tobytes() + one.fingerprint.codes.tobytes()


def _decoded(raw: bytes) -> Measured:
    head, _, tail = raw.partition(b"\n")
    values = parse_json(head)
    numbers = np.frombuffer(tail, dtype=np.uint32)
    half = len(numbers) // 2
    values["fingerprint"] = Fingerprint(numbers[:half], numbers[half:], values["fingerprint"])
    values["signal"] = Signal(**values["signal"])
    return Measured(**values)
