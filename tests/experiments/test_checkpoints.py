"""What a run has kept, read without torch: files here are a zip with a pickle in it, as torch writes them."""

from __future__ import annotations

import io
import os
import pickle
import tarfile
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quran_asr.errors import QuranAsrError
from quran_asr.experiments.checkpoints import (
    best_of,
    copy_model,
    freed_bytes,
    newest_whole,
    prune,
    saved_in,
    source_of,
)
from quran_asr.experiments.run_folder import RunFolder, create_run


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return create_run(tmp_path, "small")


def checkpoint(path: Path, epoch: int, step: int, more: object = None) -> Path:
    """As Lightning begins a checkpoint, in the container that `torch.save` makes."""
    content = {"epoch": epoch, "global_step": step, "state_dict": {"epoch": 7}, "more": more}
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{path.stem}/data.pkl", pickle.dumps(content, protocol=2))
        archive.writestr(f"{path.stem}/data/0", bytes(1000))
    return path


def nemo(path: Path) -> Path:
    with tarfile.open(path, "w") as archive:
        for name in ("./model_config.yaml", "./model_weights.ckpt"):
            archive.addfile(tarfile.TarInfo(name), io.BytesIO())
    return path


def validation(run: RunFolder, step: int, wer: float, ctc_wer: float) -> None:
    row = {"step": step, "epoch": 0, "time": 1.0, "split": "validation"}
    run.append_metrics(row | {"wer": wer, "ctc_wer": ctc_wer, "cer": wer / 3})


def test_the_list_is_by_wer_with_what_each_validation_measured(run: RunFolder) -> None:
    for step, wer, ctc_wer in ((100, 0.31248, 0.4), (70_000, 0.20001, 0.25), (70_100, 0.2, 0.26)):
        validation(run, step, wer, ctc_wer)
    folder = run.checkpoints
    checkpoint(folder / "small--val_wer=0.3125-epoch=2.ckpt", 2, 100)
    checkpoint(folder / "small--val_wer=0.2000-epoch=9.ckpt", 9, 70_000)
    checkpoint(folder / "small--val_wer=0.2000-epoch=10.ckpt", 10, 70_100)
    checkpoint(folder / "last.ckpt", 300, 70_100)
    nemo(folder / "small--val_wer=0.2000.nemo")
    checkpoint(folder / ".small--val_wer=0.0100-xyz.ckpt", 0, 0)  # being written
    gone = folder / "small--val_wer=0.0500-epoch=1.ckpt"
    gone.symlink_to("nowhere")  # went while we looked

    saved = saved_in(run)
    assert [(one.path.name, one.epoch, one.step, one.measured.get("ctc_wer")) for one in saved] == [
        ("small--val_wer=0.2000.nemo", None, None, None),
        ("small--val_wer=0.2000-epoch=9.ckpt", 9, 70_000, 0.25),
        ("small--val_wer=0.2000-epoch=10.ckpt", 10, 70_100, 0.26),
        ("small--val_wer=0.3125-epoch=2.ckpt", 2, 100, 0.4),
        ("last.ckpt", 300, 70_100, 0.26),
    ]
    assert saved[-1].wer == 0.2, "the weights of last.ckpt were validated at its step"
    source = source_of(saved[0], saved)
    assert source is not None and source.step == 70_100, "of equal names the lower exact rate is the .nemo"
    gone.unlink()
    assert run.best_model() == saved[0].path


@pytest.mark.parametrize("content", [b"", b"<html>", b"PK\x03\x04 cut", "half"])
@pytest.mark.parametrize("suffix", [".ckpt", ".nemo"])
def test_a_torn_file_is_named_and_never_the_best(run: RunFolder, content: bytes | str, suffix: str) -> None:
    whole = checkpoint(run.checkpoints / "small--val_wer=0.5000-epoch=1.ckpt", 1, 10)
    if suffix == ".nemo":
        nemo(run.checkpoints / "small--val_wer=0.5000.nemo")
    bad = run.checkpoints / f"small--val_wer=0.1000-epoch=3{suffix}"
    if isinstance(content, str):
        content = whole.read_bytes()[:-200] if suffix == ".ckpt" else _archive_cut_in_its_weights()
    bad.write_bytes(content)
    saved = saved_in(run)
    assert [one.path for one in saved if one.torn] == [bad]
    best = best_of(saved, suffix=suffix)
    assert best is not None and "0.5000" in best.path.name
    assert bad in [one.path for one in prune(saved, 9).dropped]


def _archive_cut_in_its_weights() -> bytes:
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w") as archive:
        for name in ("./model_config.yaml", "./model_weights.ckpt"):
            member = tarfile.TarInfo(name)
            member.size = 5000
            archive.addfile(member, io.BytesIO(bytes(5000)))
    return whole.getvalue()[:9000]


class Planted:
    def __init__(self, flag: Path) -> None:
        self.flag = flag

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.flag),)


