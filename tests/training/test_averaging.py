"""Averages of checkpoints, with a real small model that has learned two verses by heart."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from quran_asr.cli.main import main
from quran_asr.config.recipe import load_recipe
from quran_asr.corpus.manifest import read_manifest
from quran_asr.corpus.synthesis import synthesize_corpus
from quran_asr.errors import QuranAsrError
from quran_asr.evaluation.edit_distance import count
from quran_asr.evaluation.report import ScoredClip
from quran_asr.evaluation.scoring import score_clips
from quran_asr.experiments.run_folder import RunFolder, create_run, open_run
from quran_asr.records import Counts, Segment, Transcript, VerseRef
from quran_asr.training.averaging import difference_interval, export, mean_weights
from quran_asr.training.checkpoints import checkpoint_facts, model_weights, read_checkpoint
from quran_asr.training.nemo_archive import read_archive, read_weights
from quran_asr.training.recognizer import load_recognizer
from quran_asr.training.trainer import train

pytestmark = pytest.mark.slow

LEARNS = (
    "model.encoder.n_layers=1",
    "model.encoder.d_model=64",
    "model.encoder.n_heads=2",
    "model.encoder.subsampling_conv_channels=16",
    "model.decoder.prednet={pred_hidden: 64, dropout: 0.0}",
    "model.joint.jointnet={joint_hidden: 64, dropout: 0.0}",
    "model.decoding.greedy.max_symbols=3",
    "model.optim.lr=5.0e-3",
    "model.optim.sched.warmup_steps=20",
    "quran.vocabulary_size=48",
    "quran.curriculum=null",
    "quran.augment=null",
    "quran.overfit_gate_steps=0",
    "trainer.max_steps=90",
    "trainer.check_val_every_n_epoch=null",
    "trainer.val_check_interval=30",
    "exp_manager.checkpoint_callback_params.save_top_k=9",
    "name=FastConformer-Hybrid-Transducer-CTC-BPE-Streaming",
)

ONE_LINER = (
    "import glob, re; from pathlib import Path; "
    "print(min(glob.glob('nemo_experiments/FastConformer-Hybrid-Transducer-CTC-BPE-Streaming/*/"
    "checkpoints/*.nemo'), "
    "key=lambda p: float(re.search(r'val_wer=([\\d.]+)', Path(p).stem).group(1))))"
)
"""The guide's, over the runs of a folder."""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """90 steps on two verses, which are the validation too; nobody writes in it."""
    place = tmp_path_factory.mktemp("trained")
    spoken = synthesize_corpus([VerseRef(112, 1), VerseRef(112, 2)], ["ar"], place / "spoken", seed=0)
    manifests = [f"model.{ds}.manifest_filepath={spoken}" for ds in ("train_ds", "validation_ds")]
    recipe = load_recipe("quickstart", [*LEARNS, *manifests])
    run = create_run(place / "nemo_experiments", recipe.name)
    run.write_recipe(recipe)
    clips = read_manifest(spoken, "letters")
    train(recipe, run, clips, clips, watcher=lambda progress: None, on_finding=print)
    best = min(row["wer"] for row in run.read_metrics() if row["split"] == "validation")
    assert best <= 0.5, "it has learned something, or nothing below is a test"
    return run


