"""How fast this processor is just now, for tests with a limit on time."""

from __future__ import annotations

import time

COUNTING_SECONDS = 0.15
"""For three million additions. Most processors take less; a throttled or shared one takes more."""


def allowed(seconds: float) -> float:
    """A limit on processor time; on a processor that is slower than most, as much longer as it is slower."""
    begun = time.process_time()
    total = 0
    for number in range(3_000_000):
        total += number
    return seconds * max(1.0, (time.process_time() - begun) / COUNTING_SECONDS)
