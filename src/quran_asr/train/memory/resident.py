"""How much memory work takes on a CPU, as the kernel counts it; torch keeps no such count there.

glibc's malloc keeps what is freed, in pieces that a later tensor may fit into or not: what a process holds
at its height then depends on all that it did before, and differs by a fifth from run to run. While memory is
counted, every large block is a mapping of its own, which goes back when it is freed, and the kernel keeps the
height itself: nothing falls between two looks at it.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
from collections.abc import Iterator
from pathlib import Path

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
"""Parameters of glibc's `mallopt` (man 3 mallopt)."""
_LARGE = 64 * 1024
"""Bytes from which a block is a mapping of its own while memory is counted."""
_USUAL = 32 * 1024 * 1024
"""Where glibc's own threshold ends once blocks of this size have been freed."""


class Peak:
    """The most bytes that this process has held since a moment, above what it held then."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Count from now on."""
        give_back()
        with contextlib.suppress(OSError):  # not allowed: an earlier, greater height counts, too
            _RESET.write_text("5", encoding="ascii")
        self.began = _bytes("VmRSS")

    def __call__(self) -> int:
        """Bytes; 0 where nothing can tell."""
        return max(0, _bytes("VmHWM") - self.began)


@contextlib.contextmanager
def counted() -> Iterator[Peak]:
    """Memory is counted from here on, and exactly so; malloc is slower meanwhile, and as usual afterwards."""
    _tell_malloc({_MMAP_MAX: 1_000_000, _MMAP_THRESHOLD: _LARGE, _TRIM_THRESHOLD: _LARGE})
    try:
        yield Peak()
    finally:
        _tell_malloc({_MMAP_MAX: 65_536, _MMAP_THRESHOLD: _USUAL, _TRIM_THRESHOLD: 2 * _USUAL})


def countable() -> bool:
    """Whether this system tells what a process holds, and lets it start again."""
    try:
        _RESET.write_text("5", encoding="ascii")
    except OSError:
        return False
    return _bytes("VmHWM") > 0


def give_back() -> None:
    """Return to the system what earlier work has freed: it would be taken again, and not be counted."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # glibc's; others keep little
        ctypes.CDLL(None).malloc_trim(0)


def _tell_malloc(settings: dict[int, int]) -> None:
    with contextlib.suppress(OSError, AttributeError):  # musl and macOS have none
        mallopt = ctypes.CDLL(None).mallopt
        for parameter, value in settings.items():
            mallopt(parameter, value)


def _bytes(name: str) -> int:
    try:
        lines = _STATUS.read_text(encoding="ascii").splitlines()
    except OSError:  # no Linux
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:")), 0)
