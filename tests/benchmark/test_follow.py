"""The figures of `benchmark follow`, on sessions whose truth is written down."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from quran_asr.benchmark.follow import (
    Followed,
    Lit,
    Recitation,
    RecitedWord,
    figures,
    follow_together,
    row,
    serving,
    with_noise,
)
from quran_asr.runtime.bundle import default_model

RECITED = (
    RecitedWord("1:1:0", 0.0, 0.5),
    RecitedWord("1:1:1", 0.5, 1.0),
    RecitedWord("1:2:0", 3.0, 3.5),
    RecitedWord("1:1:0", 10.0, 10.5, repeat=True, planted="repeat"),
    RecitedWord("1:1:1", 10.5, 11.0, repeat=True),
    RecitedWord("1:6:0", 20.0, 20.5, planted="jump"),
    RecitedWord("1:6:1", 20.5, 21.0),
)
RECITATION = Recitation("a", np.full(16_000 * 22, 0.1, np.float32), RECITED)


def word(ref: str, **values: Any) -> dict[str, Any]:
    usual = {"word": ref, "kind": "verse", "skipped": [], "confidence": 0.9, "end": 1.0, "shown": 4.0}
    return {**usual, **values}


def test_a_session_without_fault() -> None:
    lit = tuple(Lit(one.end + 0.25, one.word) for one in RECITED)
    final = tuple(word(one.word, kind="repeat" if one.repeat else "verse") for one in RECITED)
    found = figures(RECITATION, Followed(lit, (), final, 0.1))
    assert (found["words"], found["followed"]) == (7, 7)
    assert found["lag"] == pytest.approx([0.25] * 7)
    assert (found["wrong_highlights"], found["false_marks"]) == (0, 0)
    assert found["repeat_recovery"] == found["jump_recovery"] == [pytest.approx(0.25)]
    assert found["final_lag"] == [3.0] * 7


def test_each_fault_is_counted_once() -> None:
    lit = (Lit(0.6, "1:1:0"), Lit(1.1, "2:255:0"), Lit(5.0, "1:2:0"), Lit(12.0, "1:1:1"), Lit(23.5, "1:6:1"))
    final = (
        word("1:1:0", confidence=0.01),
        word("1:1:1", kind="repeat"),  # one of the planted ones, as far as can be known
        word("1:2:0", kind="repeat"),
        word("1:6:0", skipped=["1:5:0"]),
    )
    found = figures(RECITATION, Followed(lit, (), final, 0.1))
    assert found["wrong_highlights"] == 2  # another verse, and the last word three seconds too late
    assert found["followed"] == 4
    assert found["lag"] == pytest.approx([0.1, 1.0, 1.5, 1.5])
    assert found["false_marks"] == 3
    assert found["repeat_recovery"] == [1.5]
    assert found["jump_recovery"] == [float("inf")]
    assert row([found], "all")[-1] == "not"


def test_a_word_is_lit_by_the_one_after_it_too() -> None:
    found = figures(RECITATION, Followed((Lit(1.0, "1:1:1"),), (), (), 0.0))
    assert found["followed"] == 2


def test_a_word_is_followed_where_it_is_marked_as_recited() -> None:
    marked = (Lit(1.4, "1:1:0"), Lit(1.4, "1:1:1"), Lit(9.0, "1:2:0"))
    found = figures(RECITATION, Followed((), marked, (), 0.0))
    assert found["followed"] == 2  # and one of them too late
    assert found["wrong_highlights"] == 0


def test_noise_has_the_asked_level() -> None:
    rng = np.random.default_rng(1)
    clean = Recitation("a", rng.normal(0, 0.05, 160_000).astype(np.float32), ())
    added = with_noise(clean, 10).samples - clean.samples
    assert 10 * np.log10(np.mean(clean.samples**2) / np.mean(added**2)) == pytest.approx(10, abs=0.1)


@pytest.mark.slow
def test_sessions_at_once_on_a_real_server() -> None:
    """Noise, in which no word is found: what counts here is that all of it is processed, and its cost."""
    pytest.importorskip("uvicorn", reason="needs the extra `serve`")
    noise = np.random.default_rng(2).normal(0, 0.02, 16_000 * 3).astype(np.float32)
    with serving(default_model()) as server:
        before = server.processor_seconds
        load = follow_together(server, Recitation("noise", noise, ()), 2)
        taken = server.processor_seconds - before
    assert len(load.sessions) == 2
    assert all(session.flag_below == 0.01 for session in load.sessions)
    assert 0 < load.processor_share * 2 * 3 < taken + 0.005  # processor time is counted in steps of 10 ms
