"""What other toolkits call their columns, and their training logs that are not tables.

Hugging Face Trainer (`trainer_state.json`), Lightning's and NeMo's text logs, icefall, ESPnet 2. Other
text is refused by name where it is known, so that nobody waits for a verdict on nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from quran_asr.errors import QuranAsrError

TRAINING = {
    "loss": "loss",
    "rnnt_loss": "transducer_loss",
    "loss_rnnt": "transducer_loss",
    "loss_transducer": "transducer_loss",
    "transducer_loss": "transducer_loss",
    "pruned_loss": "transducer_loss",
    "ctc_loss": "ctc_loss",
    "loss_ctc": "ctc_loss",
    "lr": "learning_rate",
    "lr-adamw": "learning_rate",
    "lr-adam": "learning_rate",
    "optim0_lr0": "learning_rate",
    "learning_rate": "learning_rate",
    "grad_norm": "gradient_norm",
    "gradient_norm": "gradient_norm",
    "step_timing_in_s": "step_seconds",
    "step_seconds": "step_seconds",
    "ctc_per_token": "ctc_per_token",
    "token_entropy": "token_entropy",
    "skipped_batches": "skipped_batches",
    "data_wait_share": "data_wait_share",
}
"""Name of a training column, without a prefix such as `train_` -> key of our train lines."""
RATES = {
    "wer": "wer",
    "wer_transducer": "wer",
    "wer_rnnt": "wer",
    "ctc_wer": "ctc_wer",
    "wer_ctc": "ctc_wer",
    "cer": "cer",
    "cer_transducer": "cer",
    "train_wer": "train_wer",
    "training_batch_wer": "train_wer",
}
VALIDATION = RATES | {
    "loss": "loss",
    "blank_share": "blank_share",
    "repeat_share": "repeat_share",
    "length_ratio": "length_ratio",
}
"""Name of a validation column, without a prefix such as `val_` -> key of our validation lines."""
NOT_IN_TOP = "_not_in_top"
"""Ends the key of validations that a log only says were not among the N best; the value is N."""
BOOKKEEPING = re.compile(
    r"_.*|.*(runtime|_per_second|total_flos|timestamp|wall time|_time|total_count|hp_metric|global_step)"
)
"""Columns unrelated to the training; they are skipped silently."""


@dataclass(frozen=True, slots=True)
class Name:
    """What a column holds."""

    split: str
    """`training` or `validation`."""
    key: str
    """Our key, or the column's own name."""
    known: bool
    """Whether any rule or picture knows the key."""


def name_of(column: str) -> Name | None:
    """What a column or tag holds; None for bookkeeping."""
    bare = re.sub(r"\s+", "_", column.strip().lower())
    if bare.endswith(NOT_IN_TOP):
        measured = name_of(bare.removesuffix(NOT_IN_TOP))
        return None if measured is None else replace(measured, key=measured.key + NOT_IN_TOP)
    if BOOKKEEPING.fullmatch(column.strip().lower()) and bare not in TRAINING:
        return None
    if bare in RATES:  # also those that begin with `train`: they are measured at validations
        return Name("validation", RATES[bare], True)
    validated = re.fullmatch(r"(?:val|validation|valid|eval|dev)[_/](.+)", bare)
    if validated:
        key = validated.group(1).removesuffix("_epoch")
        return Name("validation", VALIDATION.get(key, key), key in VALIDATION)
    if bare in VALIDATION and bare != "loss":
        return Name("validation", VALIDATION[bare], True)
    trained = re.fullmatch(r"(?:train|training)[_/](.+)", bare)
    key = trained.group(1) if trained else bare
    key = key.removesuffix("_step").removesuffix("_epoch")
    if key in TRAINING:
        return Name("training", TRAINING[key], True)
    return Name("training", column.strip(), False)


