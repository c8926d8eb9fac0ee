"""Shared option types, and the check for packages of an extra."""

from __future__ import annotations

import math
from importlib.util import find_spec
from typing import Any

import click

from quran_asr.errors import QuranAsrError


class FiniteRange(click.FloatRange):
    """A range without NaN and infinities: click accepts them, since no comparison fails."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number", param, ctx)
        return number


NEEDED = {
    "train": ("torch", "lightning", "nemo", "sentencepiece"),
    "plot": ("matplotlib",),
    "speak": ("espeakng_loader",),
    "sweep": ("optuna",),
    "cluster": ("distributed",),
    "serve": ("starlette", "uvicorn", "websockets"),
}
"""Extra -> the packages that show whether it is installed."""


def need(*extras: str) -> None:
    """Refuse a command whose extras are not installed, without importing them.

    Raises:
        QuranAsrError: a package is missing; names it and what to install.
    """
    missing = [name for extra in extras for name in NEEDED[extra] if find_spec(name) is None]
    if missing:
        raise QuranAsrError(
            f"this command needs {', '.join(missing)}, which the core install does not include",
            remedy=f"pip install 'quran-asr[{','.join(extras)}]'",
        )
