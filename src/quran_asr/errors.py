"""Findings and the one exception: what is wrong, where, and what to do about it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True, slots=True)
class Finding:
    """Something a person should know about their data, recipe or run."""

    severity: Severity
    """`error` makes a command exit 1; `warning` and `note` do not."""
    code: str
    """Stable kebab-case name for machines, e.g. `random-start`."""
    where: str
    """`file:line`, a dotted recipe key, a clip, or an empty string."""
    message: str
    """One sentence: what is so."""
    remedy: str
    """One sentence or command: what to do. Empty when nothing needs doing."""


def counted(number: int, one: str, many: str = "") -> str:
    """`1 clip`, `2,899 clips`; `many` where it is not the word with an s."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters but for tab and line feed, what turns the direction of text around, and halves of
characters: what a terminal obeys or a stream cannot write."""


def printable(text: str) -> str:
    r"""The text with what a terminal would obey written out, as `\u001b`: in JSON it means the same."""
    return _UNPRINTABLE.sub(lambda found: f"\\u{ord(found.group()):04x}", text)


class QuranAsrError(Exception):
    """Wrong use or wrong input. The command line prints it as one line and exits 2.

    Args:
        what: what is wrong, in one sentence without a full stop.
        where: `file`, `file:line` or a dotted key; empty when there is no place to name.
        remedy: what to do, printed as `hint: ...`; empty when nothing helps.
    """

    def __init__(self, what: str, *, where: str = "", remedy: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.remedy = remedy

    def __str__(self) -> str:
        line = f"{self.where}: {self.what}" if self.where else self.what
        return f"{line}\nhint: {self.remedy}" if self.remedy else line
