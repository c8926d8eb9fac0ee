"""`lm build|evaluate|tune`, and the options of a language model."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from quran_asr import audio
from quran_asr.cli.main import _run as run
from quran_asr.cli.main import main
from quran_asr.corpus.manifest import read_manifest
from quran_asr.decoding.arpa import read_arpa
from quran_asr.decoding.fusion import Fusion
from quran_asr.decoding.language_model import read_language_model
from quran_asr.errors import QuranAsrError
from quran_asr.records import Counts
from quran_asr.runtime.bundle import default_model, read_bundle
from quran_asr.runtime.recognizer import load
from quran_asr.runtime.shallow_fusion import read_model
from quran_asr.runtime.tuning_progress import tuning_progress

if TYPE_CHECKING:
    from collections.abc import Sequence


@pytest.fixture
def bundle(small_bundle: Path, tmp_path: Path) -> Path:
    """A copy: tuning writes into its folder."""
    return Path(shutil.copytree(small_bundle, tmp_path / "bundle"))


def manifest(folder: Path, voice: np.ndarray) -> Path:
    lines = []
    for ayah in (1, 2):
        audio.write(folder / f"{ayah}.wav", voice[: 32_000 * ayah])
        lines.append({"audio_filepath": f"{ayah}.wav", "duration": 2.0 * ayah, "verses": [f"112:{ayah}"]})
    (folder / "some.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder / "some.jsonl"


def test_a_text_becomes_the_same_model_in_two_files(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.txt").write_text("قل هو الله أحد\nالله الصمد\n", encoding="utf-8")
    name = str(tmp_path / "one.v2")
    assert run(["lm", "build", str(tmp_path / "text.txt"), "--model", str(bundle), "--to", name]) == 0
    pieces = read_bundle(bundle).vocabulary.pieces
    npz, arpa = read_language_model(Path(f"{name}.npz")), read_arpa(Path(f"{name}.arpa"), len(pieces))
    assert npz.pieces == pieces
    assert npz.sizes == arpa.sizes and npz.order == 6
    out = capsys.readouterr().out
    assert "n-grams up to length 6, witten-bell" in out
    assert f"{name}.npz  {Path(f'{name}.npz').stat().st_size / 1e3:.1f} kB" in out
    text = str(tmp_path / "text.txt")
    assert run(["lm", "evaluate", text, "--lm", f"{name}.npz", "--model", str(bundle), "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert row["words"] == 6 and 1 < row["perplexity_per_token"] < 5


def test_a_name_with_an_ending_is_one_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.txt").write_text("قل هو الله أحد\n", encoding="utf-8")
    for name in ("one.npz", "two.arpa"):
        assert run(["lm", "build", str(tmp_path / "text.txt"), "--to", str(tmp_path / name), "--json"]) == 0
        assert list(json.loads(capsys.readouterr().out)["files"]) == [str(tmp_path / name)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.npz", "text.txt", "two.arpa"]


@pytest.mark.slow
def test_no_other_file_is_replaced(bundle: Path, tmp_path: Path) -> None:
    text = tmp_path / "verses.txt"
    text.write_text("الله الصمد\n", encoding="utf-8")
    words = ["lm", "build", "--order", "2", "--model", str(bundle), "--to"]
    for name, content in (("a.npz", b"numbers"), ("b.arpa", b"notes"), ("c.arpa", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(QuranAsrError, match="is not a language model"):
            run([*words, str(tmp_path / name), str(text)])
        assert (tmp_path / name).read_bytes() == content
    assert run([*words, str(tmp_path / "d"), str(text)]) == 0
    before = (tmp_path / "d.arpa").read_bytes()
    assert run([*words, str(tmp_path / "d"), str(text)]) == 0, "an older model is replaced"
    with pytest.raises(QuranAsrError, match="is not a language model"):
        run([*words, str(tmp_path / "d.arpa"), str(tmp_path / "d.arpa")])
    assert (tmp_path / "d.arpa").read_bytes() == before


@pytest.mark.slow
def test_held_out_surahs_are_harder_than_those_in_the_counts(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["lm", "evaluate", "--model", str(bundle), "--held-out", "36,67", "--json"]) == 0
    out, seen = json.loads(capsys.readouterr().out)["rows"]
    assert out["tokens"] == seen["tokens"]
    assert out["perplexity_per_token"] > 1.5 * seen["perplexity_per_token"]


@pytest.mark.slow
def test_tuned_weights_are_stored_beside_the_bundle_and_used(
    bundle: Path, voice: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib", reason="needs matplotlib")
    clips = manifest(tmp_path, voice)
    (tmp_path / "text.txt").write_text("قل هو الله أحد\n", encoding="utf-8")
    name = tmp_path / "small"
    run(["lm", "build", str(tmp_path / "text.txt"), "--model", str(bundle), "--to", str(name)])
    capsys.readouterr()
    grid = ["--weights", "0,0.5", "--bonuses", "0,6"]
    assert run(["lm", "tune", str(bundle), str(clips), "--lm", f"{name}.npz", *grid, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert len(found["points"]) == 4
    assert found["wer"] == min(point["wer"] for point in found["points"] if point["clips"] == 2)
    stored = json.loads((bundle / "fusion.json").read_text())["transducer-beam"]
    assert (stored["lm_weight"], stored["token_bonus"]) == (found["lm_weight"], found["token_bonus"])
    assert (bundle / "fusion-transducer-beam.png").read_bytes().startswith(b"\x89PNG")

    words = ["--model", str(bundle), "--lm", f"{name}.npz", "--json"]
    assert run(["transcribe", str(tmp_path / "1.wav"), *words, "--n-best", "3"]) == 0
    (one,) = json.loads(capsys.readouterr().out)
    assert one["n_best"] and one["n_best"][0]["text"] == one["text"]
    assert run(["evaluate", str(clips), *words, "--to", str(tmp_path / "report")]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["language_model"]["lm_weight"] == stored["lm_weight"]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_tuning_is_resumed_unless_its_input_changed(
    voice: np.ndarray, tmp_path: Path, number: signal.Signals
) -> None:
    pytest.importorskip("matplotlib", reason="needs matplotlib")
    bundle = Path(shutil.copytree(default_model(), tmp_path / "bundle"))
    clips = manifest(tmp_path, voice)
    command = [sys.executable, "-m", "quran_asr", "lm", "tune", str(bundle), str(clips), "--json"]
    command += ["--weights", "0,0.3,0.5,0.7,1", "--bonuses", "0,1,2,3,4", "--whole-grid"]
    kept = bundle / "tuning-transducer-beam"

    def interrupted() -> list[bytes]:
        """The errors that are kept of a run that was stopped within the grid."""
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        while process.poll() is None:
            if (kept / "errors.jsonl").exists() and len((kept / "errors.jsonl").read_bytes()) > 100:
                process.send_signal(number)
                break
            time.sleep(0.002)
        _, err = process.communicate(timeout=300)
        assert process.returncode == (130 if number == signal.SIGINT else -number), err
        return (kept / "errors.jsonl").read_bytes().splitlines()

    def finished() -> tuple[dict[str, Any], str]:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert not kept.exists()
        return json.loads(done.stdout), done.stderr

    before = interrupted()
    assert 0 < len(before) < 50
    resumed, err = finished()
    assert f"resuming: 2 clips encoded, {len(before)} decoding" in err
    whole, err = finished()
    assert "resuming" not in err  # a finished run leaves nothing
    assert resumed == whole

    interrupted()
    clips.write_text(clips.read_text().splitlines()[1])
    changed, err = finished()
    assert "resuming" not in err
    assert (whole["clips"], changed["clips"]) == (2, 1)


def test_what_is_kept_of_a_tuning_is_used_and_a_damaged_part_is_made_again(
    voice: np.ndarray, tmp_path: Path
) -> None:
    recognizer = load(Path(shutil.copytree(default_model(), tmp_path / "bundle")), decoder="transducer-beam")
    segments = read_manifest(manifest(tmp_path, voice), recognizer.spelling)
    language = read_model(recognizer.bundle, "quran")
    pairs = [(Counts(hits=1), Counts(hits=4))], [(Counts(substitutions=2), Counts(hits=7))]
    asked: list[float] = []

    def evaluate(fusion: Fusion, clips: Sequence[int]) -> list[tuple[Counts, Counts]]:
        asked.append(fusion.token_bonus)
        return pairs[int(fusion.token_bonus)]

    with pytest.raises(KeyboardInterrupt), tuning_progress(recognizer, language, segments) as progress:
        pieces = [progress.encoded(recognizer, segment, number) for number, segment in enumerate(segments)]
        for bonus in (0.0, 1.0):
            progress.remembering(evaluate)(Fusion(token_bonus=bonus), [1])
        raise KeyboardInterrupt
    (folder,) = (tmp_path / "bundle").glob("tuning-*")
    (folder / "1.npz").write_bytes(b"half")
    lines = (folder / "errors.jsonl").read_bytes()
    (folder / "errors.jsonl").write_bytes(lines[:-10])
    with tuning_progress(recognizer, language, segments) as progress:
        assert progress.evaluated_clips == 1
        for number, (segment, piece) in enumerate(zip(segments, pieces, strict=True)):
            again = progress.encoded(recognizer, segment, number)
            np.testing.assert_array_equal(again.joint, piece.joint)
            np.testing.assert_array_equal(again.ctc, piece.ctc)
            np.testing.assert_array_equal(again.may_end, piece.may_end)
        for bonus in (0.0, 1.0):
            assert progress.remembering(evaluate)(Fusion(token_bonus=bonus), [1]) == pairs[int(bonus)]
    assert asked == [0.0, 1.0, 1.0]
    assert not folder.exists()


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["transcribe", "a.wav", "--rescore", "4"], "`--rescore` needs a language model"),
        (["transcribe", "a.wav", "--n-best", "4"], "`--n-best` applies to --json"),
        (["evaluate", "a.jsonl", "--planted-errors"], "`--planted-errors` compares with a language model"),
        (["evaluate", "a.jsonl", "--planted-errors", "--lm", "quran", "--streaming"], "do not go together"),
        *((["lm", "build", "--to", name], "names a folder") for name in (".", "..", "/", "", "a/..")),
        (["lm", "evaluate", "--lm", "quran"], "`--lm` applies to a FILE"),
        (["lm", "evaluate", "--held-out", "one"], "`one` is not a list of surah numbers"),
        (["lm", "evaluate", "a.txt", "--held-out", "12"], "`--held-out` does not apply to a FILE"),
        (["lm", "evaluate", "a.txt", "--held-out", "12,36,67"], "`--held-out` does not apply to a FILE"),
        (["lm", "evaluate", "a.txt", "--lm", "b.npz", "--order", "6"], "`--order` does not apply beside"),
        (
            ["lm", "evaluate", "a.txt", "--lm", "quran", "--smoothing", "kneser-ney"],
            "`--smoothing` does not apply beside",
        ),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_loaded(words: list[str], what: str) -> None:
    with pytest.raises(QuranAsrError, match=what) as refused:
        run(words)
    assert refused.value.remedy


@pytest.mark.parametrize(
    ("option", "numbers"),
    [
        ("--weights", "0,nan"),
        ("--weights", "inf"),
        ("--weights", "0.5,-1"),
        ("--bonuses", "0,nan"),
        ("--bonuses", "-inf"),
        ("--bonuses", "1,1e5"),
        ("--bonuses", ""),
    ],
)
def test_numbers_that_no_search_takes_are_refused_before_anything_is_encoded(
    option: str, numbers: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(["lm", "tune", "none", "none.jsonl", f"{option}={numbers}"])
    assert end.value.code == 2
    assert f"invalid value for '{option}'" in capsys.readouterr().err


def test_a_text_that_a_model_excludes_has_no_perplexity(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of files of other tools, with probabilities that are 0 or next to it."""
    (tmp_path / "text.txt").write_text("فأسقيناكموه\n", encoding="utf-8")
    size = len(read_bundle(default_model()).vocabulary)
    for number, rows in ((1, ["-0.3\td"]), (size, [f"-98.9\t{chr(100 + token)}" for token in range(size)])):
        head = f"\\data\\\nngram 1={number}\n\n\\1-grams:\n"
        (tmp_path / "one.arpa").write_text(head + "\n".join([*rows, "", "\\end\\", ""]), encoding="utf-8")
        words = ["lm", "evaluate", str(tmp_path / "text.txt"), "--lm", str(tmp_path / "one.arpa")]
        assert run([*words, "--json"]) == 0
        (row,) = json.loads(capsys.readouterr().out)["rows"]
        assert row["perplexity_per_word"] is None and row["words"] == 1
        assert run(words) == 0
        assert "inf" in capsys.readouterr().out


