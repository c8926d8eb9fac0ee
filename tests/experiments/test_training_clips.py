from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from quran_asr.config.recipe import load_recipe
from quran_asr.experiments.training_clips import windows, with_windows
from quran_asr.records import Segment, VerseRef
from quran_asr.text.quran import load_quran


def clip(reciter: str, surah: int, ayah: int, seconds: float = 3.0, upto: int | None = None) -> Segment:
    verses = tuple(VerseRef(surah, n) for n in range(ayah, (upto or ayah) + 1))
    text = " ".join(f"{verse}" for verse in verses)
    return Segment(f"/{reciter}/{surah:03}{ayah:03}.opus", 0.0, seconds, verses, text, reciter)


def test_consecutive_verses_of_one_reciter_and_surah_are_joined() -> None:
    clips = [
        clip("a", 112, 1),
        clip("b", 112, 2),
        clip("a", 112, 2, 4.0),
        clip("a", 113, 1),
        clip("a", 112, 4),
    ]
    (joined,) = windows(clips, most=2, longest=40.0, seed=0)
    assert joined.parts == (clips[0], clips[2])
    assert (joined.text, joined.duration, joined.reciter) == ("112:1 112:2", 7.0, "a")
    assert joined.verses == (VerseRef(112, 1), VerseRef(112, 2))
    assert (joined.audio, joined.offset) == (clips[0].audio, 0.0)


def test_the_basmala_stands_before_the_first_verse_of_other_surahs() -> None:
    clips = [clip("a", surah, ayah) for surah, ayah in ((1, 1), (1, 2), (9, 1), (112, 1), (112, 2), (113, 1))]
    clips += [clip("b", 112, 1), clip("b", 113, 1)]
    found = windows(clips, most=2, longest=40.0, seed=0)
    assert [joined.text for joined in found] == ["1:1 1:2", "1:1 112:1 112:2", "1:1 113:1"]
    assert found[1].verses == (VerseRef(112, 1), VerseRef(112, 2))
    assert found[1].parts == (replace(clips[0], verses=()), clips[3], clips[4])
    assert [joined.text for joined in windows(clips, most=2, longest=6.0, seed=0)] == [
        "1:1 1:2",
        "1:1 112:1",
        "1:1 113:1",
    ]


def test_clips_of_several_verses_continue_after_their_last() -> None:
    (joined,) = windows([clip("a", 2, 1, upto=3), clip("a", 2, 4)], most=2, longest=40.0, seed=0)
    assert [str(verse) for verse in joined.verses] == ["2:1", "2:2", "2:3", "2:4"]


def test_parts_of_verses_and_unnamed_reciters_stay_alone() -> None:
    recipe = load_recipe("base", ["quran.augment.windows=2"])
    quran = load_quran(recipe.quran.spelling)
    whole = [
        replace(clip(reciter, 112, ayah), text=quran.verse(VerseRef(112, ayah)))
        for reciter in ("", "a")
        for ayah in (1, 2, 3)
    ]
    part = replace(whole[4], text=whole[4].text.split()[0])
    every = [*whole[:3], whole[3], part, whole[5]]
    longest = recipe.model.train_ds.max_duration
    assert with_windows(every, recipe.quran, longest) == every
    (joined,) = with_windows([*every, whole[4]], recipe.quran, longest)[7:]
    assert joined.parts == (whole[3], whole[4])
    assert with_windows(whole, load_recipe("base").quran, longest) == whole


def test_a_clip_that_names_no_verse_stays_alone() -> None:
    nameless = [Segment(f"/{n}.wav", 0.0, 2.0, (), "x", "a") for n in range(4)]
    assert windows(nameless, most=3, longest=40.0, seed=0) == []


@given(
    seconds=st.lists(st.floats(0.5, 20), min_size=1, max_size=40),
    missing=st.sets(st.integers(0, 39)),
    most=st.integers(2, 5),
    longest=st.floats(5, 40),
    seed=st.integers(0, 5),
)
def test_windows_keep_their_limits_and_take_each_clip_once(
    seconds: list[float], missing: set[int], most: int, longest: float, seed: int
) -> None:
    clips = [clip("a", 2, n + 1, one) for n, one in enumerate(seconds) if n not in missing]
    found = windows(clips, most=most, longest=longest, seed=seed)
    used = [part for joined in found for part in joined.parts]
    assert len(set(used)) == len(used)
    for joined in found:
        assert 2 <= len(joined.parts) <= most
        assert joined.duration <= longest
        assert all(b.ayah == a.ayah + 1 for a, b in pairwise(joined.verses))
    assert found == windows(list(reversed(clips)), most=most, longest=longest, seed=seed)
