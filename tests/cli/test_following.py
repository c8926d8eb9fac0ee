"""What `listen --follow` prints of a recitation."""

from __future__ import annotations

import io

from quran_asr.cli.following import FollowLines, FollowScreen, spelt
from quran_asr.runtime.tracking import FinalWord, Position, WordRef, Words


def ref(written: str) -> WordRef:
    return WordRef.parse(written)


def final(word: str, **values: object) -> FinalWord:
    usual = {"text": "", "start": 0.0, "end": 0.5, "confidence": 1.0, "kind": "verse", "entry": "next"}
    return FinalWord(word=ref(word), **{**usual, **values})  # type: ignore[arg-type]


UPDATES = (
    Position(1.0, ref("112:1:1"), (ref("112:1:0"), ref("112:1:1"))),
    Words(4.0, (final("112:1:0"), final("112:1:1"))),
    Position(2.0, ref("112:2:0"), (ref("112:2:0"),)),
    Words(4.0, (final("112:1:3", entry="skip", skipped=(ref("112:1:2"),)), final("112:2:0"))),
    Words(4.0, (final("112:1:0", kind="repeat", entry="back"),)),
)


def test_a_line_is_a_verse_with_its_repeats_and_gaps() -> None:
    out = io.StringIO()
    view = FollowLines(out)
    view.show(UPDATES)
    view.end()
    a, b, c, d = (spelt(ref(f"112:1:{index}")) for index in range(4))
    assert out.getvalue() == f"112:1 {a} {b} [{c}] {d}\n112:2 {spelt(ref('112:2:0'))}\n112:1 ({a})\n"


def test_on_a_terminal_the_current_word_is_lit_below_the_final_ones() -> None:
    out = io.StringIO()
    view = FollowScreen(out, 80, colour=True)
    view.show(UPDATES[:1])
    assert f"\x1b[7m{spelt(ref('112:1:1'))}\x1b[0m" in out.getvalue()
    view.show(UPDATES[1:])
    view.end()
    assert out.getvalue().endswith(f"112:1 ({spelt(ref('112:1:0'))})\n")


def test_without_colour_there_are_no_attributes() -> None:
    out = io.StringIO()
    FollowScreen(out, 80, colour=False).show(UPDATES[:1])
    assert "\x1b[2m" not in out.getvalue() and "\x1b[7m" not in out.getvalue()
