"""How delays of words are counted, and what the table of `benchmark runtime` shows."""

from __future__ import annotations

from typing import Any

from quran_asr.benchmark.runtime_tables import spread, table, word_delays


def change(audio_seconds: float, text: str, committed: int | None = None) -> dict[str, Any]:
    return {"audio_seconds": audio_seconds, "cpu": 0.01, "text": text, "committed": committed}


def test_a_word_counts_from_when_it_stands_as_it_does_in_the_end() -> None:
    ends = [("قل", 0.4), ("هو", 0.9), ("الله", 1.5)]
    changes = [
        change(0.5, "قل", 0),
        change(1.0, "قل ه", 1),
        change(1.2, "قل هو", 1),
        change(2.0, "قل هو الله", 3),
    ]
    (first, second, third) = word_delays(ends, changes)
    assert [round(value, 6) for value in (*first, *second, *third) if value is not None] == [
        0.11,  # shown with 0.5 s of sound, 0.01 s of computing, 0.1 s after its end
        0.61,  # certain when the next began
        0.31,  # `ه` was not yet the word
        1.11,
        0.51,
        0.51,
    ]


def test_words_that_a_system_recognizes_otherwise_are_left_out() -> None:
    ends = [("قل", 0.4), ("هو", 0.9), ("الله", 1.5)]
    delays = word_delays(ends, [change(2.0, "هو الله")])
    assert [(round(shown, 6), stays) for shown, stays in delays] == [(1.11, None), (0.51, None)]
    assert word_delays(ends, []) == []
    assert spread([1.0]) is None


def test_the_table_marks_the_best_and_leaves_out_what_nobody_has() -> None:
    def side(factor: float, streams: int) -> dict[str, Any]:
        return {
            "whole": {"rtf_cpu": factor},
            "streaming": {"480": {"rtf_cpu": 2 * factor}},
            "cold_start": {"wall_seconds": 1.0, "cpu_seconds": 0.5},
            "memory": {"loaded_bytes": 1e6, "peak_bytes": 2e6},
            "streams": {"on_all_cores": streams},
        }

    header, rows = table(
        {"look_aheads_ms": [480], "workers": {"ours": side(0.01, 40), "nemo": side(0.02, 8)}}
    )
    assert header == ("", "ours", "nemo")
    shown = {row[0]: row[1:] for row in rows}
    assert shown["streaming at 480 ms, real-time factor"] == ("0.0200*", "0.0400")
    assert shown["streams held on all cores"] == ("40*", "8")
    assert not any("word shown" in title or "long stream" in title for title in shown)
