"""The synthetic corpus: what is spoken, that words are cut where they are, and that a seed decides all."""

from __future__ import annotations

import json
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from quran_asr import audio
from quran_asr.corpus.manifest import read_manifest
from quran_asr.corpus.synthesis import Engine, synthesize_corpus
from quran_asr.errors import QuranAsrError
from quran_asr.records import VerseRef
from quran_asr.text.passages import parse_range
from quran_asr.text.quran import load_quran

IKHLAS = parse_range("112")


def needs_engine() -> None:
    pytest.importorskip("espeakng_loader", reason="needs the extra `speak`")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_each_voice_speaks_each_verse_into_its_own_file(tmp_path):
    needs_engine()
    steps: list[tuple[int, int]] = []
    path = synthesize_corpus(
        IKHLAS,
        ["ar", "ar+f3"],
        tmp_path / "spoken",
        on_progress=lambda done, total: steps.append((done, total)),
    )
    assert path == tmp_path / "spoken" / "manifest.jsonl"
    assert steps == [(done, 8) for done in range(1, 9)]
    segments = read_manifest(path, "diacritized")
    assert [segment.reciter for segment in segments] == ["espeak"] * 4 + ["espeak-f3"] * 4
    assert [segment.verses for segment in segments] == [(ref,) for ref in IKHLAS] * 2
    assert [segment.text for segment in segments] == [
        load_quran("diacritized").verse(ref) for ref in IKHLAS
    ] * 2
    for segment in segments:
        samples = audio.read(segment.audio)
        assert len(samples) / 16_000 == pytest.approx(segment.duration, abs=1e-6)
        assert 1.0 < segment.duration < 6.0
        assert 0.1 < np.abs(samples).max() <= 1.0
        assert np.abs(samples[:400]).max() < 0.02  # a little silence before and after
        assert np.abs(samples[-1_600:]).max() < 0.02
    assert (tmp_path / "spoken" / "espeak-f3" / "112004.flac").is_file()


def test_a_seed_decides_every_byte(tmp_path):
    needs_engine()
    for name, seed in (("one", 5), ("two", 5), ("other", 6)):
        synthesize_corpus(IKHLAS, ["ar", "ar+whisper"], tmp_path / name, seed, fragments_per_verse=2)
    one, two, other = (contents(tmp_path / name) for name in ("one", "two", "other"))
    assert one == two
    assert all(one[name] != other[name] for name in one)


def test_more_voices_and_verses_change_none_of_the_others(tmp_path):
    """Also says that an utterance does not depend on what was spoken before it."""
    needs_engine()
    synthesize_corpus(IKHLAS[2:], ["ar+m3"], tmp_path / "few")
    synthesize_corpus(parse_range("108") + IKHLAS, ["ar+whisper", "ar+m3"], tmp_path / "many")
    few, many = contents(tmp_path / "few"), contents(tmp_path / "many")
    for name in ("espeak-m3/112003.flac", "espeak-m3/112004.flac"):
        assert few[name] == many[name]


def test_fragments_are_neighbouring_words_cut_where_they_are_spoken(tmp_path):
    needs_engine()
    path = synthesize_corpus(parse_range("2:255"), ["ar+m1"], tmp_path, 3, fragments_per_verse=40)
    whole, *fragments = read_manifest(path, "diacritized")
    assert len(fragments) == 40
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert all(line["part_of"] == ["2:255"] and "verses" not in line for line in lines[1:])
    words = whole.text.split()
    found: set[tuple[float, str]] = set()
    for fragment in fragments:
        assert f" {fragment.text} " in f" {whole.text} "
        assert 1 <= len(fragment.text.split()) <= 4
        assert 0 < fragment.offset < fragment.offset + fragment.duration <= whole.duration + 1e-3
        # a word takes no more than a few seconds, and time goes on with the words
        assert 0.05 < fragment.duration / len(fragment.text.split()) < 3
        found.add((fragment.offset, fragment.text))
    assert len(found) == 40
    first_places = [
        words.index(text.split()[0]) for _, text in sorted(found) if words.count(text.split()[0]) == 1
    ]
    assert first_places == sorted(first_places)


