"""`watch` on logs of other toolkits: read for what they are, or refused by name."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quran_asr.cli.main import main
from quran_asr.errors import QuranAsrError
from quran_asr.experiments.curve_files import read_curves
from quran_asr.experiments.curves import Curves
from quran_asr.experiments.diagnostics.forecast import forecast
from quran_asr.experiments.diagnostics.rules import diagnose

# Logs as these toolkits write them, of trainings that go as these public ones did


def loss(step: float) -> float:
    return 2.8 * math.exp(-step / 400) + 0.05


def hugging_face(in_percent: bool = True) -> list[dict[str, Any]]:
    """A fine-tuning whose training loss falls and whose evaluation gets worse from the first epoch on."""
    history: list[dict[str, Any]] = []
    for step in range(25, 2001, 25):
        place = {"epoch": step / 200, "step": step}
        history.append({**place, "loss": loss(step), "learning_rate": 1e-5 * (1 - step / 2000)})
        if step % 200 == 0:
            wer = (30 + step / 100) * (1.0 if in_percent else 0.01)
            evaluated = {"eval_loss": 0.4 + step / 4000, "eval_wer": wer, "eval_runtime": 81.5}
            history.append({**place, **evaluated, "eval_samples_per_second": 5.2})
    return history


def trainer_state(path: Path) -> None:
    path.write_text(json.dumps({"global_step": 2000, "epoch": 10.0, "log_history": hugging_face()}))


def hugging_face_csv(path: Path) -> None:
    columns = ["epoch", "step", "loss", "learning_rate", "eval_loss", "eval_wer"]
    rows = [",".join(str(entry.get(key, "")) for key in columns) for entry in hugging_face()]
    path.write_text("\n".join([",".join(columns), *rows]))


def model_card(path: Path) -> None:
    """The table of a model card, in Markdown; the first loss is not logged yet."""
    rows = ["| Training Loss | Epoch | Step | Validation Loss | Wer |", "|:---:|:---:|:---:|:---:|:---:|"]
    for step in range(200, 2001, 200):
        first = "No log" if step == 200 else f"{loss(step):.4f}"
        rows.append(f"| {first} | {step / 200} | {step} | {0.4 + step / 4000:.4f} | {30 + step / 100:.4f} |")
    path.write_text("\n".join(rows))


def notebook(path: Path) -> None:
    """The table under a notebook's cell, copied: tabs between the columns."""
    rows = ["Step\tTraining Loss\tValidation Loss\tWer"]
    rows += [
        f"{at}\t{loss(at):.4f}\t{0.4 + at / 4000:.4f}\t{30 + at / 100:.2f}" for at in range(200, 2001, 200)
    ]
    path.write_text("\n".join(rows))


def lightning_csv(path: Path) -> None:
    """`CSVLogger`: a row for each kind of measurement. A start that never learns, its CTC loss at 60."""
    rows = ["epoch,step,train_loss_step,train_rnnt_loss,train_ctc_loss,lr-AdamW,val_loss,val_wer,val_wer_ctc"]
    for step in range(49, 9000, 50):
        rnnt, ctc = 0.8 + 50 * math.exp(-step / 600), 60 + 40 * math.exp(-step / 300)
        rows.append(f"{step // 100},{step},{0.7 * rnnt + 0.3 * ctc},{rnnt},{ctc},0.0001,,,")
        if step % 100 == 99:
            rows.append(f"{step // 100},{step},,,,,80.0,{0.93 + 0.01 * math.sin(step)},1.0")
    path.write_text("\n".join(rows))


def wandb_history(path: Path) -> None:
    """A history with the log calls of W&B, the optimizer steps and the epoch."""
    rows = ["_step,_runtime,_timestamp,trainer/global_step,epoch,train_rnnt_loss,train_ctc_loss,val_wer"]
    for call in range(300):
        wer = "0.93" if call % 10 == 9 else ""
        rows.append(f"{call},{2 * call},{1.7e9 + call},{10 * (call + 1)},{call // 10},0.8,60,{wer}")
    path.write_text("\n".join(rows))


