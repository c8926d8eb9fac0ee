"""What a search finds in recordings whose truth is known exactly."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from quran_asr.decoding.follow import finish_following, follow, start_following
from quran_asr.decoding.graph import Graph, Kind, build_graph
from quran_asr.decoding.identify import identify
from quran_asr.decoding.path import Alignment, Clock, align_path
from quran_asr.decoding.path_ends import best_total, finish
from quran_asr.decoding.search import advance
from quran_asr.decoding.search_state import start
from quran_asr.decoding.tokenization import Tokenizer
from quran_asr.decoding.visits import Visit
from quran_asr.decoding.vocabulary import Vocabulary
from quran_asr.errors import QuranAsrError
from quran_asr.records import Emissions, VerseRef
from quran_asr.text.passages import parse_range

sys.path.insert(0, str(Path(__file__).parent))
from spoken import FRAME, QURAN, TOKENIZER, Speech, formula, verse


@pytest.fixture(scope="module")
def last_part() -> Graph:
    """Surahs 78 to 114."""
    return build_graph(QURAN, TOKENIZER, [ref for ref in QURAN.refs if ref.surah >= 78])


def aligned(graph: Graph, speech: Speech) -> Alignment:
    state, visits = advance(graph, start(graph), speech.log_probs())
    return align_path(graph, visits + finish(graph, state), Clock(FRAME))


def shown(alignment: Alignment) -> list[str]:
    """Each segment as `kind verse:words entry`, words counted from 1."""
    lines = []
    for segment in alignment.segments:
        verses = ",".join(map(str, segment.verses))
        words = f"{segment.words[0].index + 1}-{segment.words[-1].index + 1}"
        lines.append(f"{segment.kind} {verses} {words} {segment.entry}".replace("  ", " "))
    return lines


def test_words_have_the_times_at_which_they_were_said(last_part: Graph) -> None:
    speech = Speech().pause(1).say(verse("93:1")).pause(2).say(verse("93:2")).say(verse("93:3")).pause(1)
    alignment = aligned(last_part, speech)
    assert shown(alignment) == ["verse 93:1 1-1 start", "verse 93:2 1-3 next", "verse 93:3 1-5 next"]
    found = [word.start for segment in alignment.segments for word in segment.words]
    assert found == pytest.approx(speech.starts, abs=FRAME)
    assert alignment.unaligned == ()


def test_a_first_letter_far_before_its_word_is_not_the_start_of_the_word(last_part: Graph) -> None:
    """The search takes it from speech before the word that is hardly recognized."""
    word = next(w for w in range(last_part.words) if str(last_part.refs[last_part.verse[w]]) == "97:1")
    spelt = len(last_part.spelt(word))
    for apart in (5, 40):
        later = tuple((10 + apart + 2 * n, 11 + apart + 2 * n) for n in range(spelt - 2))
        visit = Visit(word, 0, 100, tokens=((2, 3), (9, 10), *later))
        (segment,) = align_path(last_part, [visit], Clock(FRAME)).segments
        assert segment.start == pytest.approx((9 if apart == 5 else later[0][0]) * FRAME)


def test_formulas_around_surahs(last_part: Graph) -> None:
    speech = Speech().say(formula(Kind.ISTIADHA)).pause(0.5).say(formula(Kind.BASMALA)).pause(0.5)
    for number in range(1, 6):
        speech.say(verse(f"113:{number}")).pause(0.4)
    speech.say(formula(Kind.BASMALA)).pause(0.3).say(verse("114:1")).say(formula(Kind.SADAQA))
    assert shown(aligned(last_part, speech)) == [
        "istiadha 1-5 next",
        "basmala 1-4 next",
        "verse 113:1 1-4 start",
        *(f"verse 113:{n} 1-{len(verse(f'113:{n}'))} next" for n in range(2, 6)),
        "basmala 1-4 next",
        "verse 114:1 1-4 next",
        "sadaqa 1-3 next",
    ]


def test_amin_after_the_fatiha() -> None:
    graph = build_graph(QURAN, TOKENIZER, parse_range("1"))
    speech = Speech().say(verse("1:7")).pause(0.3).say(formula(Kind.AMIN))
    assert shown(aligned(graph, speech)) == ["verse 1:7 1-9 start", "amin 1-1 next"]


def test_a_repeat_a_skip_and_a_jump(last_part: Graph) -> None:
    words = verse("98:5")
    speech = Speech().say(words[:11]).pause(0.6).say(words[7:]).say(verse("98:6")[:4]).say(verse("98:6")[6:])
    speech.pause(0.5).say(verse("81:15")).say(verse("81:16"))
    assert shown(aligned(last_part, speech)) == [
        "verse 98:5 1-11 start",
        "repeat 98:5 8-11 back",
        f"verse 98:5 12-{len(words)} next",
        "verse 98:6 1-4 next",
        f"verse 98:6 7-{len(verse('98:6'))} skip",
        "verse 81:15 1-3 jump",
        "verse 81:16 1-2 next",
    ]


def test_a_verse_said_three_times(last_part: Graph) -> None:
    speech = Speech().say(verse("97:3"))
    for _ in range(3):
        speech.say(verse("97:4")).pause(0.5)
    speech.say(verse("97:5"))
    assert shown(aligned(last_part, speech)) == [
        "verse 97:3 1-6 start",
        "verse 97:4 1-9 next",
        "repeat 97:4 1-9 back",
        "repeat 97:4 1-9 back",
        "verse 97:5 1-5 next",
    ]


def test_an_earlier_verse_that_comes_for_the_first_time_is_no_repeat(last_part: Graph) -> None:
    speech = Speech()
    for place in ("106:4", "106:2", "106:2", "106:3"):
        speech.say(verse(place)).pause(0.5)
    kinds = [line.rpartition(" ")[0] for line in shown(aligned(last_part, speech))]
    lengths = {place: len(verse(f"106:{place}")) for place in (2, 3, 4)}
    assert kinds == [
        f"verse 106:4 1-{lengths[4]}",
        f"verse 106:2 1-{lengths[2]}",
        f"repeat 106:2 1-{lengths[2]}",
        f"verse 106:3 1-{lengths[3]}",
    ]


def test_a_skipped_verse_that_comes_later_is_no_repeat(last_part: Graph) -> None:
    speech = Speech()
    for place in ("106:1", "106:3", "106:4", "106:2", "106:2", "106:3"):
        speech.say(verse(place)).pause(0.5)
    kinds = [line.split()[:2] for line in shown(aligned(last_part, speech))]
    assert kinds == [
        ["verse", "106:1"],
        ["verse", "106:3"],
        ["verse", "106:4"],
        ["verse", "106:2"],
        ["repeat", "106:2"],
        ["repeat", "106:3"],
    ]


def test_words_that_were_forced_on_other_speech_take_no_others_along(last_part: Graph) -> None:
    """Nothing but the entry `back` stands between them and verses that are recited well."""
    places = [str(last_part.refs[verse]) for verse in last_part.verse]

    def visits(place: str, loss: float) -> list[Visit]:
        words = [w for w, ref in enumerate(places) if ref == place and last_part.kind[w] == Kind.VERSE]
        _, once = np.unique(last_part.index[words], return_index=True)
        made = []
        for word in (words[nth] for nth in once):
            begin = next(frames)
            spelt = len(last_part.spelt(word))
            tokens = tuple((begin + 2 * n, begin + 2 * n + 1) for n in range(spelt))
            made.append(Visit(word, begin, begin + 90, tokens=tokens, loss=loss * spelt))
        return made

    frames = iter(range(0, 10_000, 100))
    well, badly = 0.1, last_part.costs.garbage_token + 5
    path = visits("107:3", badly) + visits("107:3", well) + visits("107:4", well)
    alignment = align_path(last_part, path, Clock(FRAME))
    assert shown(alignment) == ["verse 107:3 1-5 start", "verse 107:4 1-2 next"]
    assert alignment.unaligned[-1].end <= alignment.segments[0].start


@pytest.mark.parametrize("gain, kept", [(4.0, ()), (7.0, ("112",)), (9.0, ("112", "78-114"))])
def test_a_word_alone_must_fit_better_the_longer_the_text(
    gain: float, kept: tuple[str, ...], last_part: Graph
) -> None:
    """By chance some word fits any speech, and more do among 2,300 words than among 15."""
    found = []
    for name, graph in (("112", build_graph(QURAN, TOKENIZER, parse_range("112"))), ("78-114", last_part)):
        at = graph.refs.index(VerseRef(112, 1))
        word = int(np.flatnonzero((graph.verse == at) & (graph.kind == Kind.VERSE))[0])
        spelt = len(graph.spelt(word))
        tokens = tuple((2 * n, 2 * n + 1) for n in range(spelt))
        loss = graph.costs.garbage_token * spelt - gain
        alignment = align_path(graph, [Visit(word, 0, 90, tokens=tokens, loss=loss)], Clock(FRAME))
        assert len(alignment.segments) + len(alignment.unaligned) == 1
        found += [name] if alignment.segments else []
    assert tuple(found) == kept


def test_a_repeated_verse_is_not_taken_for_the_next_one_that_begins_alike(last_part: Graph) -> None:
    assert verse("98:4")[0] == verse("98:5")[0] and verse("98:6")[:2] == verse("98:7")[:2]
    speech = Speech()
    for place in ("98:4", "98:4", "98:5", "98:6", "98:6", "98:7"):
        speech.say(verse(place)).pause(0.5)
    assert shown(aligned(last_part, speech)) == [
        "verse 98:4 1-11 start",
        "repeat 98:4 1-11 back",
        *(f"{kind} 1-{len(verse(kind.split()[1]))} next" for kind in ("verse 98:5", "verse 98:6")),
        f"repeat 98:6 1-{len(verse('98:6'))} back",
        f"verse 98:7 1-{len(verse('98:7'))} next",
    ]


def test_other_speech_in_a_verse_is_left_out(last_part: Graph) -> None:
    words = verse("98:8")
    speech = Speech().say(words[:10]).babble(6).say(words[10:]).pause(0.5).say(verse("99:1"))
    alignment = aligned(last_part, speech)
    assert shown(alignment) == [f"verse 98:8 1-{len(words)} start", f"verse 99:1 1-{len(verse('99:1'))} next"]
    (other,) = alignment.unaligned
    assert (other.start, other.end) == pytest.approx((speech.starts[10] - 6, speech.starts[10]), abs=0.5)


def test_letters_at_the_beginning_of_a_surah_are_recited_one_by_one() -> None:
    graph = build_graph(QURAN, TOKENIZER, parse_range("19:1-4"))
    names = "كاف ها يا عين صاد".split()
    for said in (names, verse("19:1")):
        speech = Speech().say(formula(Kind.BASMALA)).say(said).pause(0.5).say(verse("19:2"))
        alignment = aligned(graph, speech)
        assert shown(alignment) == ["basmala 1-4 next", "verse 19:1 1-1 start", "verse 19:2 1-5 next"]
        assert [word.text for word in alignment.segments[1].words] == verse("19:1")


@pytest.mark.slow
def test_following_in_a_window_finds_what_the_whole_search_finds(last_part: Graph) -> None:
    """Long enough to be narrowed, with a repeat, a jump far away and other speech."""
    speech = Speech(sharpness=5.0, noise=1.5, seed=3)
    for number in range(1, 12):
        speech.say(verse(f"79:{number}")).pause(0.5)
    speech.say(verse("79:11")).pause(1)
    for number in range(4, 20):
        speech.say(verse(f"92:{number}")).pause(0.3)
    speech.babble(8)
    for number in range(1, 9):
        speech.say(verse(f"110:{number}") if number < 4 else verse(f"91:{number}"))
    log_probs = speech.log_probs()

    state, committed = advance(last_part, start(last_part), log_probs)
    whole = committed + finish(last_part, state)
    for cuts in ([], list(range(7, len(log_probs), 7))):
        following, widths = start_following(last_part), set()
        path: tuple[Visit, ...] = ()
        for frames in np.split(log_probs, cuts):
            following, visits = follow(last_part, following, frames)
            widths.add(following.latest.high - following.latest.low)
            path += visits
        _, rest = finish_following(last_part, following)
        assert [(v.word, v.tokens) for v in path + rest] == [(v.word, v.tokens) for v in whole]
    assert min(widths) < 1000 < max(widths)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [4, 5])
def test_a_jump_at_the_edge_of_an_interval(last_part: Graph, seed: int) -> None:
    """Only which of two basmalas is meant may be lost in a window."""
    speech = Speech(sharpness=4.5, noise=1.6, seed=seed)
    for number in range(1, 12):
        speech.say(verse(f"79:{number}")).pause(0.3)
    speech.pause(0.4 * seed).say(formula(Kind.BASMALA)).say(verse("95:1")).say(verse("95:2"))
    for number in range(1, 9):
        speech.say(verse(f"88:{number}"))
    log_probs = speech.log_probs()
    state, _ = advance(last_part, start(last_part), log_probs)
    following, _ = follow(last_part, start_following(last_part), log_probs)
    last, _ = finish_following(last_part, following)
    costs = last_part.costs
    lost = best_total(state) - best_total(last)
    assert 0 <= lost <= costs.enter_formula + costs.leave_formula


def test_verses_of_equal_wording_are_named_together(last_part: Graph) -> None:
    speech = Speech().pause(0.5).say(verse("109:3")).pause(0.5)
    found = identify(last_part, Emissions(speech.log_probs(), FRAME))
    places = {found.verses, *(place.verses for place in found.equal)}
    assert places == {(VerseRef(109, 3),), (VerseRef(109, 5),)}
    assert found.margin > 5


def test_a_place_is_not_named_again_with_a_verse_that_fits_by_chance(last_part: Graph) -> None:
    """Other speech behind the recitation fits 109:3 a little, and so 109:5, which has the same words."""
    like_a_verse = Speech(sharpness=3, seed=1).say(verse("109:3")).log_probs()
    speech = Speech().say(verse("98:7")).pause(0.5).log_probs()
    found = identify(last_part, Emissions(np.concatenate([speech, like_a_verse]), FRAME))
    assert found.verses == (VerseRef(98, 7),)
    assert found.equal == ()


def test_context_decides_between_verses_of_equal_wording(last_part: Graph) -> None:
    speech = Speech().say(verse("109:4")).say(verse("109:5"))
    found = identify(last_part, Emissions(speech.log_probs(), FRAME))
    assert found.verses == (VerseRef(109, 4), VerseRef(109, 5))
    assert found.equal == ()
    assert (found.first_word, found.last_word) == (0, len(verse("109:5")) - 1)


def test_places_of_other_wording_are_alternatives(last_part: Graph) -> None:
    """Two verses that differ in one letter, of which the model cannot say whether it was recited."""
    with_letter = Speech().pause(1).say(verse("94:5")).log_probs()
    without = Speech().pause(1.08).say(verse("94:6")).log_probs()
    share = 0.02
    log_probs = np.logaddexp(with_letter + np.log(share), without + np.log(1 - share))
    found = identify(last_part, Emissions(log_probs, FRAME))
    assert found.equal == ()
    assert {found.verses, found.alternatives[0].verses} == {(VerseRef(94, 5),), (VerseRef(94, 6),)}
    assert found.margin < 0.5


def test_part_of_a_verse(last_part: Graph) -> None:
    speech = Speech().say(verse("98:6")[3:9])
    found = identify(last_part, Emissions(speech.log_probs(), FRAME))
    assert (found.verses, found.first_word, found.last_word) == ((VerseRef(98, 6),), 3, 8)


@pytest.mark.parametrize("speech", [Speech().pause(5), Speech().babble(5), Speech().babble(20)])
def test_nothing_is_found_where_no_quran_is(last_part: Graph, speech: Speech) -> None:
    found = identify(last_part, Emissions(speech.log_probs(), FRAME))
    assert found.verses == ()


@pytest.mark.parametrize("seed", range(3))
def test_a_verse_is_found_where_the_model_emits_blanks_nearly_everywhere(last_part: Graph, seed: int) -> None:
    scores = Speech(seed=seed).pause(0.5).say(verse("98:7")).pause(0.5).log_probs()
    scores[:, -1] += 6
    scores -= np.logaddexp.reduce(scores, axis=1, keepdims=True)
    assert identify(last_part, Emissions(scores, FRAME)).verses == (VerseRef(98, 7),)


@pytest.mark.slow
def test_a_short_first_verse_that_is_poorly_recognized_is_named() -> None:
    """Its one word hardly gains on other speech, but hardly any other word fits in its place."""
    graph = build_graph(QURAN, TOKENIZER, [ref for ref in QURAN.refs if ref.surah >= 40])
    spelled, named = "حا ميم".split(), parse_range("44:1-5")
    for seed in range(2):
        first = Speech(sharpness=3.4, seed=seed).say(spelled).log_probs()
        rest = Speech(seed=seed).pause(0.5)
        for ref in named[1:]:
            rest.say(verse(str(ref))).pause(0.5)
        found = identify(graph, Emissions(np.concatenate([first, rest.log_probs()]), FRAME))
        assert found.verses == named


@pytest.mark.slow
def test_other_speech_beside_a_verse_is_no_other_verse(last_part: Graph) -> None:
    """The model is unsure, so that other places and the next verse fit the other speech a little."""
    found = []
    for seed in range(4):
        speech = Speech(sharpness=3, seed=seed).babble(8).say(verse("98:7")).babble(8)
        found.append(identify(last_part, Emissions(speech.log_probs(), FRAME)).verses)
    assert {str(ref) for verses in found for ref in verses} <= {"98:6", "98:7", "98:8"}
    assert found.count((VerseRef(98, 7),)) >= 3


@pytest.mark.slow
def test_what_is_kept_does_not_grow_with_the_recording() -> None:
    graph = build_graph(QURAN, TOKENIZER, parse_range("112"))
    speech = Speech(sharpness=4.0, noise=1.5)
    for number in range(1, 5):
        speech.say(verse(f"112:{number}")).pause(0.4)
    once = speech.babble(3).log_probs()
    state = start(graph)
    sizes = []
    for _ in range(40):
        state, _ = advance(graph, state, once)
        sizes.append((len(state.records.frame), len(state.emissions), len(state.non_blank)))
    assert max(sizes[20:]) <= max(sizes[:20])
    assert state.frame == 40 * len(once)


def test_a_vocabulary_that_cannot_spell_the_quran_and_a_graph_without_verses_are_refused() -> None:
    few = Tokenizer(Vocabulary(("\u2581", "ا", "ل"), (0.0,) * 3))
    with pytest.raises(QuranAsrError, match="has no `"):
        build_graph(QURAN, few)
    with pytest.raises(QuranAsrError, match="no verses"):
        build_graph(QURAN, few, [])