def test_words_take_as_long_as_they_do_alone():
    """A second way to know where words begin: how long each is when nothing stands beside it."""
    needs_engine()
    with Engine() as engine:
        words = "قُلْ هُوَ اللَّهُ أَحَدٌ".split()
        samples, starts = engine.synthesize_words(words, "ar", 150, 50)
        lengths = np.diff([*starts, len(samples) / 16_000])
        alone = [len(engine.synthesize_words([word], "ar", 150, 50)[0]) / 16_000 for word in words]
    assert starts[0] == 0.0
    # spoken in a sentence words are a little shorter, but the long ones stay the long ones
    assert list(np.argsort(lengths)) == list(np.argsort(alone))
    np.testing.assert_allclose(lengths, alone, rtol=0.6)


def test_a_verse_of_one_word_has_no_fragments(tmp_path):
    needs_engine()
    path = synthesize_corpus([VerseRef(103, 1), VerseRef(112, 2)], ["ar"], tmp_path, fragments_per_verse=10)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    by_verse = [line["part_of"][0] for line in lines if "part_of" in line]
    assert by_verse == ["112:2", "112:2"]  # two words: each of them, and 103:1 has one


def test_the_letters_that_open_surahs_are_spoken_by_name():
    needs_engine()
    with Engine() as engine:
        spoken, _ = engine.synthesize_words(["الم"], "ar", 150, 50)
        by_name, starts = engine.synthesize_words(["أَلِفْ", "لَامْ", "مِيمْ"], "ar", 150, 50)
    assert len(starts) == 3
    np.testing.assert_array_equal(spoken, by_name)


@pytest.mark.slow
def test_every_word_is_spoken_and_timed():
    needs_engine()
    quran = load_quran("diacritized")
    refs = [ref for ref in quran.refs if ref.surah in (1, 19, 36, 42, 68) or ref.surah > 100]
    refs.append(VerseRef(2, 282))  # the longest
    with Engine() as engine:
        for ref in refs:
            words = quran.verse(ref).split(" ")
            samples, starts = engine.synthesize_words(words, "ar", 180, 50)
            assert len(starts) == len(words)
            bounds = [*starts, len(samples) / 16_000]
            assert all(begin < end for begin, end in pairwise(bounds)), ref


@pytest.mark.parametrize("voice", ["ar+nobody", "en", "en+f3", "ar+", "", "ar+../../../etc/passwd"])
def test_a_voice_that_there_is_not_is_refused_before_anything_is_written(tmp_path, voice):
    needs_engine()
    with pytest.raises(QuranAsrError, match="no voice"):
        synthesize_corpus(IKHLAS, ["ar", voice], tmp_path / "spoken")
    assert not (tmp_path / "spoken").exists()


def test_wrong_verses_and_repetitions_are_refused(tmp_path):
    with pytest.raises(QuranAsrError, match="there is no verse 112:5"):
        synthesize_corpus([*IKHLAS, VerseRef(112, 5)], ["ar"], tmp_path / "spoken")
    with pytest.raises(QuranAsrError, match="`112:1` is given twice"):
        synthesize_corpus([*IKHLAS, IKHLAS[0]], ["ar"], tmp_path / "spoken")
    with pytest.raises(QuranAsrError, match="`ar` is given twice"):
        synthesize_corpus(IKHLAS, ["ar", "ar"], tmp_path / "spoken")
    with pytest.raises(QuranAsrError, match="nothing to synthesize"):
        synthesize_corpus(IKHLAS, [], tmp_path / "spoken")
    assert not (tmp_path / "spoken").exists()


def test_without_the_extra_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(QuranAsrError) as refused:
        synthesize_corpus(IKHLAS, ["ar"], tmp_path / "spoken")
    assert refused.value.remedy == "pip install 'quran-asr[speak]'"


def test_ctrl_c_inside_the_engine_is_not_swallowed(monkeypatch):
    needs_engine()
    import ctypes

    def interrupt(*_: object) -> bytes:
        raise KeyboardInterrupt

    with Engine() as engine:
        monkeypatch.setattr(ctypes, "string_at", interrupt)
        with pytest.raises(KeyboardInterrupt):
            engine.synthesize_words(["قُلْ"], "ar", 150, 50)