@dataclass(frozen=True, slots=True)
class Row:
    """The measurements of one place of a log."""

    step: int | None
    """Optimizer steps; None where only the epoch is known."""
    epoch: float | None
    values: Mapping[str, float]
    """Under the log's own names; those of a validation begin with `val_` or `eval_`."""


@dataclass(frozen=True, slots=True)
class Log:
    """A log that was read."""

    toolkit: str
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()
    """What was assumed."""
    percent: bool = False
    """Whether this toolkit's examples report error rates in percent."""


def read_trainer_state(path: Path) -> Log:
    """`trainer_state.json` of the Hugging Face Trainer.

    Raises:
        QuranAsrError: other JSON, or a history without measurements.
    """
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise QuranAsrError(
            f"not readable JSON ({error})", where=str(path), remedy="if it is just being written, try again"
        ) from None
    history = state.get("log_history") if isinstance(state, dict) else None
    if not isinstance(history, list):
        raise QuranAsrError(
            "is JSON, but not a `trainer_state.json` of the Hugging Face Trainer (no `log_history`)",
            where=str(path),
            remedy=READABLE,
        )
    rows = []
    for entry in history:
        if isinstance(entry, dict) and isinstance(entry.get("step"), int):
            values = {key: value for key, value in entry.items() if key not in ("step", "epoch")}
            rows.append(Row(entry["step"], _float(entry.get("epoch")), _numbers(values)))
    return Log("Hugging Face Trainer", tuple(rows), percent=True)


def read_text(text: str) -> Log | None:
    """A text log of a toolkit that is known; None for other text.

    Raises:
        QuranAsrError: a log of a known toolkit that holds no curves that could be judged.
    """
    for toolkit, pattern, read in _TEXTS:
        if pattern.search(text):
            return read(toolkit, text)
    for toolkit, pattern, remedy in _REFUSED:
        if pattern.search(text):
            raise QuranAsrError(f"is a text log of {toolkit}, which is not read", remedy=remedy)
    return None


READABLE = (
    "run folders, TensorBoard events, CSV, `trainer_state.json`, Weights & Biases CSV exports, and the text "
    "logs of NeMo, icefall and ESPnet 2 are read"
)

_WHOLE = r"(\d{1,15})"
_NUMBER = r"(-?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,3})?|nan|inf)"
_LIGHTNING = re.compile(
    rf"Epoch {_WHOLE}, global step {_WHOLE}: '?([\w/-]+)'? (?:reached {_NUMBER}|was not in top {_WHOLE})"
)
_ICEFALL = re.compile(rf"Epoch {_WHOLE}, batch {_WHOLE}, loss\[([^\]]*)\]")
_ICEFALL_TOTAL = re.compile(r"tot_loss\[([^\]]*)\]")
_ICEFALL_RATE = re.compile(rf"\blr: {_NUMBER}")
_ICEFALL_VALIDATION = re.compile(rf"Epoch {_WHOLE}, validation: (.*)")
_ESPNET = re.compile(rf"{_WHOLE}epoch results: (.*)")
_PAIR = re.compile(rf"([\w./-]+)\s*=\s*{_NUMBER}")


def _lightning(toolkit: str, text: str) -> Log:
    """The lines of Lightning's checkpoints: the only ones with a place and a value."""
    rows = [
        Row(int(step), float(epoch), {tag: float(value)} if value else {tag + NOT_IN_TOP: float(top)})
        for epoch, step, tag, value, top in _LIGHTNING.findall(text)
    ]
    note = "only validations that were among the best are in the text log: a rise cannot be seen in it"
    return Log(toolkit, tuple(rows), (note,))


