"""`quran-asr checkpoints` up to where a model is needed: wrong use, asking before deleting, a light start."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from quran_asr.cli.main import main
from quran_asr.config.recipe import load_recipe
from quran_asr.experiments.run_folder import RunFolder, create_run


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    """A run with four checkpoints, the last of which has two names."""
    monkeypatch.chdir(tmp_path)
    run = create_run("nemo_experiments", "laptop")
    run.write_recipe(load_recipe("laptop"))
    for epoch, rate in enumerate(("0.4000", "0.3000", "0.2500", "0.3500")):
        path = run.checkpoints / f"laptop--val_wer={rate}-epoch={epoch}.ckpt"
        with zipfile.ZipFile(path, "w") as archive:
            content = {"epoch": epoch, "global_step": 10 * (epoch + 1)}
            archive.writestr("archive/data.pkl", pickle.dumps(content, protocol=2) + bytes(500_000))
    os.link(path, run.checkpoints / "last.ckpt")
    return run


def names(run: RunFolder) -> list[str]:
    return sorted(path.name for path in run.checkpoints.iterdir())


def command(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as end:
        main(["checkpoints", *map(str, words)])
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    return int(end.value.code or 0), out, err


def test_the_best_is_a_path_for_scripts(run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    best = run.checkpoints / "laptop--val_wer=0.2500-epoch=2.ckpt"
    assert command(capsys, "list", run.path, "--best") == (0, f"{best}\n", "")
    code, out, _ = command(capsys, "list", "last", "--best", "--json")
    assert (code, json.loads(out)) == (0, {"checkpoint": str(best), "nemo": None})
    best.write_bytes(best.read_bytes()[:300])
    code, out, err = command(capsys, "list", run.path, "--best")
    assert (code, Path(out.strip()).name) == (0, "laptop--val_wer=0.3000-epoch=1.ckpt")
    assert "warning [broken-checkpoint]" in err and best.name in err


def test_deleting_is_listed_and_asked_for(run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    before = names(run)
    code, out, err = command(capsys, "prune", run.path, "--keep", 2)  # the tests have no terminal
    assert (code, out, names(run)) == (2, "", before)
    assert "to delete  laptop--val_wer=0.4000-epoch=0.ckpt  0.5 MB" in err
    assert "2 files would be deleted" in err and "--yes" in err

    code, out, _ = command(capsys, "prune", run.path, "--keep", 2, "--yes")
    assert code == 0
    assert names(run) == [
        "laptop--val_wer=0.2500-epoch=2.ckpt",
        "laptop--val_wer=0.3000-epoch=1.ckpt",
        "last.ckpt",
    ]
    assert out == "deleted 2 files, 0.5 MB freed\n", "of two, one has a second name that stays"
    assert command(capsys, "prune", run.path, "--keep", 2, "--yes")[:2] == (0, "nothing to delete\n")


@pytest.mark.parametrize(("answer", "left"), [(b"n\n", 5), (b"y\n", 2)])
def test_on_a_terminal_it_waits_for_the_answer(run: RunFolder, answer: bytes, left: int) -> None:
    master, slave = os.openpty()
    os.write(master, answer)
    words = [sys.executable, "-m", "quran_asr", "checkpoints", "prune", str(run.path), "--keep", "1"]
    done = subprocess.run(words, stdin=slave, capture_output=True, text=True, timeout=300)
    os.close(master)
    os.close(slave)
    assert done.returncode == 0, done.stderr
    assert "delete 3 files?" in done.stderr
    assert len(names(run)) == left


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["prune"], "missing option '--keep'"),
        (["export", "--to", "x.pt"], "must end in .nemo"),
        (["average", "--to", "x.pt"], "must end in .nemo"),
        (["average", "--count", "2", "--to", "there.nemo"], "there.nemo: already exists"),
        (["average", "--count", "1"], "1 is not in the range x>=2"),
        (["average", "--count", "9"], "has 4 whole checkpoints"),
        (["average", "--count", "2"], "--validation MANIFEST"),
        (["average", "--count", "2", "--validation", "none.jsonl"], "none.jsonl"),
        (["prune", "--keep", "0"], "0 is not in the range x>=1"),
    ],
)
def test_wrong_use_is_one_line(
    run: RunFolder, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    Path("there.nemo").touch()
    code, out, err = command(capsys, words[0], run.path, *words[1:])
    assert (code, out) == (2, "")
    assert message in err


def test_a_run_without_checkpoints_lists_none(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    run = create_run(tmp_path, "laptop")
    run.write_recipe(load_recipe("laptop"))
    code, out, err = command(capsys, "list", run.path)
    assert (code, out) == (0, "")
    assert "no checkpoint yet" in err
    for task in (["list", "--best"], ["export"], ["average"]):
        assert command(capsys, task[0], run.path, *task[1:])[0] == 2
    assert command(capsys, "list", tmp_path / "nothing")[0] == 2


@pytest.mark.alone
def test_listing_is_light(run: RunFolder) -> None:
    code = (
        "import resource, sys; from quran_asr.cli.main import main\n"
        "try: main(sys.argv[1:])\n"
        "finally:\n"
        "    spent = resource.getrusage(resource.RUSAGE_SELF)\n"
        "    print({'torch', 'numpy', 'nemo', 'lightning'} & set(sys.modules), file=sys.stderr)\n"
        "    print(spent.ru_utime + spent.ru_stime, file=sys.stderr)"
    )
    for task in (["list"], ["list", "--json"], ["list", "--best"], ["prune", "--keep", "9"]):
        words = [sys.executable, "-c", code, "checkpoints", task[0], str(run.path), *task[1:]]
        seconds = []
        for _ in range(3):  # the first may have to compile
            done = subprocess.run(words, capture_output=True, text=True, timeout=300)
            *_, heavy, spent = done.stderr.splitlines()
            assert (done.returncode, heavy) == (0, "set()")
            seconds.append(float(spent))
            if min(seconds) < 0.5:
                break
        assert min(seconds) < 0.5
