"""The numbers that a recipe's keys take, as types with their limits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated


@dataclass(frozen=True, slots=True)
class Range:
    """The numbers that a key takes."""

    low: float | None = None
    high: float | None = None
    low_is_allowed: bool = True

    def fault(self, number: float) -> str:
        """What is wrong with a number, as the end of a sentence; empty when it is fine."""
        if self.low is not None and number < self.low:
            return f"must be at least {self.low:g}" if self.low_is_allowed else f"must be above {self.low:g}"
        if self.low is not None and number == self.low and not self.low_is_allowed:
            return f"must be above {self.low:g}"
        if self.high is not None and number > self.high:
            return f"must be at most {self.high:g}"
        return ""


PositiveInt = Annotated[int, Range(low=1)]
CountInt = Annotated[int, Range(low=0)]
Positive = Annotated[float, Range(low=0, low_is_allowed=False)]
NotNegative = Annotated[float, Range(low=0)]
Share = Annotated[float, Range(low=0, high=1)]
PositiveShare = Annotated[float, Range(low=0, high=1, low_is_allowed=False)]
Hertz = Annotated[float, Range(low=0, high=8000, low_is_allowed=False)]
Limit = Annotated[int, Range(low=-1)]
"""-1 is no limit, as in Lightning."""
RoomSeconds = Annotated[float, Range(low=0.1, high=2)]
Level = Annotated[float, Range(low=-90, high=0)]
Decibels = Annotated[float, Range(low=-60, high=120)]