@pytest.mark.slow
def test_a_text_is_measured_with_the_order_and_smoothing_that_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.txt").write_text("قل هو الله أحد\n", encoding="utf-8")

    def evaluated(*words: str) -> dict[str, Any]:
        assert run(["lm", "evaluate", str(tmp_path / "text.txt"), *words, "--json"]) == 0
        found: dict[str, Any] = json.loads(capsys.readouterr().out)
        return found

    usual, same, lower, other = (
        evaluated(),
        evaluated("--lm", "quran"),
        evaluated("--order", "2"),
        evaluated("--smoothing", "kneser-ney"),
    )
    assert usual == same and (usual["order"], usual["smoothing"]) == (6, None)
    assert (lower["order"], lower["smoothing"]) == (2, "witten-bell")
    assert (other["order"], other["smoothing"]) == (6, "kneser-ney")
    assert len({one["rows"][0]["perplexity_per_token"] for one in (usual, lower, other)}) == 3


@pytest.mark.slow
def test_clips_joined_in_pairs_are_recognized_as_the_clips_alone(
    voice: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Noise, in which the search with a language model finds its text, and a list of one text has another."""
    lines = []
    for number, samples in enumerate((voice[:48_000], voice[48_000:])):
        audio.write(tmp_path / f"{number}.wav", samples)
        line = {"audio_filepath": f"{number}.wav", "duration": 3.0, "verses": ["108:3"], "reciter": "a"}
        lines.append(line)
    clips = tmp_path / "some.jsonl"
    clips.write_text("".join(json.dumps(line) + "\n" for line in lines))
    language = ["--passage", "108", "--lm-weight", "3", "--token-bonus", "3"]

    def joined_hits(*words: str) -> int:
        assert run(["evaluate", str(clips), *language, *words, "--to", str(tmp_path / "out"), "--json"]) == 0
        return int(json.loads(capsys.readouterr().out)["joined"]["in_pairs"]["counts"]["hits"])

    assert joined_hits() > 0
    assert joined_hits("--rescore", "1") == 0


@pytest.mark.slow
def test_tuning_another_language_model_leaves_that_of_the_quran_alone(
    voice: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With weight 0 alone, which is noted: the other language model is then without effect."""
    pytest.importorskip("matplotlib", reason="needs matplotlib")
    bundle = Path(shutil.copytree(default_model(), tmp_path / "bundle"))
    clips = manifest(tmp_path, voice)
    before = json.loads((bundle / "fusion.json").read_text())["transducer-beam"]
    (tmp_path / "text.txt").write_text("قل هو الله أحد\n", encoding="utf-8")
    name = f"{tmp_path / 'small'}.npz"
    assert run(["lm", "build", str(tmp_path / "text.txt"), "--model", str(bundle), "--to", name]) == 0
    grid = ["--weights", "0", "--bonuses", "0"]
    assert run(["lm", "tune", str(bundle), str(clips), "--lm", name, *grid]) == 0
    assert "note: with weight 0" in capsys.readouterr().err
    report = [
        "evaluate",
        str(clips),
        "--model",
        str(bundle),
        "--json",
        "--to",
        str(tmp_path / "report"),
        "--lm",
    ]
    for lm, weight in (("quran", before["lm_weight"]), (name, 0.0)):
        assert run([*report, lm]) == 0
        assert json.loads(capsys.readouterr().out)["language_model"]["lm_weight"] == weight
