"""Keep freed memory: what a training step frees, the next step needs again."""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
"""Parameters of glibc's `mallopt` (man 3 mallopt)."""


def keep_freed_memory() -> bool:
    """Tell glibc's malloc to give nothing back to the system while this process trains on a CPU.

    By default every tensor of some megabytes is mapped anew, and the system clears its pages at first touch:
    a quarter of a step's time with small models. Values do not change, and the height of what the process
    holds hardly does.

    Returns:
        Whether it could be told: False where there is no glibc, which changes nothing else.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # musl has none
        return False
    return bool(mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))
