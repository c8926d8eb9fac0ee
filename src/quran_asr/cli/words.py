"""Words as they come: on a terminal, on lines, as JSON."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from quran_asr.findings import printable

if TYPE_CHECKING:
    from quran_asr.decode.partial import Moment
    from quran_asr.records import TimedWord

DIM, PLAIN, REWRITE = "\x1b[2m", "\x1b[0m", "\r\x1b[K"


class View(Protocol):
    """Shows a stream to someone."""

    def show(self, moment: Moment, seconds: float) -> None:
        """What came of the sound up to so many seconds."""

    def end(self) -> None:
        """The stream has ended; everything was shown."""


def word_json(word: TimedWord) -> dict[str, Any]:
    """A word with its times in seconds, as every command prints it."""
    return {
        "text": word.text,
        "start": round(word.start, 3),
        "end": round(word.end, 3),
        "confidence": word.confidence,
    }


class Lines:
    """For files and pipes: a line an utterance, each word written when it is certain."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._begun = False

    def show(self, moment: Moment, seconds: float) -> None:
        for words, over in utterances(moment):
            for word in words:
                self._out.write(f"{' ' if self._begun else ''}{printable(word.text)}")
                self._begun = True
            if over:
                self.end()
        self._out.flush()

    def end(self) -> None:
        if self._begun:
            self._out.write("\n")
            self._out.flush()
        self._begun = False


class Screen:
    """For a terminal: certain words plain, those that may change dim, rewritten in place.

    The order of letters is the terminal's: words are written as they follow each other, from right to left
    where it can. A line that is full is left, so that rewriting never reaches over more than one.
    """

    def __init__(self, out: TextIO, width: int, colour: bool) -> None:
        """`width`: columns of the terminal. Without colour, what may change stands in brackets."""
        self._out = out
        self._width = max(20, width) - 1
        self._dim = (DIM, PLAIN) if colour else ("[", "]")
        self._line: list[str] = []

    def show(self, moment: Moment, seconds: float) -> None:
        for words, over in utterances(moment):
            for word in words:
                text = printable(word.text)
                if self._line and columns([*self._line, text]) > self._width:
                    self._leave_line()
                self._line.append(text)
            if over:
                self._leave_line()
        before, after = self._dim
        room = self._width - columns(self._line) - 3
        tentative: list[str] = []
        for word in moment.partial:
            text = printable(word.text)
            if columns([*tentative, text]) > room:
                break
            tentative.append(text)
        shown = [*self._line, before + " ".join(tentative) + after] if tentative else self._line
        self._out.write(REWRITE + " ".join(shown))
        self._out.flush()

    def end(self) -> None:
        self._leave_line()
        self._out.flush()

    def _leave_line(self) -> None:
        self._out.write(REWRITE + "".join(f"{' '.join(self._line)}\n" if self._line else ""))
        self._line = []


class Json:
    """For programs: a line a moment in which something changed."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._partial: list[str] = []

    def show(self, moment: Moment, seconds: float) -> None:
        partial = [word.text for word in moment.partial]
        if not moment.committed and not moment.ends and partial == self._partial:
            return
        self._partial = partial
        line = {
            "time": round(seconds, 3),
            "committed": [word_json(word) for word in moment.committed],
            "partial": [word_json(word) for word in moment.partial],
            "utterance_ends": list(moment.ends),
        }
        self._out.write(printable(json.dumps(line, ensure_ascii=False, allow_nan=False)) + "\n")
        self._out.flush()

    def end(self) -> None:
        pass


def utterances(moment: Moment) -> list[tuple[Sequence[TimedWord], bool]]:
    """The committed words by utterance, and whether it is over."""
    parts: list[tuple[Sequence[TimedWord], bool]] = []
    begin = 0
    for end in moment.ends:
        parts.append((moment.committed[begin:end], True))
        begin = end
    return [*parts, (moment.committed[begin:], False)]


def columns(words: Sequence[str]) -> int:
    """Columns that words with a space between them take; marks above and below letters take none."""
    return sum(unicodedata.category(letter) not in ("Mn", "Me", "Cf") for letter in " ".join(words))
