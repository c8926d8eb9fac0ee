"""`quran-asr benchmark listening`."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import click

from quran_asr.cli.extras import need
from quran_asr.cli.models import look_through, refuse_bundle
from quran_asr.cli.numbers import FiniteRange
from quran_asr.cli.printing import echo, print_json, print_table
from quran_asr.findings import QuranAsrError


@click.command(epilog="Example: quran-asr benchmark listening --preset quickstart --rounds 1 --minutes 1")
@click.argument("words", nargs=-1, metavar="[MODEL] [KEY=VALUE]...")
@click.option("--preset", help="30M, 114M or quickstart: a model of this size with random weights.")
@click.option(
    "--clips",
    "manifest",
    type=click.Path(path_type=Path),
    metavar="MANIFEST",
    help="Recordings to hear; default: made-up sound, on which no latency is measured.",
)
@click.option(
    "--seconds",
    type=FiniteRange(min=1),
    default=60.0,
    show_default=True,
    help="Sound that is heard in a round.",
)
@click.option(
    "--look-ahead",
    "look_aheads",
    type=int,
    multiple=True,
    metavar="MS",
    help="Only at this look-ahead; may be repeated. Default: all that the model has.",
)
@click.option(
    "--rounds", type=click.IntRange(min=1), default=3, show_default=True, help="Each side once a round."
)
@click.option(
    "--minutes",
    type=FiniteRange(min=0),
    default=10.0,
    show_default=True,
    help="Length of the stream whose memory is watched; 0: leave it out.",
)
@click.option(
    "--streams",
    "most_streams",
    type=click.IntRange(min=0),
    default=512,
    show_default=True,
    help="Most streams at once to try; 0: do not ask how many are held in real time.",
)
@click.option(
    "--threads", type=click.IntRange(min=1), default=1, show_default=True, help="Of each side's computing."
)
@click.option(
    "--to",
    "file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Also write the JSON here, as it comes.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def listening(
    words: tuple[str, ...],
    preset: str | None,
    manifest: Path | None,
    seconds: float,
    look_aheads: tuple[int, ...],
    rounds: int,
    minutes: float,
    most_streams: int,
    threads: int,
    file: Path | None,
    as_json: bool,
) -> int:
    """Hear by us, by NeMo and by sherpa-onnx in turn: same weights, same recordings, one thread.

    MODEL is a .nemo file, a .ckpt file of a run or a run folder. How fast it hears depends on its size and on
    how much it says, not on what, so a preset with random weights tells it too; KEY=VALUE changes the preset.
    """
    from quran_asr.runs.planning.benchmark_listening import (
        PRESETS,
        look_aheads_of,
        refuse_other_look_aheads,
        table,
    )

    overrides = tuple(word for word in words if "=" in word or word.startswith("~"))
    models = [Path(word) for word in words if word not in overrides]
    if len(models) + (preset is not None) != 1:
        raise QuranAsrError("name one model", remedy="give a .nemo, a .ckpt, a run folder, or --preset 30M")
    if preset is not None and preset not in PRESETS:
        known = ", ".join(PRESETS)
        raise QuranAsrError(f"no preset `{preset}`", where="--preset", remedy=f"use {known}")
    if models and overrides:
        raise QuranAsrError(f"`{overrides[0]}` changes a preset, not a trained model")
    if preset is not None:
        from quran_asr.runs.recipe import load_recipe

        recipe = load_recipe(PRESETS[preset], overrides)
        refuse_other_look_aheads(look_aheads, look_aheads_of(recipe), f"--preset {preset}")
    else:
        refuse_bundle(models[0])
    need("train")
    if models:
        look_through(models[0])
    from quran_asr.corpus.manifest import read_manifest
    from quran_asr.files import write_atomically
    from quran_asr.train.benchmarks.benchmark_clips import made_clips
    from quran_asr.train.benchmarks.benchmark_listening import Task, compare, write_clips
    from quran_asr.train.benchmarks.listening_models import load, made_up, prepare

    with tempfile.TemporaryDirectory(prefix="quran-asr-benchmark-") as made:
        folder = Path(made)
        _say("preparing the model for all sides")
        if preset is None:
            model, source = load(models[0])
        else:
            model, source = made_up(PRESETS[preset], overrides, folder)
        prepared = prepare(model, source, folder, look_aheads or None)
        sounds = folder / "sounds"
        sounds.mkdir()
        spelling = prepared.bundle.spelling
        if manifest is None:
            clips = made_clips(1 + int(seconds / 4), (4.0, 7.0), spelling, folder)
        else:
            clips = read_manifest(manifest, spelling)
        if not clips:
            raise QuranAsrError("no clip in the manifest", where=str(manifest))
        files, length = write_clips(clips, seconds, sounds)
        task = Task(
            models=prepared,
            files=files,
            seconds=length,
            trained=preset is None,
            recited=manifest is not None,
            look_aheads_ms=look_aheads or prepared.bundle.look_aheads_ms,
            rounds=rounds,
            minutes=minutes,
            threads=threads,
            most_streams=most_streams,
        )
        del model
        origin = {"preset": preset, "clips_from": None if manifest is None else str(manifest)}

        def keep(document: dict[str, Any]) -> None:
            if file is not None:
                text = json.dumps({**origin, **document}, ensure_ascii=False, indent=2) + "\n"
                write_atomically(file, text.encode())

        figures = {**origin, **compare(task, _say, keep)}
    if as_json:
        print_json(figures)
    else:
        echo(
            f"{figures['model']}: {figures['parameters'] / 1e6:.1f}M parameters, {figures['clips']} clips, "
            f"{figures['audio_seconds']:.0f} s, {threads} thread(s), transducer; * is the best of a row"
        )
        print_table(*table(figures))
    return 0


def _say(line: str) -> None:
    echo(line, err=True)