@pytest.fixture
def run(trained: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    """A copy of the run to write in; the working folder is the one that holds `nemo_experiments`."""
    folder = tmp_path / "nemo_experiments" / trained.path.parent.name / trained.path.name
    shutil.copytree(trained.path, folder)
    monkeypatch.chdir(tmp_path)
    return open_run(folder)


def words_of(recognizer_of: Path, segments: list[Segment]) -> Counts:
    answers = list(load_recognizer(recognizer_of, "transducer", pause_seconds=None).recognize_clips(segments))
    counts = [
        count(segment.text.split(), answer.text.split())
        for segment, answer in zip(segments, answers, strict=True)
        if isinstance(answer, Transcript)
    ]
    assert len(counts) == len(segments)
    return sum(counts[1:], counts[0])


def clips_of(run: RunFolder) -> list[Segment]:
    return read_manifest(load_recipe(run.recipe).model.validation_ds.manifests[0], "letters")


def put(run: RunFolder, weights: dict[str, Tensor], epoch: int) -> Path:
    """A checkpoint of the run with other weights, under its WER by greedy search, as in training."""
    whole = read_checkpoint(run.checkpoints / "last.ckpt")
    unnamed = run.checkpoints / f"unnamed-{epoch}.ckpt"
    state = {f"model.{name}": tensor for name, tensor in weights.items()}
    torch.save(whole | {"epoch": epoch, "state_dict": state}, unnamed)
    rate = words_of(unnamed, clips_of(run)).rate
    named = run.checkpoints / f"{run.path.parent.name}--val_wer={rate:.4f}-epoch={epoch}.ckpt"
    return unnamed.rename(named)


def only(run: RunFolder, *kept: dict[str, Tensor]) -> list[Path]:
    """Replace the run's checkpoints by others with these weights."""
    for path in run.checkpoints.iterdir():
        if path.name != "last.ckpt":
            path.unlink()
    return [put(run, weights, 100 + i) for i, weights in enumerate(kept)]


def away(weights: dict[str, Tensor], sign: float) -> dict[str, Tensor]:
    """The weights moved far in a direction that is always the same."""
    generator = torch.Generator().manual_seed(0)
    return {
        name: tensor + sign * torch.randn(tensor.shape, generator=generator) * tensor.std()
        if tensor.is_floating_point() and tensor.numel() > 1 and "featurizer" not in name
        else tensor
        for name, tensor in weights.items()
    }


def best_weights(run: RunFolder) -> dict[str, Tensor]:
    best = run.best_checkpoint()
    assert best is not None
    return {name: tensor.clone() for name, tensor in model_weights(best).items()}


def command(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as end:
        main(["checkpoints", *map(str, words)])
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    return int(end.value.code or 0), out, err


def test_an_average_is_the_mean_of_every_tensor(run: RunFolder) -> None:
    paths = sorted(run.checkpoints.glob("*epoch*.ckpt"))
    assert len(paths) == 3
    found = mean_weights(paths)
    each = [read_checkpoint(path)["state_dict"] for path in paths]
    assert {f"model.{name}" for name in found} == each[0].keys()
    for name, tensor in found.items():
        stack = np.stack([state[f"model.{name}"].numpy() for state in each])
        if tensor.is_floating_point():
            assert tensor.dtype == torch.float32
            expected = stack.astype(np.float64).mean(axis=0).astype(np.float32)
            np.testing.assert_allclose(tensor.numpy(), expected, rtol=2e-7, atol=0, err_msg=name)
        else:
            np.testing.assert_array_equal(tensor.numpy(), stack[0])
    assert not torch.equal(found["joint.enc.weight"], each[0]["model.joint.enc.weight"])


def test_a_mean_with_a_lower_wer_is_kept_and_is_the_runs_best_from_then_on(
    run: RunFolder, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    good = best_weights(run)
    apart = only(run, away(good, 1.0), away(good, -1.0))
    worse = [words_of(path, clips_of(run)) for path in apart]
    code, out, _ = command(capsys, "average", run.path, "--count", 2, "--json")
    found = json.loads(out)
    assert code == 0
    kept = Path(found["written"])
    assert found["kept"] and found["ranked"]
    assert found["average"]["wer"] < found["best"]["wer"]
    assert found["best"]["counts"]["hits"] == max(words.hits for words in worse)

    assert (
        kept.name == f"{apart[0].name.split('--')[0]}--val_wer={found['average']['wer']:.4f}-average=2.nemo"
    )
    assert [path.name for path in run.checkpoints.glob("*.nemo")] == [kept.name]
    for name, tensor in read_weights(read_archive(kept)).items():
        torch.testing.assert_close(tensor, good[name], rtol=1e-5, atol=1e-6)
    assert load_recognizer(run.path).name == str(kept)
    hypotheses = words_of(run.path, clips_of(run))
    assert [getattr(hypotheses, name) for name in found["average"]["counts"]] == list(
        found["average"]["counts"].values()
    )
    done = subprocess.run([sys.executable, "-c", ONE_LINER], capture_output=True, text=True, check=True)
    assert tmp_path / done.stdout.strip() == kept

    code, out, _ = command(capsys, "list", run.path)
    assert "best; mean of 2 checkpoints" in out.splitlines()[1]
    code, out, _ = command(capsys, "average", run.path, "--count", 2)  # once more: equal to what is there
    assert code == 0
    assert "equal: the average is not kept" in out
    assert kept.is_file()


def test_a_mean_with_a_higher_wer_is_not_kept(run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    good = best_weights(run)
    only(run, good, away(good, 2.0))
    before = sorted(run.checkpoints.iterdir())
    code, out, _ = command(capsys, "average", run.path, "--count", 2)
    assert code == 0
    assert "not better: the average is not kept" in out
    assert sorted(run.checkpoints.iterdir()) == before


def test_an_average_measured_on_other_clips_is_not_ranked_among_the_runs_models(
    run: RunFolder, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    good = best_weights(run)
    (first, _) = only(run, away(good, 1.0), away(good, -1.0))
    first.rename(first.with_name("x--val_wer=0.0010-epoch=7.ckpt"))  # on the run's own clips it was good
    same = load_recipe(run.recipe).model.validation_ds.manifests[0]
    code, out, _ = command(capsys, "average", run.path, "--count", 2, "--validation", same, "--json")
    found = json.loads(out)
    assert (code, found["kept"], found["ranked"]) == (0, True, False)
    assert Path(found["written"]).parent == run.path
    assert not list(run.checkpoints.glob("*.nemo"))


@pytest.mark.parametrize(("average", "stays"), [("0.0000", True), ("0.9999", False)])
def test_a_training_that_continues_keeps_a_better_average(run: RunFolder, average: str, stays: bool) -> None:
    nemo = run.best_nemo()
    assert nemo is not None
    averaged = nemo.rename(nemo.with_name(f"{run.path.parent.name}--val_wer={average}-average=3.nemo"))
    run.metrics.write_text("")  # whatever it validates now is its best so far
    recipe = load_recipe(run.recipe, ["trainer.max_steps=94", "trainer.val_check_interval=2"])
    clips = clips_of(run)
    train(recipe, run, clips, clips, watcher=lambda _: None, on_finding=print, resume=run.last_checkpoint())
    assert averaged.is_file() == stays
    assert (run.best_nemo() == averaged) == stays
    assert len(list(run.checkpoints.glob("*.nemo"))) == 1, "no worse one is written beside it"


def test_the_best_is_exported_once_and_restores_in_nemo_alone(
    run: RunFolder, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    best = run.best_checkpoint()
    assert best is not None
    for path in run.checkpoints.glob("*.nemo"):
        path.unlink()
    code, out, _ = command(capsys, "export", run.path)
    assert (code, "written from" in out) == (0, True)
    nemo = run.best_nemo()
    assert nemo is not None and nemo.stem == best.stem.split("-epoch")[0]
    written = nemo.stat().st_mtime_ns
    code, out, _ = command(capsys, "export", run.path)
    assert (code, "already exists" in out, nemo.stat().st_mtime_ns) == (0, True, written)

    nemo.write_bytes(nemo.read_bytes()[:-100_000])  # a torn one is written again
    code, out, err = command(capsys, "export", run.path, "--to", tmp_path / "mine.nemo")
    assert (code, "written from" in out, "broken-checkpoint" in err) == (0, True, True)
    code, out, _ = command(capsys, "export", run.path, "--to", tmp_path / "mine.nemo")
    assert (code, "already exists" in out) == (0, True)

    script = f"""
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "quran_asr":
            raise ImportError("this process has no quran_asr")
sys.meta_path.insert(0, Refuse())
import torch
from nemo.collections.asr.models import ASRModel
model = ASRModel.restore_from({str(tmp_path / "mine.nemo")!r}, map_location="cpu")
torch.save(model.state_dict(), {str(tmp_path / "weights.pt")!r})
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    restored = torch.load(tmp_path / "weights.pt", weights_only=True)
    expected = model_weights(best)
    assert restored.keys() == expected.keys()
    assert all(torch.equal(restored[name], expected[name]) for name in expected)


class Planted:
    def __init__(self, flag: Path) -> None:
        self.flag = flag

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.flag),)


def test_checkpoints_that_cannot_be_averaged_are_refused_in_one_line(
    run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")  # torch's own switch must not open the door
    first, second, _ = sorted(run.checkpoints.glob("*epoch*.ckpt"))
    whole = read_checkpoint(second)
    weights: dict[str, Any] = whole["state_dict"]
    flag = tmp_path / "it-ran"
    nan = {"model.joint.enc.bias": weights["model.joint.enc.bias"] * float("nan")}
    for change, message in (
        ({"state_dict": weights | {"model.joint.enc.bias": torch.zeros(3)}}, "joint.enc.bias has the shape"),
        ({"state_dict": weights | {"model.new": torch.zeros(3)}}, "new is in one of them only"),
        ({"state_dict": weights | nan}, "not finite"),
        ({"state_dict": {"optimizer": 3}}, "without weights of a model"),
        ({"planted": Planted(flag)}, "not a readable checkpoint"),
    ):
        torch.save(whole | change, second)
        with pytest.raises(QuranAsrError, match=message) as refused:
            mean_weights([first, second])
        assert "\n" not in str(refused.value.what)
        assert refused.value.where == str(second)
    with pytest.raises(QuranAsrError, match="not a readable checkpoint"):
        export(second, tmp_path / "out.nemo")
    assert not flag.exists()
    second.unlink()  # the training has replaced it meanwhile
    with pytest.raises(QuranAsrError, match="no such checkpoint"):
        mean_weights([first, second])


def test_the_list_agrees_with_the_checkpoints_themselves(
    run: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    _, out, _ = command(capsys, "list", run.path, "--json")
    listed = [one for one in json.loads(out)["checkpoints"] if not one["nemo"]]
    assert len(listed) == 4
    for one in listed:
        assert one["step"] == checkpoint_facts(Path(one["file"])).step
        assert one["epoch"] == read_checkpoint(Path(one["file"]))["epoch"]
        row = next(
            row for row in run.read_metrics() if (row["step"], row["split"]) == (one["step"], "validation")
        )
        assert (one["wer"], one["ctc_wer"], one["cer"]) == (row["wer"], row["ctc_wer"], row["cer"])


def test_the_interval_of_a_difference_is_paired() -> None:
    references = ["ا ب ت ث ج ح خ د ذ ر"] * 40
    old = [" ".join(text.split()[: 10 - i % 8]) for i, text in enumerate(references)]
    new = [text.rsplit(" ", 1)[0] for text in old]  # one word worse in every clip, whatever is drawn
    segment = Segment("a.mp3", 0.0, 1.0, (), "", "one")

    def scored(hypotheses: list[str]) -> list[ScoredClip]:
        return [
            ScoredClip(segment, score)
            for score in score_clips([(t,) for t in references], hypotheses, "letters")
        ]

    interval = difference_interval(scored(new), scored(old))
    assert interval == pytest.approx((0.1, 0.1))