def test_a_pickle_planted_in_a_checkpoint_does_not_run_when_it_is_listed(
    run: RunFolder, tmp_path: Path
) -> None:
    path = checkpoint(
        run.checkpoints / "small--val_wer=0.5000-epoch=1.ckpt", 1, 10, more=Planted(tmp_path / "it-ran")
    )
    assert [one.step for one in saved_in(run)] == [10]
    assert not (tmp_path / "it-ran").exists()
    with zipfile.ZipFile(path) as archive:
        pickle.loads(archive.read(f"{path.stem}/data.pkl"))
    assert (tmp_path / "it-ran").exists(), "loaded without care it does run: the test can fail"


RATES = st.lists(st.integers(0, 9), min_size=0, max_size=8)


@settings(max_examples=30)
@given(RATES, st.integers(1, 4))
def test_what_is_kept_is_never_worse_than_what_goes(
    tmp_path_factory: pytest.TempPathFactory, rates: list[int], keep: int
) -> None:
    run = create_run(tmp_path_factory.mktemp("kept"), "small")
    for epoch, rate in enumerate(rates):
        checkpoint(run.checkpoints / f"small--val_wer=0.{rate}000-epoch={epoch}.ckpt", epoch, epoch + 1)
        nemo(run.checkpoints / f"small--val_wer=0.{rate}000-average={epoch + 2}.nemo")
    checkpoint(run.checkpoints / "last.ckpt", 99, 99)
    checkpoint(run.checkpoints / "mine.ckpt", 1, 1)
    saved = saved_in(run)
    pruning = prune(saved, keep)
    names = [{one.path.name for one in part} for part in (pruning.kept, pruning.dropped, pruning.foreign)]
    assert names[2] == {"mine.ckpt"}
    assert "last.ckpt" in names[0]
    assert names[0] | names[1] | names[2] == {one.path.name for one in saved}
    assert sum(map(len, names)) == len(saved)
    for suffix, number in ((".ckpt", min(keep, len(rates))), (".nemo", min(1, len(rates)))):
        stay = [one.wer for one in pruning.kept if one.ranked and one.path.suffix == suffix]
        go = [one.wer for one in pruning.dropped if one.path.suffix == suffix]
        assert len(stay) == number
        assert not go or max(stay) <= min(go)  # type: ignore[type-var]


def test_a_second_name_of_a_file_that_stays_frees_nothing(run: RunFolder) -> None:
    last = checkpoint(run.checkpoints / "last.ckpt", 5, 50)
    os.link(last, run.checkpoints / "small--val_wer=0.9000-epoch=5.ckpt")
    alone = checkpoint(run.checkpoints / "small--val_wer=0.8000-epoch=4.ckpt", 4, 40)
    checkpoint(run.checkpoints / "small--val_wer=0.7000-epoch=3.ckpt", 3, 30)
    dropped = prune(saved_in(run), 1).dropped
    assert len(dropped) == 2
    assert freed_bytes(dropped) == alone.stat().st_size


def test_a_model_is_copied_once_and_nothing_else_is_overwritten(tmp_path: Path) -> None:
    source, target = nemo(tmp_path / "a.nemo"), tmp_path / "new" / "b.nemo"
    assert copy_model(source, target)
    assert target.read_bytes() == source.read_bytes()
    assert not copy_model(source, target)
    target.write_bytes(b"somebody's own")
    with pytest.raises(QuranAsrError, match="is another file"):
        copy_model(source, target)
    assert target.read_bytes() == b"somebody's own"
    assert [path.name for path in target.parent.iterdir()] == ["b.nemo"]


def test_a_run_goes_on_from_the_newest_whole_checkpoint(run: RunFolder) -> None:
    assert newest_whole(run) == (None, None)
    older = checkpoint(run.checkpoints / "small--val_wer=0.2000-epoch=1.ckpt", 1, 100)
    newer = checkpoint(run.checkpoints / "small--val_wer=0.3000-epoch=2.ckpt", 2, 200)
    last = checkpoint(run.checkpoints / "last.ckpt", 3, 300)
    whole = last.read_bytes()
    assert newest_whole(run) == (last, None)
    last.write_bytes(whole[: len(whole) // 2])
    assert newest_whole(run) == (newer, "torn, or not a checkpoint")
    last.write_bytes(b"")
    assert newest_whole(run)[0] == newer
    last.write_bytes(whole.replace(bytes(1000), bytes(500) + b"x" + bytes(499)))
    assert newest_whole(run) == (newer, "some of its bytes are wrong")
    newer.write_bytes(newer.read_bytes()[:-100])
    assert newest_whole(run)[0] == older
    last.unlink()
    assert newest_whole(run) == (older, None)
    older.write_bytes(b"PK")
    with pytest.raises(QuranAsrError, match="no other checkpoint of the run is whole"):
        newest_whole(run)
