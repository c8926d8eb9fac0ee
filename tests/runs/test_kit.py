"""The indexes of kit and results, what may come back, and what is refused."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest

from quran_asr.cli.kit_host import bring_out, refuse_too_much, swap
from quran_asr.cli.main import main
from quran_asr.findings import QuranAsrError
from quran_asr.runs.folder import RunFolder, create_run
from quran_asr.runs.kits.kit import (
    half_size,
    pack_run,
    read_index,
    read_results,
    unpack_run,
    write_index,
)
from quran_asr.runs.recipe import load_recipe


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    run = create_run(tmp_path / "runs", "laptop")
    run.write_recipe(load_recipe("laptop"))
    run.tokenizer.mkdir()
    (run.tokenizer / "tokenizer.model").write_bytes(b"tokens")
    (run.checkpoints / "last.ckpt").write_bytes(b"heavy")
    run.append_metrics({"step": 1, "split": "train", "loss": 2.0})
    return run


def results(folder: Path, run: RunFolder, parts: int = 2) -> Path:
    folder.mkdir()
    pack_run(run.path, {}, folder / "run.tar.gz")
    for number in range(1, parts + 1):
        (folder / f"weights-{number}.part").write_bytes(bytes([number]) * 1000)
    write_index(folder, "results.json", {"model": {"file": "x--val_wer=0.5000.nemo"}})
    return folder


def test_a_run_comes_back_without_its_checkpoints(run: RunFolder, tmp_path: Path) -> None:
    index, parts = read_results(results(tmp_path / "r", run))
    assert index["model"]["file"].startswith("x--") and [path.name[:9] for path in parts] == [
        "weights-1",
        "weights-2",
    ]
    back = tmp_path / "back"
    back.mkdir()
    unpack_run(tmp_path / "r" / "run.tar.gz", back)
    found = {path.relative_to(back).as_posix() for path in back.rglob("*") if path.is_file()}
    assert found == {"recipe.yaml", "metrics.jsonl", "tokenizer/tokenizer.model"}
    assert (back / "recipe.yaml").read_bytes() == run.recipe.read_bytes()


def test_whatever_was_changed_on_the_way_is_named(run: RunFolder, tmp_path: Path) -> None:
    folder = results(tmp_path / "r", run)
    part = folder / "weights-2.part"
    part.write_bytes(bytes([9]) * 1000)
    with pytest.raises(QuranAsrError, match=r"weights-2.part was changed on the way"):
        read_results(folder)
    part.write_bytes(bytes([2]) * 999)
    with pytest.raises(QuranAsrError, match=r"weights-2.part is missing or not whole"):
        read_results(folder)
    part.unlink()
    part.symlink_to("/etc/passwd")
    with pytest.raises(QuranAsrError, match=r"weights-2.part is missing or not whole"):
        read_results(folder)


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "run.sh", "weights-0.part", "a/curves.png"])
def test_an_index_that_names_another_file_is_refused(name: str, run: RunFolder, tmp_path: Path) -> None:
    folder = results(tmp_path / "r", run)
    index = json.loads((folder / "results.json").read_text())
    index["files"][name] = {"bytes": 1, "sha256": "0" * 64}
    (folder / "results.json").write_text(json.dumps(index))
    with pytest.raises(QuranAsrError, match="refused: names the file"):
        read_results(folder)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"files": 3, "format": 1}', '{"files": {"a": {}}}', "[" * 9999]
)
def test_what_is_no_index_is_said_in_one_line(text: str, tmp_path: Path) -> None:
    (tmp_path / "kit.json").write_text(text)
    with pytest.raises(QuranAsrError, match="is no index of this program"):
        read_index(tmp_path, "kit.json")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("../evil", tarfile.REGTYPE),
        ("/tmp/evil", tarfile.REGTYPE),
        ("tokenizer/../../evil", tarfile.REGTYPE),
        ("recipe.yaml", tarfile.SYMTYPE),
        ("recipe.yaml", tarfile.LNKTYPE),
        ("recipe.yaml", tarfile.FIFOTYPE),
        ("checkpoints/last.ckpt", tarfile.REGTYPE),
    ],
)
def test_a_run_archive_with_something_else_is_refused(name: str, kind: bytes, tmp_path: Path) -> None:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, "/etc/passwd"
    with tarfile.open(tmp_path / "run.tar.gz", "w:gz") as tar:
        tar.addfile(member, io.BytesIO())
    (tmp_path / "run").mkdir()
    with pytest.raises(QuranAsrError, match="refused"):
        unpack_run(tmp_path / "run.tar.gz", tmp_path / "run")


def test_a_bomb_is_refused(tmp_path: Path) -> None:
    member = tarfile.TarInfo("metrics.jsonl")
    member.size = 201 << 20
    with tarfile.open(tmp_path / "run.tar.gz", "w:gz", compresslevel=1) as tar:
        tar.addfile(member, io.BytesIO(bytes(member.size)))
    (tmp_path / "run").mkdir()
    with pytest.raises(QuranAsrError, match="too much in it"):
        unpack_run(tmp_path / "run.tar.gz", tmp_path / "run")


def test_the_largest_model_that_fits_has_thirty_million_parameters() -> None:
    small = half_size(30_450_000)
    assert (small.fits, small.parts) == (True, 4)
    assert not half_size(114_750_000).fits


def test_too_much_is_refused_and_the_old_results_stay(run: RunFolder, tmp_path: Path) -> None:
    fresh, place = tmp_path / "fresh", tmp_path / "to" / "results"
    results(fresh, run)
    refuse_too_much(fresh)
    swap(fresh, place, tmp_path / "old")
    assert read_results(place) and not fresh.exists()
    for number in range(3, 9):
        (place / f"weights-{number}.part").write_bytes(b"x")
    with pytest.raises(QuranAsrError, match="more than may come back"):
        refuse_too_much(place)


def test_results_are_brought_out_before_anything_was_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    work = tmp_path / "work"
    work.mkdir()
    state = {"kit": "0" * 64, "index": "small", "calls": 1, "stages": {"unpack": {"state": "done"}}}
    (work / "state.json").write_text(json.dumps(state))
    assert bring_out(tmp_path / "kit", work, tmp_path / "to") == 0
    index = read_index(tmp_path / "to" / "results", "results.json")
    assert index["model"] is None and index["stages"] == state["stages"]
    with pytest.raises(SystemExit) as end:
        main(["kit", "--collect", str(tmp_path / "to" / "results"), "--to", str(tmp_path / "run")])
    assert end.value.code == 2 and "holds no run" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
