"""What `listen --follow` prints: the Uthmani words of each verse, while they are recited."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, TextIO

from quran_asr.cli.output import columns
from quran_asr.errors import printable

if TYPE_CHECKING:
    from quran_asr.records import VerseRef
    from quran_asr.runtime.tracking import FinalWord, Position, Update, WordRef

DIM, LIT, PLAIN = "\x1b[2m", "\x1b[7m", "\x1b[0m"
CLEAR_LINE = "\r\x1b[K"


class FollowJson:
    """For programs: each message of docs/reference/protocol.md on a line."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def show(self, updates: Sequence[Update]) -> None:
        from quran_asr.server.protocol import plain

        for update in updates:
            line = json.dumps(plain(update), ensure_ascii=False)
            self._out.write(printable(line) + "\n")
        self._out.flush()

    def end(self) -> None:
        pass


class FollowLines:
    """For pipes: a line for each verse, its words when they are final."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._verse: VerseRef | None = None

    def show(self, updates: Sequence[Update]) -> None:
        from quran_asr.runtime.tracking import Words

        for update in updates:
            if isinstance(update, Words):
                for word in update.words:
                    self._add(word)
        self._out.flush()

    def end(self) -> None:
        if self._verse is not None:
            self._out.write("\n")
        self._out.flush()

    def _add(self, word: FinalWord) -> None:
        if word.word is None:
            return
        left_out = "".join(f"[{spelt(ref)}] " for ref in word.skipped)
        text = f"({spelt(word.word)})" if word.kind == "repeat" else spelt(word.word)
        if word.word.verse != self._verse or word.entry in ("back", "jump"):
            self._out.write(f"{'' if self._verse is None else chr(10)}{word.word.verse} ")
            self._verse = word.word.verse
        else:
            self._out.write(" ")
        self._out.write(printable(left_out + text))


class FollowScreen(FollowLines):
    """For terminals: below the final words, on a line of their own, those that may still change."""

    def __init__(self, out: TextIO, width: int, colour: bool) -> None:
        super().__init__(out)
        self._width, self._colour = width, colour
        self._drawn = False
        self._line = ""
        """What is final of the verse; it is written again whenever a word comes."""

    def show(self, updates: Sequence[Update]) -> None:
        from quran_asr.runtime.tracking import Words

        for update in updates:
            if isinstance(update, Words):
                for word in update.words:
                    self._add(word)
            else:
                self._draw(update)
        self._out.flush()

    def end(self) -> None:
        if self._drawn:
            self._out.write(CLEAR_LINE)
            self._drawn = False
        super().end()

    def _add(self, word: FinalWord) -> None:
        if self._drawn:  # back to the end of the final words, one line up
            self._out.write(f"{CLEAR_LINE}\x1b[A{CLEAR_LINE}{self._line}")
            self._drawn = False
        before = self._verse
        super()._add(word)
        if word.word is None:
            return
        text = f"({spelt(word.word)})" if word.kind == "repeat" else spelt(word.word)
        new = before != self._verse or word.entry in ("back", "jump")
        self._line = f"{word.word.verse} {text}" if new else f"{self._line} {text}"
        if columns([self._line]) > self._width - 20:
            self._out.write("\n")
            self._line = ""

    def _draw(self, position: Position) -> None:
        self._out.write(CLEAR_LINE if self._drawn else "\n")
        self._drawn = True
        place = "…" if position.word is None else str(position.word.verse)
        shown = [place, *(spelt(ref) for ref in position.pending)]
        while len(shown) > 2 and columns(shown) > self._width - 2:
            del shown[1]
        text = printable(" ".join(shown))
        if not self._colour:
            self._out.write(text)
        elif position.word is not None and len(shown) > 1:
            before, current = printable(" ".join(shown[:-1])), printable(shown[-1])
            self._out.write(f"{DIM}{before}{PLAIN} {LIT}{current}{PLAIN}")
        else:
            self._out.write(f"{DIM}{text}{PLAIN}")


def spelt(ref: WordRef) -> str:
    """The Uthmani word."""
    from quran_asr.text.quran import load_quran

    return load_quran("uthmani").verse(ref.verse).split()[ref.index]
