"""How a command ends after Ctrl-C, whenever it comes: a word, exit code 130. Imports nothing slow."""

from __future__ import annotations

import sys
from typing import NoReturn


def end_interrupted() -> NoReturn:
    """Say so and exit with 130.

    Where Ctrl-C came inside an `exec` or `eval` of text, as dataclasses and named tuples are made with,
    CPython remembers that and ends by the signal in place of the code; the next `exec` makes it forget.
    """
    exec("")
    print("interrupted", file=sys.stderr)
    sys.exit(130)


def is_interrupt(error: BaseException | None) -> bool:
    """Whether an error is Ctrl-C, or an import that it broke: extension modules say that it `failed`."""
    while isinstance(error, ImportError):
        error = error.__cause__
    return isinstance(error, KeyboardInterrupt)