def _icefall(toolkit: str, text: str) -> Log:
    """Batches count from 0 in each epoch; an epoch's length is that of the last batch that was logged."""
    rows: list[Row] = []
    done, epoch, batch, interval = 0, 0, 0, 0
    for line in text.splitlines():
        trained, validated = _ICEFALL.search(line), _ICEFALL_VALIDATION.search(line)
        if trained:
            now, at = int(trained.group(1)), int(trained.group(2))
            if now != epoch:
                done, epoch, batch = (done + batch + interval if epoch else 0), now, at
            interval, batch = max(interval, at - batch), at
            total, rate = _ICEFALL_TOTAL.search(line), _ICEFALL_RATE.search(line)
            values = _pairs(total.group(1) if total else trained.group(3))
            if rate:
                values["lr"] = float(rate.group(1))
            rows.append(Row(done + at + 1, float(now), values))
        elif validated and rows:
            values = {f"val_{key}": value for key, value in _pairs(validated.group(2)).items()}
            rows.append(Row(rows[-1].step, float(validated.group(1)), values))
    note = "steps are batches, counted from the batches that were logged; losses are nats a frame"
    return Log(toolkit, tuple(rows), (note,))


def _espnet(toolkit: str, text: str) -> Log:
    """A line an epoch, with `[train]` and `[valid]`; `total_count` of training counts batches."""
    rows = []
    for epoch, rest in _ESPNET.findall(text):
        parts = dict(re.findall(r"\[(\w+)\](.*?)(?=, \[\w+\]|$)", rest))
        train, valid = _pairs(parts.get("train", "")), _pairs(parts.get("valid", ""))
        count = re.search(rf"total_count={_WHOLE}", parts.get("train", ""))
        step = int(count.group(1)) if count else None
        train = {f"train_{key}": value for key, value in train.items() if key not in RATES}
        rows.append(Row(step, float(epoch), train))
        rows.append(Row(step, float(epoch), {f"val_{key}": value for key, value in valid.items()}))
    if any(row.step is None for row in rows):
        rows = [Row(None, row.epoch, row.values) for row in rows]
        return Log(toolkit, tuple(rows))
    return Log(toolkit, tuple(rows), ("steps are batches (`total_count`): with `accum_grad` fewer updates",))


_TEXTS: tuple[tuple[str, re.Pattern[str], Callable[[str, str], Log]], ...] = (
    ("icefall", re.compile(r"Epoch \d+, batch \d+, .*loss\["), _icefall),
    ("ESPnet 2", re.compile(r"\d+epoch results: "), _espnet),
    ("NeMo and Lightning", _LIGHTNING, _lightning),
)
_REFUSED = (
    (
        "the Hugging Face Trainer",
        re.compile(r"\{(?:'\w+': [^{}\n]*, )?'(?:epoch|(?:eval_|train_)?loss|(?:eval_|train_)runtime)': "),
        "it names no steps: use `trainer_state.json` in the newest `checkpoint-...` folder",
    ),
    (
        "NeMo",
        re.compile(r"\[NeMo [IWED] "),
        "it holds no measurements: use the folder with the TensorBoard events beside it",
    ),
    (
        "early icefall",
        re.compile(r"Epoch \d+, batch \d+, batch avg "),
        "use its TensorBoard events, in `tensorboard` below the experiment's folder",
    ),
    (
        "ESPnet 2",
        re.compile(r"\d+epoch:train:\d+-\d+batch:"),
        "no epoch has ended yet: wait for the line `1epoch results`, or use its `tensorboard` folder",
    ),
    (
        "SpeechBrain",
        re.compile(r"epoch: \d+, .*train loss: "),
        "use its TensorBoard events (`TensorboardLogger`)",
    ),
    ("fairseq", re.compile(r"\| (?:train|valid) \| epoch \d+"), "use its TensorBoard events"),
)


def _pairs(text: str) -> dict[str, float]:
    return {key: float(value) for key, value in _PAIR.findall(text)}


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    found = {key: _float(value) for key, value in values.items()}
    return {key: value for key, value in found.items() if value is not None}


