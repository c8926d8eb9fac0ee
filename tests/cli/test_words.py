"""Words as they come: what a terminal, a pipe and a program get to see."""

from __future__ import annotations

import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quran_asr.cli.output import DIM, PLAIN, REWRITE, Json, Lines, Screen, columns
from quran_asr.decoding.partial import StreamingResult
from quran_asr.records import TimedWord


def words(text: str) -> tuple[TimedWord, ...]:
    return tuple(TimedWord(word, 0.5, 1.0, 0.75) for word in text.split())


def result(committed: str = "", partial: str = "", *ends: int) -> StreamingResult:
    return StreamingResult(words(committed), words(partial), ends)


COMING = [
    result("", "قل"),
    result("قل", "هو"),
    result("هو الله أحد", "الله", 3),
    result("الله", "الصمد"),
    result("الصمد", "", 1),
]


def seen(written: str) -> list[str]:
    """What stands on a terminal that knows a line feed and how to begin its line again; dim in marks."""
    lines = [""]
    for part in written.replace(DIM, "‹").replace(PLAIN, "›").split("\n"):
        lines.append(part.rsplit(REWRITE, 1)[-1])
    return lines[1:]


def test_a_pipe_gets_a_line_an_utterance_and_each_word_once_it_is_certain() -> None:
    out = io.StringIO()
    view = Lines(out)
    grown = []
    for one in COMING:
        view.show(one, 1.0)
        grown.append(out.getvalue())
    assert grown == ["", "قل", "قل هو الله أحد\n", "قل هو الله أحد\nالله", "قل هو الله أحد\nالله الصمد\n"]
    view.end()
    assert out.getvalue() == grown[-1]
    view.show(result("كفوا"), 2.0)
    view.end()
    assert out.getvalue().endswith("\nكفوا\n")


@pytest.mark.parametrize(("colour", "marks"), [(True, "‹›"), (False, "[]")])
def test_on_a_terminal_what_may_change_is_distinguished_and_rewritten(colour: bool, marks: str) -> None:
    out = io.StringIO()
    view = Screen(out, 80, colour)
    shown = []
    for one in COMING:
        view.show(one, 1.0)
        shown.append(seen(out.getvalue()))
    begin, end = marks
    assert shown == [
        [f"{begin}قل{end}"],
        [f"قل {begin}هو{end}"],
        ["قل هو الله أحد", f"{begin}الله{end}"],
        ["قل هو الله أحد", f"الله {begin}الصمد{end}"],
        ["قل هو الله أحد", "الله الصمد", ""],
    ]


some_words = st.lists(st.sampled_from("قُلْ هُوَ ٱللَّهُ أَحَدٌ فَسَيَكْفِيكَهُمُ و".split()), max_size=12)


@given(st.lists(st.tuples(some_words, some_words, st.booleans()), max_size=8), st.integers(20, 60))
def test_a_full_line_is_left_so_that_none_is_wider_than_the_terminal(
    steps: list[tuple[list[str], list[str], bool]], width: int
) -> None:
    out = io.StringIO()
    view = Screen(out, width, colour=False)
    for committed, partial, over in steps:
        ends = (len(committed),) if over else ()
        view.show(StreamingResult(words(" ".join(committed)), words(" ".join(partial)), ends), 1.0)
        assert all(columns([line]) < width for line in seen(out.getvalue()))
    view.end()
    assert " ".join(seen(out.getvalue())).split() == [word for step in steps for word in step[0]]


def test_programs_get_a_line_for_each_change_with_times() -> None:
    out = io.StringIO()
    view = Json(out)
    for nth, one in enumerate([result(), COMING[0], COMING[0], *COMING[1:], result()]):
        view.show(one, 0.08 * nth)
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [line["time"] for line in lines] == [0.08, 0.24, 0.32, 0.4, 0.48]
    committed = [word["text"] for line in lines for word in line["committed"]]
    assert committed == "قل هو الله أحد الله الصمد".split()
    assert lines[0]["partial"] == [{"text": "قل", "start": 0.5, "end": 1.0, "confidence": 0.75}]
    assert [line["utterance_ends"] for line in lines] == [[], [], [3], [], [1]]