def wandb_panel(path: Path) -> None:
    rows = ['"trainer/global_step","fc-quran - val_wer","fc-quran - val_wer__MIN","fc-quran - val_wer__MAX"']
    rows += [f'"{step}","0.93","0.93","0.93"' for step in range(100, 1101, 100)]
    path.write_text("\n".join(rows))


def nemo_text(path: Path) -> None:
    lines = ["[NeMo I 2026-11-02 10:00:00 exp_manager:400] Experiments will be logged at runs/fc"]
    for epoch in range(12):
        wer = 0.6 / (1 + epoch / 4) + 0.1
        place = f"Epoch {epoch}, global step {100 * (epoch + 1)}: "
        file = f"fc--val_wer={wer:.4f}-epoch={epoch}.ckpt"
        lines.append(
            f"{place}'val_wer' reached {wer:.5f} (best {wer:.5f}), saving model to '{file}' as top 3"
        )
        lines.append(f"Epoch {epoch}, global step {100 * (epoch + 1) + 50}: 'val_wer' was not in top 3")
    path.write_text("\n".join(lines))


def old_lightning_text(path: Path) -> None:
    """Lightning 1.5 wrote the tag without quotes."""
    nemo_text(path)
    lines = [line for line in path.read_text().splitlines() if "was not in" not in line]
    path.write_text("\n".join(lines).replace("'val_wer'", "val_wer"))


def nemo_stuck(path: Path) -> None:
    """Twelve validations that each improve, and 48 that do not."""
    falls = [f"'val_wer' reached {1.03 * 0.912**epoch:.5f} (best 0.1)" for epoch in range(1, 13)]
    lines = [*falls, *["'val_wer' was not in top 3"] * 48]
    path.write_text(
        "\n".join(f"Epoch {at}, global step {500 * at}: {line}" for at, line in enumerate(lines, 1))
    )


def icefall(path: Path) -> None:
    """The loss rises for good in the fourth epoch."""
    lines = []
    for batch in range(0, 4000, 50):
        epoch, at = batch // 1000 + 1, batch % 1000
        now = 7 * math.exp(-batch / 500) + 0.3 + (4.0 if batch > 3200 else 0.0)
        clock = f"2026-11-02 10:{batch // 100:02d}:00,000 INFO [train.py:895] (0/1) "
        losses = (
            f"loss={now:.4g}, simple_loss={1.3 * now:.4g}, pruned_loss={0.9 * now:.4g}, over 5000.00 frames. "
        )
        lines.append(f"{clock}Epoch {epoch}, batch {at}, loss[{losses}], tot_loss[{losses}], batch size: 20, "
                     "lr: 3.00e-03, grad_scale: 1.0")  # fmt: skip
        if at == 950:
            lines.append(f"{clock}Epoch {epoch}, validation: loss={now:.4g}, over 944034.00 frames. ")
    path.write_text("\n".join(lines))


def espnet(path: Path) -> None:
    """A WER that stands still at 0.4."""
    lines = []
    for epoch in range(1, 31):
        head = f"[gpu1] 2026-11-02 {epoch % 24:02d}:00:00,000 (trainer:338) INFO: "
        lines.append(f"{head}{epoch}epoch:train:1-50batch: iter_time=0.1, loss_ctc=30.1, loss=30.0")
        loss_ctc, loss_transducer = 80 / epoch + 5, 70 / epoch + 4
        losses = f"loss_ctc={loss_ctc:.3f}, loss_transducer={loss_transducer:.3f}, loss={75 / epoch:.3f}"
        wer = max(0.4, 1.0 - 0.15 * epoch)
        lines.append(
            f"{head}{epoch}epoch results: [train] iter_time=0.104, {losses}, optim0_lr0=0.001, "
            f"total_count={400 * epoch}, [valid] {losses}, cer_transducer={0.5 * wer:.3f}, "
            f"wer_transducer={wer:.3f}, cer_ctc={0.6 * wer:.3f}, total_count={40 * epoch}, time=12 seconds"
        )
    path.write_text("\n".join(lines))


def fell_back(path: Path) -> None:
    """CTC a token of a start that left its plateau on short clips and fell back when long ones came."""
    rows = ["360,3.44", "720,3.29", "1080,3.20", "1440,3.27", "1800,3.36"]
    path.write_text("\n".join(["step,ctc_per_token", *rows]))