def _float(value: Any) -> float | None:
    """NaN stays: it was measured."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:
        return None


# Tables


STEPS = ("trainer/global_step", "train/global_step", "step", "global_step", "_step")
EPOCHS = ("epoch", "train/epoch", "trainer/epoch")
TIMES = ("time", "_runtime")
"""Columns that give the position of a row, the best first."""


@dataclass(frozen=True, slots=True)
class Columns:
    """What the columns of a table are."""

    step: int | None
    epoch: int | None
    time: int | None
    tags: tuple[str, ...]
    """One for each column, without the run's name."""
    notes: tuple[str, ...]
    percent: bool


def columns_of(header: Sequence[str]) -> Columns:
    """The columns of a CSV of Lightning, Hugging Face, Weights & Biases or our own.

    Raises:
        QuranAsrError: curves of several runs, or no column with the position.
    """
    low = [name.strip().lower() for name in header]
    found = [
        next((low.index(name) for name in names if name in low), None) for names in (STEPS, EPOCHS, TIMES)
    ]
    step, epoch, time = found
    if step is None and epoch is None:
        raise QuranAsrError("has no column `step` or `epoch`", remedy="the first line names the columns")
    notes = []
    panel = [name.rpartition(" - ") for name in header]  # a run's name may hold a dash too
    runs = {run.strip() for run, dash, _ in panel if dash}
    if len(runs) > 1:
        raise QuranAsrError(
            f"holds {len(runs)} runs of Weights & Biases: {', '.join(sorted(runs)[:4])}",
            remedy="export the panel with one run selected",
        )
    if step is not None and (low[step] == "_step" or (runs and low[step] == "step")):
        notes.append(
            f"`{header[step].strip()}` counts the log calls of Weights & Biases, not optimizer steps: export "
            "`trainer/global_step` too"
        )
    tags = tuple(tag.strip() for _, _, tag in panel)
    percent = "training loss" in low or any(re.match(r"eval[_/]", tag.lower()) for tag in tags)
    return Columns(step, epoch, time, tags, tuple(notes), percent)


def cells_of_json_lines(text: str) -> list[list[str]] | None:
    """A header and the cells of lines that are JSON objects, such as a copy of our `metrics.jsonl`.

    Lines without a step or an epoch are left out, and so is what is not a number. `null` is a gap, in our own
    lines NaN, but for a transducer that is not trained yet.

    Returns:
        None where the first line is not a JSON object, or none has a step or an epoch.
    """
    rows: list[dict[str, Any]] = []
    for line in text.splitlines():
        try:
            row = json.loads(line) if line.strip() else None
        except (ValueError, RecursionError):  # the last line may be torn
            row = None
        if isinstance(row, dict) and any(key.strip().lower() in (*STEPS, *EPOCHS) for key in row):
            if "log_history" in row:  # the Hugging Face Trainer's state, all in one line
                return None
            rows.append(row)
        elif line.strip() and not rows and not isinstance(row, dict):
            return None
    header = list(dict.fromkeys(key for row in rows for key in row))
    return [header, *([_json_cell(row, key) for key in header] for row in rows)] if rows else None


def _json_cell(row: Mapping[str, Any], key: str) -> str:
    value = row.get(key)
    if key in row and value is None and "split" in row and key != "transducer_loss":
        return "nan"
    if key.lower() == "split" and isinstance(value, str):
        return value
    return "" if _float(value) is None else repr(value)


def is_a_bound(tag: str) -> bool:
    """Whether a column of a panel is the lowest or highest of what another one shows."""
    return tag.endswith(("__MIN", "__MAX"))


def delimiter_of(line: str) -> str:
    """Of a table's first line: comma, tab, semicolon, or the bars of Markdown."""
    if line.lstrip().startswith("|"):
        return "|"
    if "\t" in line:
        return "\t"
    return ";" if ";" in line and "," not in line else ","


def cells_of(lines: Sequence[str], delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Number and cells of each row of a Markdown table; its rule is left out."""
    for number, line in enumerate(lines, start=1):
        if line.strip().startswith(delimiter) and not re.fullmatch(r"[\s|:-]+", line):
            yield number, [cell.strip() for cell in line.strip().strip(delimiter).split(delimiter)]
