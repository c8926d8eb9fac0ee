"""`quran-asr benchmark`: how fast this machine trains, beside stock NeMo."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from quran_asr.cli.benchmark_listening import listening
from quran_asr.cli.extras import need
from quran_asr.cli.printing import echo, print_json, print_table
from quran_asr.findings import QuranAsrError

if TYPE_CHECKING:
    from quran_asr.train.benchmarks.benchmark import Task


@click.group(epilog="Example: quran-asr benchmark training --preset cpu --rounds 1")
def benchmark() -> None:
    """Measure speed and memory on this machine."""


benchmark.add_command(listening)


@benchmark.command(epilog="Example: quran-asr benchmark training --preset cpu --rounds 1 --json")
@click.argument("words", nargs=-1, metavar="[KEY=VALUE]...")
@click.option(
    "--preset",
    "presets",
    multiple=True,
    help="cpu, large, small or quickstart; may be repeated. Default: cpu, or large on a GPU.",
)
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="auto takes a GPU where there is one.",
)
@click.option(
    "--train",
    "manifests",
    multiple=True,
    type=click.Path(),
    help="Take the clips from this manifest instead of making some; may be repeated.",
)
@click.option("--clips", type=click.IntRange(min=1), help="Clips a batch; the preset's number if not given.")
@click.option(
    "--rounds", type=click.IntRange(min=1), default=3, show_default=True, help="Each side once a round."
)
@click.option(
    "--steps", type=click.IntRange(min=1), help="Steps a round beside one to warm up; 2, on a GPU 20."
)
@click.option("--growth", is_flag=True, help="Also 2 and 4 times as many clips, and as long ones.")
@click.option(
    "--to",
    "file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Where the JSON is written as it comes; default: in the cache folder, under benchmarks/.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def training(
    words: tuple[str, ...],
    presets: tuple[str, ...],
    device: str,
    manifests: tuple[str, ...],
    clips: int | None,
    rounds: int,
    steps: int | None,
    growth: bool,
    file: Path | None,
    as_json: bool,
) -> int:
    """Train by stock NeMo and by us in turn: same weights, same clips, one thread on a CPU.

    What it measures of our side is kept for `quran-asr plan`. Overrides hold for every preset. Ctrl-C keeps
    what was measured.
    """
    need("train")
    from quran_asr.runs.planning.benchmark import PRESETS
    from quran_asr.runs.recipe import load_recipe

    if unknown := [name for name in presets if name not in PRESETS]:
        raise QuranAsrError(f"no preset `{unknown[0]}`", where="--preset", remedy=f"use {', '.join(PRESETS)}")
    if wrong := [word for word in words if "=" not in word and not word.startswith("~")]:
        raise QuranAsrError(
            f"`{wrong[0]}` is no override", remedy="write KEY=VALUE; models are chosen with --preset"
        )
    for name in presets or ("cpu",):  # a wrong override is said before anything starts
        load_recipe(PRESETS[name].recipe, (*PRESETS[name].overrides, *words))

    from quran_asr.train.benchmarks.benchmark import Task, available

    chosen = available(device)
    steps = steps or (20 if chosen == "cuda" else 2)
    tasks = {}
    for name in presets or ("large" if chosen == "cuda" else "cpu",):
        preset = PRESETS[name]
        many = clips or (preset.clips_on_gpu if chosen == "cuda" else preset.clips)
        tasks[name] = Task(preset, words, chosen, many, preset.seconds, manifests, rounds, steps)
    return _measure(tasks, file, growth, as_json)


def _measure(tasks: dict[str, Task], file: Path | None, growth: bool, as_json: bool) -> int:
    from quran_asr.files import cache_folder, write_atomically
    from quran_asr.runs.planning.calibration import write_calibration
    from quran_asr.train.benchmarks.benchmark import calibration, compare, grown, precisions

    first, *others = tasks
    place = file or cache_folder() / "benchmarks" / f"training-{tasks[first].device}.json"
    document: dict[str, Any] = {}

    def keep(name: str, figures: dict[str, Any]) -> None:
        """The first preset's figures stand at the top, those of the others under `more`."""
        target = document if name == first else document.setdefault("more", {}).setdefault(name, {})
        target.update({"preset": name, **figures})
        document.setdefault("more", {})
        write_atomically(place, (json.dumps(document, ensure_ascii=False, indent=2) + "\n").encode())

    try:
        for name, task in tasks.items():
            measured = compare(task, _say, partial(keep, name))
            _say(f"kept for `plan`: {write_calibration(calibration(task, measured))}")
            if growth:
                rows = [{"times": "1x", **measured}]
                for times, larger in grown(task):
                    rows.append({"times": times, **compare(larger, _say, lambda figures: None, alone=False)})
                    keep(name, {"growth": rows})
            if task.device == "cuda":
                keep(name, {"precisions": precisions(task, _say)})
    finally:
        if document:
            _say(f"written to {place}")
    if as_json:
        print_json(document)
    else:
        for name in (first, *others):
            _print(document if name == first else document["more"][name])
    return 0


def _print(figures: dict[str, Any]) -> None:
    from quran_asr.runs.planning.benchmark import growth_table, precision_table, table

    batch, lattice = figures["batch"], figures["lattice"]
    echo(
        f"{figures['preset']}: {figures['parameters'] / 1e6:.2f}M parameters, {batch['clips']} clips, "
        f"{batch['audio_seconds']:.1f} s; lattice {lattice['frames']} x {lattice['labels']} x "
        f"{lattice['classes']}; {figures['device']}, {figures['precision']}"
    )
    print_table((f"{figures['clock']} time", "stock NeMo", "ours", "better"), table(figures))
    if "growth" in figures:
        echo()
        header = ("batch", "stock NeMo", "ours", "better", "loss, stock", "loss, ours")
        print_table(header, growth_table(figures["growth"]))
    if "precisions" in figures:
        echo()
        print_table(("ours in", "a step", "loss at the end"), precision_table(figures["precisions"]))
    echo()


def _say(line: str) -> None:
    echo(line, err=True)