READ: list[tuple[str, Callable[[Path], None], str, str, int]] = [
    ("trainer_state.json", trainer_state, "overfitting", "step", 2000),
    ("hf.csv", hugging_face_csv, "overfitting", "step", 2000),
    ("card.md", model_card, "overfitting", "step", 2000),
    ("notebook.tsv", notebook, "overfitting", "step", 2000),
    ("metrics.csv", lightning_csv, "stuck-ignores-audio", "step", 8999),
    ("history.csv", wandb_history, "stuck-ignores-audio", "step", 3000),
    ("panel.csv", wandb_panel, "not-learning", "step", 1100),
    ("nemo_log_globalrank-0.txt", nemo_text, "wer-falls", "step", 1250),
    ("old_lightning.txt", old_lightning_text, "wer-falls", "step", 1200),
    ("nemo_stuck.txt", nemo_stuck, "no-improvement", "step", 30_000),
    ("log-train", icefall, "divergence", "step", 3951),
    ("train.log", espnet, "plateau", "step", 12_000),
    ("start.csv", fell_back, "fell-back", "step", 1800),
]


@pytest.mark.parametrize(("name", "write", "code", "unit", "last"), READ, ids=[row[0] for row in READ])
def test_a_log_is_read_and_judged(
    tmp_path: Path, name: str, write: Callable[[Path], None], code: str, unit: str, last: int
) -> None:
    write(tmp_path / name)
    curves = read_curves(tmp_path / name)
    found = {diagnosis.code: diagnosis for diagnosis in diagnose(curves)}
    assert code in found, found
    bad = {key for key, diagnosis in found.items() if diagnosis.severity in ("error", "warning")} - {code}
    assert not bad, bad
    assert (curves.place(curves.steps).partition(" ")[0], curves.steps) == (unit, last)
    assert "plateau" not in found or code == "plateau"


def read(path: Path, text: str) -> Curves:
    path.write_text(text)
    return read_curves(path)


def test_a_folder_of_hugging_face_is_its_newest_state(tmp_path: Path) -> None:
    for step in (400, 2000, 1200):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        history = [entry for entry in hugging_face() if entry["step"] <= step]
        (folder / "trainer_state.json").write_text(json.dumps({"log_history": history}))
    curves = read_curves(tmp_path)
    assert (curves.name, curves.steps) == (tmp_path.name, 2000)


@pytest.mark.parametrize("write", [model_card, notebook])
def test_a_loss_that_is_not_logged_yet_is_no_loss(write: Callable[[Path], None], tmp_path: Path) -> None:
    write(tmp_path / "table.txt")
    text = (tmp_path / "table.txt").read_text()
    (tmp_path / "table.txt").write_text(text.replace(f"{loss(200):.4f}", "No log"))
    losses = read_curves(tmp_path / "table.txt").training["loss"]
    assert len(losses) == 9 and all(point.value is not None for point in losses)


def test_percent_of_hugging_face_is_converted_and_noted(tmp_path: Path) -> None:
    trainer_state(tmp_path / "trainer_state.json")
    curves = read_curves(tmp_path / "trainer_state.json")
    assert curves.validation["wer"][0].value == pytest.approx(0.32)
    assert any("`eval_wer` is taken for percent" in note for note in curves.notes)
    (tmp_path / "b.json").write_text(json.dumps({"log_history": hugging_face(in_percent=False)}))
    curves = read_curves(tmp_path / "b.json")
    assert curves.validation["wer"][0].value == pytest.approx(0.32)
    assert curves.notes == ()


def test_unknown_columns_are_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = "step,train_loss,beam_width,val_wer,eval_bleu,_runtime\n" + "10,5,4,0.5,0.1,3\n20,4,4,0.4,0.2,6\n"
    curves = read(tmp_path / "a.csv", text)
    assert curves.notes == ("columns that no diagnostic knows: `beam_width`, `eval_bleu`",)
    with pytest.raises(SystemExit):
        main(["watch", str(tmp_path / "a.csv")])
    assert "note: columns that no diagnostic knows: `beam_width`, `eval_bleu`" in capsys.readouterr().err


