"""Options and option types that commands share, and the check for packages of an extra."""

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
    "serve": ("starlette", "uvicorn", "websockets"),
    "parquet": ("pyarrow",),
    "cluster": ("distributed",),
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


def _with_packages(ctx: click.Context, param: click.Parameter, address: str | None) -> str | None:
    if address is not None:
        need("cluster")
    return address


cluster_option = click.option(
    "--cluster",
    metavar="ADDRESS",
    callback=_with_packages,
    help="Work on the Dask cluster with this scheduler, for example tcp://node1:8786.",
)
jobs_option = click.option(
    "--jobs", type=click.IntRange(1, 1024), metavar="N", help="Processes. Default: one for each core."
)
