"""The two commands' promise: a recognizer is trained, measured and used, and its files are of use."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


def test_unseen_voices_are_recognized_well_by_both_decoders(quickstart) -> None:
    wer = quickstart.figures["wer"]["held_out"]
    assert wer["transducer 1040 ms"] <= 0.10
    assert wer["ctc 1040 ms"] <= 0.10
    assert wer["transducer 0 ms"] <= 0.20
    assert wer["ctc 0 ms"] <= 0.20


def test_what_is_shown_is_distinguished(quickstart) -> None:
    unseen = quickstart.figures["wer"]["unseen_text"]
    assert unseen["transducer 1040 ms"] > quickstart.figures["wer"]["held_out"]["transducer 1040 ms"]
    page = Path(quickstart.figures["report"]).read_text(encoding="utf-8")
    assert "unseen voices, seen text" in page
    assert "unseen voices, unseen text" in page
    assert "overfit gate passed" in quickstart.messages


def test_picture_and_page_are_there_and_whole(quickstart) -> None:
    page = Path(quickstart.figures["report"])
    assert (page.parent / "curves.png").read_bytes().startswith(b"\x89PNG")
    html = page.read_text(encoding="utf-8")
    assert "data:image/png;base64," in html
    assert "http://" not in html.replace("http://www.w3.org", "")


def test_no_training_text_needs_an_unknown_token(quickstart) -> None:
    from quran_asr.corpus.manifest import read_manifest
    from quran_asr.training.tokenizer import Tokenizer, unknown_tokens

    tokenizer = Tokenizer(Path(quickstart.figures["run"]) / "tokenizer")
    for manifest in quickstart.folder.glob("corpus/*/manifest.jsonl"):
        texts = [segment.text for segment in read_manifest(manifest, "letters")]
        assert unknown_tokens(tokenizer, texts) == []


def test_evaluate_gives_the_promised_report(quickstart, in_process, tmp_path: Path) -> None:
    manifest = next(quickstart.folder.glob("corpus/held_out-*/manifest.jsonl"))
    done = in_process(
        "evaluate",
        manifest,
        "--model",
        quickstart.figures["run"],
        "--decoder",
        "ctc",
        "--json",
        "--to",
        tmp_path,
    )
    assert done.code == 0, done.err
    report = json.loads(done.out)
    assert {
        "model", "decoder", "look_ahead_ms", "streaming", "spelling", "edition", "clips", "hours", "counts",
        "wer", "wer_interval", "cer", "cer_interval", "letters", "spelling_only_errors",
        "recognition_errors", "cells", "reciters", "lengths", "worst", "mostly_deleted", "looping_clips",
    } <= report.keys()  # fmt: skip
    assert report["wer"] == pytest.approx(quickstart.figures["wer"]["held_out"]["ctc 1040 ms"], abs=1e-3)
    assert set(report["reciters"]) == {"espeak-f3", "espeak-Alex"}
    assert set(report["cells"]) == {"unseen_reciter/seen_text"}
    counts = report["counts"]
    errors = counts["substitutions"] + counts["insertions"] + counts["deletions"]
    reference_words = counts["hits"] + errors - counts["insertions"]
    assert report["wer"] == pytest.approx(errors / reference_words, abs=5e-7), "six decimals are printed"
    lines = (tmp_path / "transcripts.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == report["clips"] == 134


def test_a_look_ahead_that_is_not_there_names_those_that_are(quickstart, in_process) -> None:
    clip = next(quickstart.folder.glob("corpus/held_out-*/*/112001.flac"))
    done = in_process("transcribe", clip, "--model", quickstart.figures["model"], "--look-ahead", 200)
    assert done.code == 2
    assert "1040 ms, 480 ms, 80 ms, 0 ms" in done.err
    assert "Traceback" not in done.err


def test_transcribe_reads_files_of_other_formats_and_rates(quickstart, in_process, tmp_path: Path) -> None:
    import numpy as np
    import soundfile
    import soxr

    from quran_asr.text.quran import load_quran

    clip = next(quickstart.folder.glob("corpus/held_out-*/*/112001.flac"))
    samples, rate = soundfile.read(clip, dtype="float32")
    loud = soxr.resample(samples, rate, 44_100)
    stereo = tmp_path / "stereo.mp3"
    soundfile.write(stereo, np.stack([loud, loud], axis=1), 44_100)
    done = in_process("transcribe", "--model", quickstart.figures["model"], clip, stereo, "--json")
    assert done.code == 0, done.err
    answers = json.loads(done.out)
    reference = load_quran("letters").text([ref for ref in load_quran("letters").refs if str(ref) == "112:1"])
    assert [answer["text"] for answer in answers] == [reference, reference]
    words = answers[0]["words"]
    assert [word["text"] for word in words] == reference.split()
    assert all(0 <= word["start"] < word["end"] <= len(samples) / rate + 0.2 for word in words)
    assert [word["start"] for word in words] == sorted(word["start"] for word in words)


def test_a_file_that_is_not_an_audio_is_one_line(quickstart, in_process, tmp_path: Path) -> None:
    page = tmp_path / "112001.mp3"
    page.write_text("<!DOCTYPE html><html><body>404</body></html>")
    done = in_process("transcribe", page, "--model", quickstart.figures["model"])
    assert done.code == 2
    assert "112001.mp3" in done.err
    assert "Traceback" not in done.err


def test_plot_draws_the_run_again(quickstart, in_process, tmp_path: Path) -> None:
    done = in_process("plot", quickstart.figures["run"], "--out", tmp_path)
    assert done.code == 0, done.err
    assert (tmp_path / "curves.png").stat().st_size > 10_000