def test_an_epoch_is_never_called_a_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every rule that names a place, on tables that hold epochs alone."""
    tables = {
        "overfitting": [(9 / at, 0.3 + 0.006 * at, 1 + 0.1 * at) for at in range(1, 25)],
        "late-collapse": [(9 / at, 0.2 if at < 20 else 0.9, 1.0) for at in range(1, 25)],
        "plateau": [(9 / at, 0.4, 1.0) for at in range(1, 25)],
        "settled": [(9 / at, 0.05, 1.0) for at in range(1, 25)],
        "not-a-number": [(math.nan if at > 15 else 9 / at, 0.4, 1.0) for at in range(1, 25)],
        "divergence": [(9 / at if at < 15 else 60.0, 0.9, 1.0) for at in range(1, 25)],
        "stuck-wer": [(9.0, 0.93, 1.0) for at in range(1, 25)],
    }
    for code, rows in tables.items():
        lines = [f"{at},{a},1e-4,{b},{c}" for at, (a, b, c) in enumerate(rows, start=1)]
        curves = read(tmp_path / f"{code}.csv", "\n".join(["epoch,train_loss,lr,val_wer,val_loss", *lines]))
        assert curves.in_epochs
        diagnoses = diagnose(curves)
        assert code in {diagnosis.code for diagnosis in diagnoses}
        for diagnosis in diagnoses:
            assert "step " not in diagnosis.message + diagnosis.remedy.partition("try")[0], diagnosis
        with pytest.raises(SystemExit):
            main(["watch", "--json", str(tmp_path / f"{code}.csv")])
        printed = json.loads(capsys.readouterr().out)
        assert (printed["unit"], printed["steps"], printed["epochs"]) == ("epoch", None, 24)


def test_log_calls_of_weights_and_biases_are_not_called_optimizer_steps(tmp_path: Path) -> None:
    curves = read(tmp_path / "h.csv", "_step,_runtime,val_wer\n0,1,0.9\n1,2,0.8\n")
    assert "counts the log calls of Weights & Biases" in curves.notes[0]
    curves = read(
        tmp_path / "p.csv", '"Step","run-1 - val_wer","run-1 - val_wer__MIN"\n1,0.9,0.1\n2,0.8,0.1\n'
    )
    assert "counts the log calls of Weights & Biases" in curves.notes[0]
    assert [point.value for point in curves.validation["wer"]] == [0.9, 0.8]


def test_a_run_of_weights_and_biases_may_have_a_dash_in_its_name(tmp_path: Path) -> None:
    name = "ft - lr 1e-4 - val_wer"
    curves = read(tmp_path / "p.csv", f'"Step","{name}","{name}__MIN"\n1,0.9,0.1\n2,0.8,0.1\n')
    assert [point.value for point in curves.validation["wer"]] == [0.9, 0.8]
    assert len(curves.notes) == 1 and "no diagnostic knows" not in curves.notes[0]
    with pytest.raises(QuranAsrError, match="2 runs of Weights & Biases: a - 1, a - 2"):
        read(tmp_path / "q.csv", "Step,a - 1 - val_wer,a - 2 - val_wer\n1,0.9,0.8\n")


def test_a_text_log_that_holds_no_improvement_is_read(tmp_path: Path) -> None:
    """Of a run that was resumed, and has not come to its best again."""
    lines = [f"Epoch {at}, global step {100 * at}: 'val_wer' was not in top 3" for at in range(1, 9)]
    curves = read(tmp_path / "nemo.txt", "\n".join(lines))
    assert (curves.steps, curves.notes) == (800, (NOT_ALL,))
    assert {diagnosis.code for diagnosis in diagnose(curves)} == set()


NOT_ALL = "only validations that were among the best are in the text log: a rise cannot be seen in it"


def test_a_text_log_is_not_forecast_from_its_improvements_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its last step counts, whatever was reached there; nothing is expected at steps long past."""
    nemo_stuck(tmp_path / "nemo.txt")
    with pytest.raises(SystemExit) as ended:
        main(["watch", str(tmp_path / "nemo.txt")])
    shown = capsys.readouterr().out
    assert ended.value.code in (0, None)
    assert "nemo: step 30,000, epoch 60, WER 0.341 at step 6,000\n" in shown
    assert (
        "warning [no-improvement] none of the last 48 validations, to step 30,000, was among the 3 best"
        in shown
    )
    assert "wer-falls" not in shown and "expected" not in shown
    assert "forecast: no forecast after `no-improvement`" in shown


