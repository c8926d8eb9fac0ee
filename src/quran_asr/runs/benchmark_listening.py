"""What `benchmark listening` compares, and how its figures are written down."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

PRESETS = {"30M": "small", "114M": "base", "quickstart": "quickstart"}
"""Name -> the recipe whose size is taken, with random weights."""


def table(figures: Mapping[str, Any]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Header and rows; the best of a row is marked with a star. Rows that nobody has are left out."""
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
    cells = [(title, *_cells(figures["sides"], path, show)) for title, path, show in rows]
    return ("", *figures["sides"]), [row for row in cells if any(cell != "-" for cell in row[1:])]


def _cells(sides: Mapping[str, Any], path: str, show: Callable[[float], str]) -> list[str]:
    """One figure of each side, `-` where there is none. The smallest is best, of streams the largest."""
    values = [_at(side, path) for side in sides.values()]
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
