"""`quran-asr quickstart`: the whole path on a small synthetic corpus, from audio to a measured model.

What it prints at the end was measured in that run.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from quran_asr.cli.options import need
from quran_asr.cli.output import echo, print_finding, print_json, print_table, progress_bar
from quran_asr.cli.train import report_end
from quran_asr.cli.training_setup import pass_gate
from quran_asr.errors import QuranAsrError

if TYPE_CHECKING:
    from quran_asr.config.schema import Recipe
    from quran_asr.evaluation.report import Report
    from quran_asr.experiments.run_folder import RunFolder
    from quran_asr.records import Segment, VerseRef
    from quran_asr.training.metrics import Progress, Watcher
    from quran_asr.training.trainer import Trained

HELD_OUT_VOICES = ("ar+f3", "ar+Alex")
VALIDATION_VOICE = "ar+m7"
"""Chooses the checkpoint, so it counts neither as training nor as held out."""
UNSEEN_VERSES = ("99:1", "99:2", "99:3", "100:1", "100:2", "102:1", "102:2", "101:6", "97:1", "97:3")
"""Short verses of other surahs by the held-out voices: text that is not in the training data."""
STUCK_CHECKED_AT, STUCK_AT = 300, 0.96
"""Step, and the share of the tokens' entropy that CTC must be under by then, or training begins again."""
ATTEMPTS = 3


@click.command(epilog="Example: quran-asr quickstart --to quickstart")
@click.argument("words", nargs=-1, metavar="[KEY=VALUE]...")
@click.option(
    "--to",
    "folder",
    default="quickstart",
    show_default=True,
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Folder for the corpus and the run; an existing corpus is reused.",
)
@click.option("--seed", default=0, show_default=True, metavar="N", help="Seed of corpus, model and training.")
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON.")
def quickstart(words: tuple[str, ...], folder: Path, seed: int, as_json: bool) -> int:
    """Synthesize a corpus, train on it, evaluate and transcribe, with the code of a real training.

    Verses of surahs 1 and 103-114 by eSpeak NG voices; about five minutes on one core. The result shows
    unseen voices on seen verses: a model this small does not generalize to unseen text.
    """
    need("train", "plot", "speak")
    from quran_asr.config.overrides import split_words
    from quran_asr.config.recipe import load_recipe
    from quran_asr.corpus.manifest import read_manifest
    from quran_asr.experiments.run_folder import create_run

    name, overrides = split_words(words, default="quickstart")
    if name != "quickstart":
        raise QuranAsrError("quickstart has its own recipe", remedy=f"try `quran-asr train {name}`")
    began = time.perf_counter()
    manifests = synthesize_corpora(folder / "corpus", seed)
    places = {
        "exp_manager.exp_dir": folder / "nemo_experiments",
        "model.train_ds.manifest_filepath": manifests["training"],
        "model.validation_ds.manifest_filepath": manifests["validation"],
    }
    quoted = [f"{key}={json.dumps(str(place))}" for key, place in places.items()]
    recipe = load_recipe(name, [f"quran.seed={seed}", *quoted, *overrides])
    spelling = recipe.quran.spelling
    segments = {part: read_manifest(path, spelling) for part, path in manifests.items()}
    echo(
        f"corpus: {len(segments['training'])} clips for training, {len(segments['validation'])} for "
        f"validation, {len(segments['held_out'])} by two held-out voices",
        err=True,
    )
    run = create_run(recipe.exp_manager.exp_dir, recipe.name)
    run.write_recipe(recipe)
    pass_gate(recipe, run, segments["training"])
    ended = _train(recipe, run, segments)
    if ended.interrupted or ended.stopped_by is not None:
        return report_end(ended, as_json)
    reports = measure(ended.run, segments, spelling)
    shown = max(segments["held_out"][:7], key=lambda segment: segment.duration)  # of the Fatiha
    hypothesis = _transcribe_one(ended.run, shown)
    picture, page = _draw(ended.run, reports, shown, hypothesis)
    if as_json:
        print_json(_figures(ended, reports, time.perf_counter() - began, page))
    else:
        print_table(*_table(reports))
        echo(f"\n{shown.audio}\n  reference   {shown.text}\n  hypothesis  {hypothesis}\n")
        echo(f"model   {ended.run.model_file()}\ncurves  {picture}\nreport  {page}")
        if steps := next_steps():
            echo(steps)
    return 0


def next_steps() -> str:
    """What to do with a recording of one's own, if there is a model in the package for it; else nothing."""
    from quran_asr.runtime.bundle import DEFAULT_MODEL, is_bundle

    if not is_bundle(DEFAULT_MODEL):
        return ""
    return (
        "\nwith a recording of your own and the model in the package, which needs no training:\n"
        "  quran-asr transcribe RECORDING   the words\n"
        "  quran-asr identify RECORDING     the verses"
    )


def synthesize_corpora(folder: Path, seed: int) -> dict[str, Path]:
    """Manifests of the four parts of the corpus; synthesized once, reused the next time."""
    from quran_asr.corpus.synthesis import VOICES, synthesize_corpus
    from quran_asr.records import VerseRef
    from quran_asr.text.quran import load_quran

    known = tuple(ref for ref in load_quran("letters").refs if ref.surah == 1 or ref.surah >= 103)
    unseen = tuple(VerseRef.parse(ref) for ref in UNSEEN_VERSES)
    training = tuple(v for v in VOICES if v not in (*HELD_OUT_VOICES, VALIDATION_VOICE))
    parts: dict[str, tuple[Sequence[VerseRef], Sequence[str], int]] = {
        "training": (known, training, 1),
        "validation": (known, (VALIDATION_VOICE,), 0),
        "held_out": (known, HELD_OUT_VOICES, 0),
        "unseen_text": (unseen, HELD_OUT_VOICES, 0),
    }
    manifests = {}
    for part, (refs, voices, fragments) in parts.items():
        place = folder / f"{part}-{seed}"
        manifests[part] = place / "manifest.jsonl"
        if manifests[part].exists():
            continue
        with progress_bar(f"synthesizing ({part})", "clips") as show:
            synthesize_corpus(refs, voices, place, seed, fragments_per_verse=fragments, on_progress=show)
    return manifests