@pytest.mark.parametrize(("missed", "withheld"), [(0, False), (2, False), (3, True), (6, True)])
def test_a_few_validations_behind_the_best_withhold_the_forecast_and_the_praise(
    tmp_path: Path, missed: int, withheld: bool
) -> None:
    nemo_stuck(tmp_path / "nemo.txt")
    lines = (tmp_path / "nemo.txt").read_text().splitlines()[: 12 + missed]
    curves = read(tmp_path / "nemo.txt", "\n".join(lines))
    ahead = forecast(curves, diagnose(curves))
    assert (ahead.expected == ()) == withheld
    assert ("wer-falls" not in {diagnosis.code for diagnosis in diagnose(curves)}) == withheld
    if withheld:
        assert ahead.reason == f"no forecast: the WER of the last {missed} validations is not in the log"
    assert all(expected.step > curves.steps for expected in ahead.expected)


PRINTED = "{'loss': 2.31, 'grad_norm': 1.2, 'learning_rate': 1e-05, 'epoch': 0.1}"


@pytest.mark.parametrize(
    "text",
    [
        f"  5%|5         | 25/500 [00:30<09:10, 1.2s/it]{PRINTED}",
        f"  1%|1         | 10/1000 [00:05<01:00]\r          \r{PRINTED}",
        f"INFO:root: {PRINTED}",
        f"2026-11-02 10:00:00,000 - INFO - {PRINTED.replace(chr(39) + 'loss', chr(39) + 'a_loss')}",
        "{'epoch': 0.1, 'loss': 2.31}",
        "{'train_runtime': 3.1, 'train_loss': 2}",
        "{'eval_wer': 31.2, 'eval_runtime': 3.0, 'epoch': 1.0}",
        "step 1 was fine\n{'loss': '2.31', 'epoch': '0.1'}",
    ],
)
def test_what_the_hugging_face_trainer_prints_is_refused_by_name(tmp_path: Path, text: str) -> None:
    with pytest.raises(QuranAsrError, match="text log of the Hugging Face Trainer") as refused:
        read(tmp_path / "out.log", text + "\n")
    assert "trainer_state.json" in (refused.value.remedy or "")


@pytest.mark.parametrize(("rnnt", "memorized"), [(0.6, True), (20.0, False)])
def test_a_plateau_is_explained_by_the_losses(tmp_path: Path, rnnt: float, memorized: bool) -> None:
    rows = [f"{epoch},{rnnt},70,{0.74 + 0.01 * math.sin(epoch)}" for epoch in range(60)]
    curves = read(tmp_path / "a.csv", "\n".join(["epoch,train_rnnt_loss,train_ctc_loss,val_wer", *rows]))
    (plateau,) = [one for one in diagnose(curves) if one.code == "plateau"]
    assert ("ignores the audio" in plateau.cause) is memorized
    assert ("the model is too small" in plateau.cause) is not memorized


def test_parts_of_epochs_are_noted(tmp_path: Path) -> None:
    curves = read(tmp_path / "a.csv", "epoch,val_wer\n0.5,0.9\n1.0,0.8\n1.5,0.7\n1.75,0.6\n")
    assert [point.value for point in curves.validation["wer"]] == [0.9, 0.6]
    assert curves.notes == ("`epoch` has parts of epochs: the last row of each epoch counts",)
    assert read(tmp_path / "b.csv", "epoch,val_wer\n1.0,0.8\n2.0,0.7\n").notes == ()


def test_a_copy_of_our_metrics_is_read_under_any_name(tmp_path: Path) -> None:
    metrics = (Path(__file__).parent / "curves" / "healthy.jsonl").read_text("utf-8")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.jsonl").write_text(metrics, "utf-8")
    ours = read_curves(tmp_path / "run")
    copied = read(tmp_path / "laptop.jsonl", metrics + '{"step": 99999, "spl')
    for split, of_ours in ((copied.training, ours.training), (copied.validation, ours.validation)):
        for key in ("loss", "transducer_loss", "ctc_per_token", "wer", "ctc_wer"):
            assert split.get(key) == of_ours.get(key)
    assert [one.code for one in diagnose(copied)] == [one.code for one in diagnose(ours)]


