"""`quran-asr benchmark`: speed of training and of inference."""

from __future__ import annotations

import json
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from quran_asr.cli.models import checkpoint_of, refuse_bad_archive
from quran_asr.cli.options import FiniteRange, need
from quran_asr.cli.output import echo, print_json, print_table
from quran_asr.errors import QuranAsrError

if TYPE_CHECKING:
    from quran_asr.benchmark.training import Task


@click.group(epilog="Example: quran-asr benchmark training --preset cpu --rounds 1")
def benchmark() -> None:
    """Measure speed and memory on this machine, compared with NeMo and sherpa-onnx."""


@benchmark.command(
    short_help="Compare inference speed with NeMo and sherpa-onnx.",
    epilog="Example: quran-asr benchmark runtime --preset quickstart --rounds 1 --minutes 1",
)
@click.argument("words", nargs=-1, metavar="[KEY=VALUE]...")
@click.option(
    "--model",
    type=click.Path(path_type=Path),
    metavar="MODEL",
    help="A .nemo, a .ckpt in its run, or a run folder (its best checkpoint).",
)
@click.option(
    "--preset",
    metavar="NAME",
    help="Instead of a model: random weights in the size of 30M, 114M or quickstart.",
)
@click.option(
    "--clips",
    "manifest",
    type=click.Path(path_type=Path),
    metavar="MANIFEST",
    help="Clips to recognize. Default: synthetic audio, on which latency is not measured.",
)
@click.option(
    "--seconds",
    type=FiniteRange(min=1),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="Audio that is recognized in a round.",
)
@click.option(
    "--look-ahead",
    "look_aheads",
    type=int,
    multiple=True,
    metavar="MS",
    help="Measure only at this look-ahead. May be repeated. Default: all that the model has.",
)
@click.option(
    "--rounds",
    type=click.IntRange(min=1),
    default=3,
    show_default=True,
    metavar="N",
    help="Rounds; each runtime is measured once in each.",
)
@click.option(
    "--minutes",
    type=FiniteRange(min=0),
    default=10.0,
    show_default=True,
    metavar="MINUTES",
    help="Length of the stream whose memory growth is measured; 0: not measured.",
)
@click.option(
    "--streams",
    "most_streams",
    type=click.IntRange(min=0),
    default=512,
    show_default=True,
    metavar="N",
    help="Most simultaneous streams to try; 0: capacity is not measured.",
)
@click.option(
    "--threads",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    metavar="N",
    help="Threads of each runtime.",
)
@click.option(
    "--to",
    "file",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Also write the JSON to this file, after each stage.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def runtime(
    words: tuple[str, ...],
    model: Path | None,
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
    """Compare inference speed with NeMo and sherpa-onnx: same weights, same recordings, one thread.

    Speed depends on the size of the model and on how many words it emits, not on which, so a preset with
    random weights will do. KEY=VALUE overrides the recipe of the preset.
    """
    from quran_asr.benchmark.runtime_tables import PRESETS, look_aheads_of, refuse_other_look_aheads, table

    if (model is None) == (preset is None):
        raise QuranAsrError(
            "give either --model or --preset", remedy="name one of them, for example --preset quickstart"
        )
    if wrong := [word for word in words if "=" not in word and not word.startswith("~")]:
        raise QuranAsrError(f"`{wrong[0]}` is not an override", remedy="write KEY=VALUE, --model or --preset")
    if model is not None:
        if words:
            raise QuranAsrError(
                f"`{words[0]}` overrides a preset, not a trained model",
                remedy="leave it out, or give --preset instead of --model",
            )
        checkpoint = checkpoint_of(model)
        need("train")
        refuse_bad_archive(checkpoint)
    else:
        if preset not in PRESETS:
            raise QuranAsrError(
                f"no preset `{preset}`", where="--preset", remedy=f"choose one of {', '.join(PRESETS)}"
            )
        from quran_asr.config.recipe import load_recipe

        recipe = load_recipe(PRESETS[preset], words)
        refuse_other_look_aheads(look_aheads, look_aheads_of(recipe.model), f"--preset {preset}")
        need("train")
    from quran_asr.benchmark.clips import made_clips
    from quran_asr.benchmark.runtime import Task, compare, write_clips
    from quran_asr.benchmark.runtime_models import load, made_up, prepare
    from quran_asr.corpus.manifest import MADE_BY, read_manifest
    from quran_asr.files import write_atomically

    with tempfile.TemporaryDirectory(prefix="quran-asr-benchmark-") as made:
        folder = Path(made)
        _say("preparing the model for all runtimes")
        if preset is not None:
            network, source = made_up(PRESETS[preset], words, folder)
        else:
            network, source = load(checkpoint)
        prepared = prepare(network, source, folder, look_aheads or None)
        recordings = folder / "recordings"
        recordings.mkdir()
        spelling = prepared.bundle.spelling
        if manifest is None:
            clips = made_clips(1 + int(seconds / 4), (4.0, 7.0), spelling, folder)
        else:
            clips = read_manifest(manifest, spelling)
        if not clips:
            raise QuranAsrError("the manifest has no clips", where=str(manifest), remedy=MADE_BY)
        files, length = write_clips(clips, seconds, recordings)
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
        del network
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


@benchmark.command(
    short_help="Compare training speed with stock NeMo.",
    epilog="Example: quran-asr benchmark training --preset cpu --rounds 1 --json",
)
@click.argument("words", nargs=-1, metavar="[KEY=VALUE]...")
@click.option(
    "--preset",
    "presets",
    multiple=True,
    metavar="NAME",
    help="cpu, large, small or quickstart. May be repeated. Default: cpu, or large on a GPU.",
)
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="Device; auto uses a GPU if there is one.",
)
@click.option(
    "--train",
    "manifests",
    multiple=True,
    type=click.Path(),
    metavar="MANIFEST",
    help="Clips to train on. May be repeated. Default: synthetic audio.",
)
@click.option(
    "--clips", type=click.IntRange(min=1), metavar="N", help="Clips in a batch. Default: that of the preset."
)
@click.option(
    "--rounds",
    type=click.IntRange(min=1),
    default=3,
    show_default=True,
    metavar="N",
    help="Rounds; each is measured once in each.",
)
@click.option(
    "--steps",
    type=click.IntRange(min=1),
    metavar="N",
    help="Steps in a round, after one to warm up. Default: 2, on a GPU 20.",
)
@click.option(
    "--growth", is_flag=True, help="Also measure 2 and 4 times as many clips, and 2 and 4 times as long ones."
)
@click.option(
    "--to",
    "file",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="File for the JSON, written after each stage. Default: in the cache folder, under benchmarks/.",
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
    """Compare training speed with stock NeMo: same weights, same clips, one thread on a CPU.

    The measured speed is stored for `quran-asr plan`. Overrides apply to all presets. Ctrl-C keeps what was
    measured.
    """
    need("train")
    from quran_asr.benchmark.training_tables import PRESETS
    from quran_asr.config.recipe import load_recipe

    if unknown := [name for name in presets if name not in PRESETS]:
        raise QuranAsrError(
            f"no preset `{unknown[0]}`", where="--preset", remedy=f"choose one of {', '.join(PRESETS)}"
        )
    if wrong := [word for word in words if "=" not in word and not word.startswith("~")]:
        raise QuranAsrError(
            f"`{wrong[0]}` is not an override", remedy="write KEY=VALUE; models are chosen with --preset"
        )
    for name in presets or ("cpu",):  # a wrong override is reported before anything starts
        load_recipe(PRESETS[name].recipe, (*PRESETS[name].overrides, *words))

    from quran_asr.benchmark.training import Task, available

    chosen = available(device)
    steps = steps or (20 if chosen == "cuda" else 2)
    tasks = {}
    for name in presets or ("large" if chosen == "cuda" else "cpu",):
        preset = PRESETS[name]
        many = clips or (preset.clips_on_gpu if chosen == "cuda" else preset.clips)
        tasks[name] = Task(preset, words, chosen, many, preset.seconds, manifests, rounds, steps)
    return _measure(tasks, file, growth, as_json)


def _measure(tasks: dict[str, Task], file: Path | None, growth: bool, as_json: bool) -> int:
    from quran_asr.benchmark.training import calibration, compare, grown, precisions
    from quran_asr.experiments.planning.devices import write_calibration
    from quran_asr.files import cache_folder, write_atomically

    first, *others = tasks
    place = file or cache_folder() / "benchmarks" / f"training-{tasks[first].device}.json"
    document: dict[str, Any] = {}

    def keep(name: str, figures: dict[str, Any]) -> None:
        """The figures of the first preset are at the top, those of the others under `more`."""
        target = document if name == first else document.setdefault("more", {}).setdefault(name, {})
        target.update({"preset": name, **figures})
        document.setdefault("more", {})
        write_atomically(place, (json.dumps(document, ensure_ascii=False, indent=2) + "\n").encode())

    try:
        for name, task in tasks.items():
            measured = compare(task, _say, partial(keep, name))
            _say(f"stored for `plan`: {write_calibration(calibration(task, measured))}")
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


@benchmark.command(
    short_help="Measure how well `serve` follows recordings.",
    epilog="Example: quran-asr benchmark follow studio.jsonl phones.jsonl --noise 10",
)
@click.argument(
    "manifests",
    metavar="MANIFEST...",
    nargs=-1,
    required=True,
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
)
@click.option(
    "--model", type=click.Path(path_type=Path), metavar="BUNDLE", help="Default: the shipped model."
)
@click.option(
    "--noise",
    type=FiniteRange(min=-20, max=60),
    metavar="DECIBELS",
    help="Also with white noise at this signal-to-noise ratio.",
)
@click.option(
    "--fast",
    is_flag=True,
    help="Send as fast as the server takes it: lag without the time to compute, the same on a busy machine.",
)
@click.option(
    "--browser",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="CHROMIUM",
    help="Also through this browser, with the recording as its microphone.",
)
@click.option(
    "--sessions",
    type=click.IntRange(1, 1000),
    metavar="N",
    help="Also N sessions at once, always in real time, and the server's processor time for each (Linux).",
)
@click.option(
    "--to",
    "file",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Also write the JSON to this file, after each recording.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def follow(
    manifests: tuple[Path, ...],
    model: Path | None,
    noise: float | None,
    fast: bool,
    browser: Path | None,
    sessions: int | None,
    file: Path | None,
    as_json: bool,
) -> int:
    """Measure how well `serve` follows the recordings of each MANIFEST, in real time.

    Each is a recording of consecutive verses. Into one of nine or more a pause is put after a sixth, two
    verses are recited again after a third, and some are left out after two thirds. Lag is from the end of a
    word to its highlight.
    """
    need("serve")
    from quran_asr.benchmark.follow import (
        HEADER,
        MOST_ROWS,
        figures,
        follow_by_browser,
        follow_by_websocket,
        follow_together,
        recitation,
        row,
        serving,
        with_noise,
    )
    from quran_asr.cli.models import as_bundle, named_or_default
    from quran_asr.corpus.manifest import read_manifest
    from quran_asr.files import write_atomically
    from quran_asr.runtime.following import load_for_following

    measured: dict[str, list[dict[str, Any]]] = {}
    with as_bundle(named_or_default(model)) as bundle, tempfile.TemporaryDirectory() as folder:
        recognizer = load_for_following(bundle)
        with serving(bundle, max(20, sessions or 0)) as server:
            for segment, kind in [
                (one, manifest.stem)
                for manifest in manifests
                for one in read_manifest(manifest, recognizer.spelling)
            ]:
                try:
                    recited = recitation(recognizer, segment)
                except QuranAsrError as error:
                    _say(f"{error.where}: left out: {error.what}")
                    continue
                _say(f"{segment.place}: {len(recited.samples) / 16_000:.0f} s")
                alone = follow_by_websocket(server.address, recited, fast=fast)
                found = {"websocket": [figures(recited, alone)]}
                if noise is not None:
                    noisy = with_noise(recited, noise)
                    followed = follow_by_websocket(server.address, noisy, fast=fast)
                    found[f"websocket, {noise:g} dB"] = [figures(noisy, followed)]
                if browser is not None:
                    seen = follow_by_browser(server.address, recited, str(browser), Path(folder))
                    found["browser"] = [figures(recited, seen)]
                if sessions is not None:
                    load = follow_together(server, recited, sessions)
                    _say(
                        f"{sessions} sessions at once: {load.processor_share:.3f} s of processor time for a "
                        "second of each"
                    )
                    share = {"processor_share": round(load.processor_share, 4)}
                    found[f"{sessions} at once"] = [
                        {**figures(recited, one), **share} for one in load.sessions
                    ]
                for way, those in found.items():
                    measured.setdefault(f"{kind}, {way}", []).extend(those)
                if file is not None:
                    text = json.dumps(measured, ensure_ascii=False, indent=1) + "\n"
                    write_atomically(file, text.encode())
    if not measured:
        raise QuranAsrError(
            "no recording could be measured",
            where=", ".join(map(str, manifests)),
            remedy="name recordings of consecutive verses; the lines above give the reason for each",
        )
    if as_json:
        print_json(measured)
        return 0
    rows = []
    for name, ones in measured.items():
        if len(ones) <= MOST_ROWS:
            rows += [row([one], f"{one['recording']}: {name}") for one in ones]
        if len(ones) > 1:
            rows.append(row(ones, f"{len(ones)} sessions: {name}"))
    print_table(HEADER, rows)
    return 0


def _print(figures: dict[str, Any]) -> None:
    from quran_asr.benchmark.training_tables import growth_table, precision_table, table

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
