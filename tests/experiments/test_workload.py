"""What a plan reads of manifests, and how many tokens words are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from quran_asr.config.recipe import load_recipe
from quran_asr.errors import QuranAsrError
from quran_asr.experiments.planning.workload import TOKENS_A_WORD, read_clips, tokens_a_word, weigh_manifests

TRANSFER = load_recipe("transfer")


def manifest(folder: Path, *lines: object) -> str:
    path = folder / "train.jsonl"
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), "utf-8")
    return str(path)


def test_words_come_from_the_text_or_from_the_verses_and_no_recording_is_opened(tmp_path: Path) -> None:
    named = manifest(
        tmp_path,
        {"audio_filepath": "no.wav", "duration": 4.0, "text": "قل هو الله أحد"},
        {"audio_filepath": "no.wav", "duration": 5.0, "verses": ["112:1", "112:2"]},
        {"audio_filepath": "no.wav", "duration": 90.0, "verses": ["2:282"]},
    )
    work = weigh_manifests([named], TRANSFER)
    assert (work.clips, work.words, work.most_words, work.left_out_clips) == (2, 10, 6, 1)
    assert work.unknown_characters == ""


def test_a_clip_of_unknown_words_leaves_the_words_open(tmp_path: Path) -> None:
    lines = [{"duration": 4.0, "text": "قل"}, {"duration": 4.0}]
    assert weigh_manifests([manifest(tmp_path, *lines)], TRANSFER).words is None


def test_a_verse_that_does_not_exist_is_named_with_its_line(tmp_path: Path) -> None:
    lines = [{"duration": 4.0, "verses": ["1:1"]}, {"duration": 4.0, "verses": ["1:99"]}]
    with pytest.raises(QuranAsrError, match="no verse 1:99") as error:
        weigh_manifests([manifest(tmp_path, *lines)], TRANSFER)
    assert error.value.where.endswith("train.jsonl:2")


@pytest.mark.parametrize(
    "line",
    [
        *({"duration": value} for value in (True, -1, "3", 1e300, 10**400, None)),
        {"text": "x"},
    ],
)
def test_a_line_without_seconds_is_named(tmp_path: Path, line: object) -> None:
    with pytest.raises(QuranAsrError, match=r"no `duration` in seconds") as error:
        read_clips(manifest(tmp_path, {"duration": 1.0}, line))
    assert error.value.where.endswith("train.jsonl:2")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("[1]", "not a JSON object"),
        ("3", "not a JSON object"),
        ('{"duration": 4.0, "te', "a torn line (its end is missing)"),
        ("duration: 4.0", "not JSON"),
        ('{"duration": NaN}', "NaN is not a number"),
    ],
)
def test_a_line_that_is_not_a_json_object_is_called_so(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text('{"duration": 1.0}\n' + line, "utf-8")
    with pytest.raises(QuranAsrError) as error:
        read_clips(path)
    assert error.value.what.startswith(message)
    assert error.value.where == f"{path}:2"


def test_tokens_fall_with_the_size_of_the_vocabulary() -> None:
    for spelling, measured in TOKENS_A_WORD.items():
        for size, tokens in measured:
            assert tokens_a_word(spelling, size) == pytest.approx(tokens)
        between = [tokens_a_word(spelling, size) for size in range(40, 8001, 20)]
        assert between == sorted(between, reverse=True)


@pytest.mark.slow
def test_the_table_is_what_a_tokenizer_makes_of_the_quran(tmp_path: Path) -> None:
    from quran_asr.text.quran import load_quran
    from quran_asr.training.tokenizer import train_tokenizer

    made = train_tokenizer("letters", 128, tmp_path / "tokenizer")
    verses = load_quran("letters").verses.values()
    tokens = sum(len(made.encode(verse)) for verse in verses)
    words = sum(len(verse.split()) for verse in verses)
    assert tokens_a_word("letters", 128) == pytest.approx(tokens / words, abs=0.01)


def test_windows_of_consecutive_verses_are_clips_too(tmp_path: Path) -> None:
    lines = [{"duration": 4.0, "verses": [f"112:{n}"], "reciter": "a"} for n in (1, 2, 3, 4)]
    lines += [{"duration": 50.0, "verses": ["113:1"], "reciter": "a"}, {"duration": 4.0, "verses": ["x"]}]
    lines[-1]["text"] = "قل"
    pairs = load_recipe("transfer", ["quran.augment.windows=2"])
    work = weigh_manifests([manifest(tmp_path, *lines)], pairs)
    assert work.durations == (4.0, 4.0, 4.0, 4.0, 4.0, 8.0, 8.0)
    assert (work.clips, work.left_out_clips) == (7, 1)
    alone = weigh_manifests([manifest(tmp_path, *lines)], TRANSFER)
    assert alone.words is not None
    assert work.words == 2 * alone.words - 1


def test_clips_are_kept_in_columns_and_texts_once(tmp_path: Path) -> None:
    lines = [{"duration": 1.0 + n, "text": ("قل", "أحد")[n % 2], "reciter": f"r{n % 3}"} for n in range(6)]
    clips = read_clips(manifest(tmp_path, *lines))
    assert list(clips.seconds) == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    assert [clips.different[n][0] for n in clips.contents] == [line["text"] for line in lines]
    assert [clips.names[n] for n in clips.reciters] == [line["reciter"] for line in lines]
    assert list(clips.first_lines) == [1, 2]


@pytest.mark.slow
def test_a_hundred_thousand_clips_take_little_memory(tmp_path: Path) -> None:
    import tracemalloc

    path = tmp_path / "train.jsonl"
    line = '{"audio_filepath": "%d.mp3", "duration": 4.5, "verses": ["2:%d"], "reciter": "r%d"}\n'
    path.write_text("".join(line % (n, n % 286 + 1, n % 30) for n in range(100_000)), "utf-8")
    weigh_manifests([str(path)], TRANSFER)  # the Quran is loaded
    tracemalloc.start()
    work = weigh_manifests([str(path)], TRANSFER)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert work.clips == 100_000
    assert peak < 15e6  # 150 bytes a clip; records took 600