def test_json_lines_of_others_are_read(tmp_path: Path) -> None:
    rows = [{"config": {"lr": 1e-3}}]
    rows += [
        {"global_step": 10 * n, "train/loss": 3 / n, "eval/wer": None if n % 2 else 1 / n}
        for n in range(1, 9)
    ]
    curves = read(tmp_path / "log.json", "".join(json.dumps(row) + "\n" for row in rows))
    assert [point.step for point in curves.validation["wer"]] == [20, 40, 60, 80]
    assert [point.value for point in curves.training["loss"]] == [3 / n for n in range(1, 9)]


def test_a_dictionary_in_a_column_of_bookkeeping_is_no_log_of_hugging_face(tmp_path: Path) -> None:
    curves = read(tmp_path / "h.csv", "step,val_wer,_wandb\n10,0.5,{'runtime': 3}\n20,0.4,{'runtime': 6}\n")
    assert len(curves.validation["wer"]) == 2


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("run.wandb", "binary", "binary log of Weights & Biases"),
        ("p.csv", "Step,a - val_wer,b - val_wer\n1,0.9,0.8\n", "2 runs of Weights & Biases: a, b"),
        (
            "out.log",
            "{'loss': 2.81, 'grad_norm': 3.1, 'epoch': 0.12}\n",
            "text log of the Hugging Face Trainer",
        ),
        ("nemo.txt", "[NeMo I 2026-11-02 10:00:00 a:1] Trainer\n[NeMo W 2026] b\n", "text log of NeMo"),
        ("e.log", "(trainer:756) INFO: 1epoch:train:1-50batch: loss=3.0\n", "text log of ESPnet 2"),
        ("s.txt", "epoch: 1, lr: 1.0e-03 - train loss: 2.3 - valid loss: 1.2\n", "text log of SpeechBrain"),
        (
            "icefall.log",
            "INFO [train.py:527] Epoch 0, batch 50, batch avg ctc loss 0.5, batch avg att loss 0.6\n",
            "text log of early icefall",
        ),
        ("other.json", '{"a": 1}', "not a `trainer_state.json`"),
        ("torn.json", '{"log_history": [', "not readable JSON"),
        ("empty.json", '{"log_history": []}', "without measurements"),
        ("notes.txt", "the training went well\n", "no column `step` or `epoch`"),
    ],
)
def test_what_cannot_be_read_is_refused_by_name(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(QuranAsrError, match=message) as refused:
        read_curves(tmp_path / name)
    assert refused.value.remedy or "measurements" in refused.value.what
    assert str(tmp_path / name) in str(refused.value)


FRAGMENTS = (
    "Epoch 1, batch 50, loss[loss=0.5, over 3.00 frames. ], tot_loss[loss=1.2.3, ], lr: 3.00e-03.",
    "Epoch 1, validation: loss=",
    "Epoch 3, global step 9: 'val_wer' reached 0.5.",
    "Epoch 4, global step 99: 'val_wer' was not in top 3",
    "Epoch 4, global step 7: train_loss was not in top 10",
    "2epoch results: [train] loss=3,",
    " total_count=9, [valid] wer=nan",
    "{'loss': 2.8}",
    "step,val_wer",
    "|Step|Wer|",
    "Step\tWer",
    '{"log_history": [',
    '{"step": 1e400, "loss": 3}',
    ",",
    "\n",
    "|",
    '"',
    "99999999999999999999",
    "nan",
    "-1",
    "0.5",
)


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.one_of(st.sampled_from(FRAGMENTS), st.text(max_size=5)), max_size=12),
    st.sampled_from(["x.csv", "x.log", "x.json"]),
)
def test_any_text_is_read_or_refused_in_one_line(
    tmp_path_factory: pytest.TempPathFactory, parts: list[str], name: str
) -> None:
    path = tmp_path_factory.getbasetemp() / name
    path.write_text("".join(parts), encoding="utf-8", errors="ignore")
    try:
        diagnose(read_curves(path))
    except QuranAsrError as error:
        assert error.what and "\n" not in error.what
