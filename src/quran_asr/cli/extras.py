"""What the core install lacks is said before any work is begun, in one line."""

from __future__ import annotations

from importlib.util import find_spec

from quran_asr.findings import QuranAsrError

NEEDED = {
    "train": ("torch", "lightning", "nemo", "sentencepiece"),
    "plot": ("matplotlib",),
    "speak": ("espeakng_loader",),
    "sweep": ("optuna",),
}
"""Extra -> the packages that show whether it is installed."""


def need(*extras: str) -> None:
    """Refuse a command whose extras are not installed, without importing them.

    Raises:
        QuranAsrError: a package is missing; it says which, and what to install.
    """
    missing = [name for extra in extras for name in NEEDED[extra] if find_spec(name) is None]
    if missing:
        raise QuranAsrError(
            f"this command needs {', '.join(missing)}, which the core install leaves out",
            remedy=f"pip install 'quran-asr[{','.join(extras)}]'",
        )
