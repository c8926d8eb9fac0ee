"""What is shown of a recitation: the right words, in time, and nothing final ever changes."""

from __future__ import annotations

import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from quran_asr.errors import QuranAsrError
from quran_asr.runtime.tracking import (
    FinalWord,
    Position,
    Text,
    Update,
    WordRef,
    Words,
    build_text,
    finish_tracking,
    start_tracking,
    track,
)

sys.path.insert(0, str(Path(__file__).parents[1] / "decoding"))
from spoken import FRAME, TOKENIZER, Speech, verse

CHUNK = 7
"""Frames, as with a look-ahead of 480 ms."""


@pytest.fixture(scope="module")
def text() -> Text:
    return build_text(TOKENIZER, "letters")


def tracked(text: Text, speech: Speech, at: str = "", chunk: int = CHUNK) -> list[Update]:
    state = start_tracking(text, WordRef.parse(at) if at else None)
    messages: list[Update] = []
    log_probs = speech.log_probs()
    for begin in range(0, len(log_probs), chunk):
        state, new = track(text, state, log_probs[begin : begin + chunk], FRAME)
        messages += new
    return [*messages, *finish_tracking(text, state, FRAME)]


def final(messages: list[Update]) -> list[FinalWord]:
    return [word for message in messages if isinstance(message, Words) for word in message.words]


def refs(place: str) -> list[str]:
    return [f"{place}:{index}" for index in range(len(verse(place)))]


@pytest.mark.slow
def test_all_words_become_final_in_order(text: Text) -> None:
    messages = tracked(text, Speech().say(verse("112:1") + verse("112:2") + verse("112:3")))
    assert [str(word.word) for word in final(messages)] == refs("112:1") + refs("112:2") + refs("112:3")
    assert {word.entry for word in final(messages)[1:]} == {"next"}


def test_words_of_the_simple_edition_become_words_of_the_mushaf(text: Text) -> None:
    """يا أيها is one word of the mushaf."""
    words = final(tracked(text, Speech().say(verse("109:1") + verse("109:2") + verse("109:3"))))
    assert [str(word.word) for word in words[:4]] == ["109:1:0", "109:1:1", "109:1:2", "109:2:0"]
    assert words[1].text == "يا أيها"
    assert words[0].end <= words[1].start < words[1].end <= words[2].start


def test_the_current_word_is_the_one_being_recited(text: Text) -> None:
    words = verse("36:1")[1:] + verse("36:2") + verse("36:3") + verse("36:4") + verse("36:5")
    speech = Speech().say(words)
    messages = tracked(text, speech, at="36:2")
    shown = [m for m in messages if isinstance(m, Position) and m.word is not None]
    expected = [*refs("36:2"), *refs("36:3"), *refs("36:4"), *refs("36:5")]
    for message in shown:
        latest = sum(start <= message.time for start in speech.starts) - 1
        assert str(message.word) in expected[max(0, latest - 1) : latest + 1], message
    assert len({message.word for message in shown}) > len(expected) // 2


@pytest.mark.slow
def test_nothing_is_shown_of_two_words(text: Text) -> None:
    messages = tracked(text, Speech().babble(4).say(verse("2:255")[:2]).babble(4))
    assert not [m for m in messages if isinstance(m, Position) and m.word is not None]


@pytest.mark.slow
def test_a_repeat_and_a_skip_are_reported(text: Text) -> None:
    words = verse("2:255")
    recited = words[:10] + words[6:14] + words[16:40]
    found = final(tracked(text, Speech().say(recited)))
    back = [word for word in found if word.entry == "back"]
    skip = [word for word in found if word.entry == "skip"]
    assert [str(word.word) for word in back] == ["2:255:6"]
    assert [word.kind for word in found].count("repeat") == 4
    assert [[str(ref) for ref in word.skipped] for word in skip] == [["2:255:14", "2:255:15"]]


@pytest.mark.slow
def test_a_jump_is_followed(text: Text) -> None:
    speech = Speech().say(verse("2:255")).say(verse("36:12"))
    found = [str(word.word) for word in final(tracked(text, speech))]
    assert found == refs("2:255") + refs("36:12")


@pytest.mark.slow
def test_of_two_places_with_the_same_wording_the_nearer_one_is_shown(text: Text) -> None:
    """85:17 and 88:1 begin with the same three words."""
    speech = Speech()
    for ayah in range(4, 15):
        speech.say(verse(f"85:{ayah}"))
    before = len(speech.log_probs()) * FRAME
    messages = tracked(text, speech.say(verse("85:17")).say(verse("85:18")))
    shown = [m for m in messages if isinstance(m, Position) and m.word is not None and m.time > before]
    assert {message.word.verse.surah for message in shown} == {85}
    early = [m for m in shown if str(m.word.verse) == "85:17"]
    assert early[0].time < speech.starts[-len(verse("85:18")) - 1] + 0.6  # its last word tells them apart


@pytest.mark.slow
def test_chunks_change_no_final_word(text: Text) -> None:
    speech = Speech(noise=1.5).say(verse("18:10")).pause(2).say(verse("18:11")).say(verse("18:10"))
    once = final(tracked(text, speech, chunk=10_000))
    assert once
    for chunk in (1, 7, 50):
        assert final(tracked(text, speech, chunk=chunk)) == once


@pytest.mark.slow
def test_final_words_are_given_out_once_and_in_time_order(text: Text) -> None:
    speech = Speech().say(verse("67:1")).say(verse("67:2")).babble(3).say(verse("67:3"))
    found = final(tracked(text, speech))
    assert all(one.end <= other.start + 1e-6 for one, other in pairwise(found))


def test_a_word_that_does_not_exist_is_refused(text: Text) -> None:
    with pytest.raises(QuranAsrError, match="no word 1:1:9"):
        start_tracking(text, WordRef.parse("1:1:9"))


def test_no_scores_bring_nothing(text: Text) -> None:
    state = start_tracking(text)
    assert track(text, state, np.zeros((0, 3), np.float32), FRAME) == (state, ())


def test_the_last_word_is_final_while_the_reciter_pauses(text: Text) -> None:
    words = [word for ayah in range(1, 4) for word in verse(f"67:{ayah}")]
    speech = Speech(sharpness=9.0).say(words)
    ended = len(speech.log_probs())
    log_probs = speech.pause(4).log_probs()
    state, found = start_tracking(text, WordRef.parse("67:1")), []
    for begin in range(0, ended + round(2.5 / FRAME), CHUNK):
        state, updates = track(text, state, log_probs[begin : begin + CHUNK], FRAME)
        found += final(list(updates))
    assert [str(word.word) for word in found] == refs("67:1") + refs("67:2") + refs("67:3")
    assert str(state.position[0]) == refs("67:3")[-1], "it stays the current one"
    assert finish_tracking(text, state, FRAME) == ()


@pytest.mark.slow
def test_final_words_come_four_seconds_after_their_end(text: Text) -> None:
    state, lags = start_tracking(text), []
    log_probs = Speech().say([word for ayah in range(1, 8) for word in verse(f"67:{ayah}")]).log_probs()
    for begin in range(0, len(log_probs), CHUNK):
        state, updates = track(text, state, log_probs[begin : begin + CHUNK], FRAME)
        now = (begin + CHUNK) * FRAME
        lags += [now - word.end for word in final(list(updates))]
        times = [update.time for update in updates if isinstance(update, Words)]
        assert times == pytest.approx([min(now, len(log_probs) * FRAME)] * len(times))
    assert len(lags) > 50
    assert np.median(lags[10:]) < 4.2
    assert max(lags[10:]) < 8
