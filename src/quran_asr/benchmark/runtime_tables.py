"""Presets and tables of the runtime benchmark."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from difflib import SequenceMatcher
from typing import Any

from quran_asr.config.schema import Model
from quran_asr.errors import QuranAsrError

PRESETS = {"30M": "small", "114M": "base", "quickstart": "quickstart"}
"""Name -> the recipe whose size is taken, with random weights."""


def look_aheads_of(model: Model) -> tuple[int, ...]:
    """The look-aheads in milliseconds that a recipe's model is trained with, the widest first."""
    frame = round(1000 * model.preprocessor.window_stride * model.encoder.subsampling_factor)
    return tuple(sorted({frame * right for _, right in model.encoder.att_context_size}, reverse=True))


def refuse_other_look_aheads(wanted: Sequence[int], known: Sequence[int], where: str) -> None:
    """Refuse a look-ahead in milliseconds that a model lacks, before it is written for all systems.

    Raises:
        QuranAsrError: it lacks one; names those that it has.
    """
    for milliseconds in wanted:
        if milliseconds not in known:
            raise QuranAsrError(
                f"the model has no look-ahead of {milliseconds} ms",
                where=where,
                remedy=f"it has: {', '.join(f'{ms} ms' for ms in known)}",
            )


def word_delays(
    ends: Sequence[tuple[str, float]], changes: Sequence[Mapping[str, Any]]
) -> list[tuple[float, float | None]]:
    """Seconds from the end of each word to its appearance, and to when it could no longer change.

    Args:
        ends: words with their ends in seconds.
        changes: each change of the shown text: `audio_seconds` (audio needed so far), `cpu` (seconds of
            computing in that step), `text`, `committed` (words that stay; None where unknown).

    Returns:
        For each word that is in the final text at its position: the audio consumed when it first appeared
        at its final position, plus computing time, minus its end.
    """
    if not changes:
        return []
    final = changes[-1]["text"].split()
    pairs = SequenceMatcher(None, [word for word, _ in ends], final, autojunk=False)
    delays: list[tuple[float, float | None]] = []
    for block in pairs.get_matching_blocks():
        for place in range(block.size):
            end, at = ends[block.a + place][1], block.b + place
            shown = stays = None
            for change in changes:
                delay = change["audio_seconds"] + change["cpu"] - end
                words = change["text"].split()
                if shown is None and len(words) > at and words[at] == final[at]:
                    shown = delay
                if stays is None and change["committed"] is not None and change["committed"] > at:
                    stays = delay
            assert shown is not None
            delays.append((shown, stays))
    return delays


def spread(delays: Sequence[float]) -> dict[str, float | int] | None:
    """Median and 95 % of delays; None of fewer than two."""
    if len(delays) < 2:
        return None
    cuts = statistics.quantiles(delays, n=20, method="inclusive")
    return {"median_seconds": cuts[9], "p95_seconds": cuts[18], "words": len(delays)}


def table(figures: Mapping[str, Any]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Header and rows; the best of a row is marked with a star. Rows without any figure are left out."""
    looks = [str(ms) for ms in figures["look_aheads_ms"]]
    rows: list[tuple[str, str, Callable[[float], str]]] = [
        ("whole files, real-time factor", "whole/rtf_cpu", _factor),
        *((f"streaming at {ms} ms, real-time factor", f"streaming/{ms}/rtf_cpu", _factor) for ms in looks),
    ]
    for ms in looks:
        shown = f"streaming/{ms}/latency/shown"
        rows.append((f"word shown at {ms} ms, median", f"{shown}/median_seconds", _milliseconds))
        rows.append((f"word shown at {ms} ms, 95 %", f"{shown}/p95_seconds", _milliseconds))
    rows += [
        ("cold start to words", "cold_start/wall_seconds", _seconds),
        ("cold start to words, CPU", "cold_start/cpu_seconds", _seconds),
        ("memory when loaded", "memory/loaded_bytes", _megabytes),
        ("most memory, one stream", "memory/peak_bytes", _megabytes),
        ("memory added by a long stream", "memory/growth_bytes", _megabytes),
        ("streams held on all cores", "streams/on_all_cores", _count),
    ]
    cells = [(title, *_cells(figures["workers"], path, show)) for title, path, show in rows]
    return ("", *figures["workers"]), [row for row in cells if any(cell != "-" for cell in row[1:])]


def _cells(workers: Mapping[str, Any], path: str, show: Callable[[float], str]) -> list[str]:
    """One figure of each system, `-` where there is none. The smallest is best, of streams the largest."""
    values = [_at(worker, path) for worker in workers.values()]
    known = [value for value in values if value is not None]
    best = (max if show is _count else min)(known, default=None)
    return ["-" if value is None else show(value) + ("*" if value == best else "") for value in values]


def _at(figures: Any, path: str) -> float | None:
    for key in path.split("/"):
        if figures is None or key not in figures:
            return None
        figures = figures[key]
    return float(figures)


def _factor(value: float) -> str:
    return f"{value:.4f}"


def _milliseconds(value: float) -> str:
    return f"{1000 * value:.0f} ms"


def _seconds(value: float) -> str:
    return f"{value:.2f} s"


def _megabytes(value: float) -> str:
    return f"{value / 1e6:.1f} MB"


def _count(value: float) -> str:
    return f"{value:.0f}"