def measure(
    run: RunFolder, segments: dict[str, list[Segment]], spelling: str
) -> dict[tuple[str, str, int], Report]:
    """Reports by (part, decoder, look-ahead in ms): both decoders at the widest look-ahead and at 0 ms."""
    from quran_asr.evaluation.evaluate import evaluate, write_report
    from quran_asr.evaluation.report import Setting
    from quran_asr.evaluation.training_data import TrainingData
    from quran_asr.training.recognizer import load_recognizer

    training = TrainingData.read(run.path / "training_data.json")
    reports = {}
    for decoder in ("transducer", "ctc"):
        for look_ahead in (None, 0):
            recognizer = load_recognizer(run.path, decoder, look_ahead)
            ahead = recognizer.look_ahead_ms or 0
            setting = Setting(recognizer.name, decoder, ahead, spelling, recognizer.edition)
            for part in ("held_out", "unseen_text"):
                report, clips = evaluate(segments[part], recognizer.recognize_clips, setting, training)
                write_report(run.path / "evaluations" / f"{part}-{decoder}-{ahead}ms", report, clips)
                reports[part, decoder, ahead] = report
    return reports


def _train(recipe: Recipe, run: RunFolder, segments: dict[str, list[Segment]]) -> Trained:
    """Train; a start that has not left its plateau by step 300 begins again with the next seed."""
    from quran_asr.cli.output import training_progress
    from quran_asr.experiments.run_folder import create_run
    from quran_asr.training.trainer import train

    for attempt in range(1, ATTEMPTS + 1):
        try:
            with run.held(), training_progress() as watcher:
                return train(
                    recipe,
                    run,
                    segments["training"],
                    segments["validation"],
                    watcher=watcher if attempt == ATTEMPTS else _stop_if_not_learning(watcher),
                    on_finding=print_finding,
                )
        except _NotLearningError as stuck:
            seed = recipe.quran.seed + 1
            echo(f"{stuck}: starting over with seed {seed}", err=True)
            recipe = replace(recipe, quran=replace(recipe.quran, seed=seed))
            run = create_run(recipe.exp_manager.exp_dir, recipe.name)
            run.write_recipe(recipe)
    raise AssertionError("the last attempt is not watched")


class _NotLearningError(Exception):
    """The first steps of a training led nowhere."""


def _stop_if_not_learning(watcher: Watcher) -> Watcher:
    def watch(progress: Progress) -> None:
        watcher(progress)
        row = progress.row
        if row is None or row["split"] != "train" or row["step"] != STUCK_CHECKED_AT:
            return
        cost = row["ctc_per_token"]
        if cost > STUCK_AT * row["token_entropy"]:
            raise _NotLearningError(f"CTC still costs {cost:.2f} nats a token at step {STUCK_CHECKED_AT}")

    return watch


def _transcribe_one(run: RunFolder, segment: Segment) -> str:
    from quran_asr.records import Transcript
    from quran_asr.training.recognizer import load_recognizer

    answer = next(iter(load_recognizer(run.path).recognize_clips([segment])))
    return answer.text if isinstance(answer, Transcript) else str(answer)


def _draw(
    run: RunFolder, reports: dict[tuple[str, str, int], Report], shown: Segment, hypothesis: str
) -> tuple[Path, Path]:
    from quran_asr.experiments.curve_files import read_curves
    from quran_asr.experiments.plots.html_page import Example, Table
    from quran_asr.experiments.plots.report import render_report

    header, rows = _table(reports)
    table = Table(
        "Word error rates",
        tuple(header),
        tuple(tuple(str(cell) for cell in row) for row in rows),
        "Two voices that are not in the training data. Seen text: verses that other voices recite there. "
        "Unseen text: verses that no voice recites there; a model this small does not generalize to them.",
    )
    sections = (table, Example("One recording", shown.text, hypothesis))
    written = render_report([read_curves(run.path)], run.path / "report", sections=sections)
    return written.pictures[0], written.page


def _table(reports: dict[tuple[str, str, int], Report]) -> tuple[list[str], list[list[str]]]:
    header = ["evaluated on", "decoder", "look-ahead", "WER", "CER"]
    names = {"held_out": "unseen voices, seen text", "unseen_text": "unseen voices, unseen text"}
    rows = [
        [
            names[part],
            decoder,
            f"{ahead} ms",
            f"{report.whole.spelled.words.rate:.3f}",
            f"{report.whole.spelled.characters.rate:.3f}",
        ]
        for (part, decoder, ahead), report in sorted(
            reports.items(), key=lambda item: (item[0][0], -item[0][2])
        )
    ]
    return header, rows


def _figures(
    ended: Trained, reports: dict[tuple[str, str, int], Report], seconds: float, page: Path
) -> dict[str, Any]:
    wer: dict[str, dict[str, float]] = {}
    for (part, decoder, ahead), report in reports.items():
        wer.setdefault(part, {})[f"{decoder} {ahead} ms"] = round(report.whole.spelled.words.rate, 4)
    return {
        "wer": wer,
        "steps": ended.steps,
        "training_seconds": round(ended.seconds, 1),
        "total_seconds": round(seconds, 1),
        "run": str(ended.run.path),
        "model": str(ended.run.model_file()),
        "report": str(page),
    }
