"""`quran-asr plan`: steps, batch size, memory and time of a training."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from quran_asr.cli.options import FiniteRange
from quran_asr.errors import counted

if TYPE_CHECKING:
    from quran_asr.config.recipe import RecipeError
    from quran_asr.config.schema import Recipe
    from quran_asr.errors import Finding
    from quran_asr.experiments.planning.plan import Plan
    from quran_asr.experiments.planning.starting_point import Arrival
    from quran_asr.experiments.planning.workload import Workload

POSITIVE = FiniteRange(min=0, min_open=True, max=1e7)
MOST_CLIPS = 100_000_000
OPUS_BYTES, SAMPLE_BYTES = 4_000, 32_000
"""A second of audio: as `corpus pack --codec opus` writes it (32 kbit/s), and as 16-bit samples at 16 kHz."""


@click.command(
    epilog="Example: quran-asr plan transfer --clips 67399 --hours 56 --devices 2 --device rtx3090"
)
@click.argument("words", metavar="[RECIPE] [KEY=VALUE]...", nargs=-1)
@click.option(
    "--train",
    "training",
    multiple=True,
    metavar="MANIFEST",
    help="Plan for the clips of this manifest. May be repeated.",
)
@click.option("--validation", multiple=True, metavar="MANIFEST", help="Validation manifest. May be repeated.")
@click.option(
    "--clips", type=click.IntRange(1, MOST_CLIPS), metavar="N", help="Number of clips, instead of a manifest."
)
@click.option("--hours", type=POSITIVE, metavar="HOURS", help="Hours of audio in these clips.")
@click.option(
    "--devices", type=click.IntRange(min=1), metavar="N", help="Number of GPUs. Default: that of the recipe."
)
@click.option("--device", metavar="NAME", help="Type of device, e.g. 'RTX 3090', A100 or CPU.")
@click.option(
    "--batch-seconds", type=POSITIVE, metavar="SECONDS", help="Measured seconds of a batch on one device."
)
@click.option(
    "--validation-seconds", type=POSITIVE, metavar="SECONDS", help="Measured seconds of a validation."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def plan(
    words: tuple[str, ...],
    training: tuple[str, ...],
    validation: tuple[str, ...],
    clips: int | None,
    hours: float | None,
    devices: int | None,
    device: str | None,
    batch_seconds: float | None,
    validation_seconds: float | None,
    as_json: bool,
) -> int:
    """Show steps, peak learning rate, parameters, memory, time and disk space of a training.

    RECIPE is a shipped name or a file; default: transfer. Problems are reported on stderr, each with the
    override that fixes it.
    """
    from quran_asr.cli.output import findings_as_json, print_findings, print_json, print_table
    from quran_asr.config.overrides import split_words
    from quran_asr.config.recipe import RecipeError, load_recipe
    from quran_asr.errors import QuranAsrError
    from quran_asr.experiments.planning import plan as planning
    from quran_asr.experiments.planning.devices import read_calibrations
    from quran_asr.experiments.planning.plan import guide_notes
    from quran_asr.experiments.planning.timing import MeasuredSeconds, find_target

    if training and (clips is not None or hours is not None):
        raise QuranAsrError(
            "--train and --clips, --hours exclude each other", remedy="leave out --clips and --hours"
        )
    if (clips is None) != (hours is None):
        raise QuranAsrError("--clips and --hours are given together", remedy="give both, or --train MANIFEST")
    name, overrides = split_words(words, default="transfer")
    try:
        recipe = load_recipe(name, overrides)
    except RecipeError as refused:
        if as_json:
            print_json({"recipe": name, "findings": findings_as_json(_as_findings(refused))})
        raise
    calibrations, broken = read_calibrations()
    planned = planning.plan(
        recipe,
        _workload(recipe, training, clips, hours),
        devices,
        target=find_target(device, calibrations),
        given=MeasuredSeconds(batch_seconds, validation_seconds),
        validation_hours=_validation_hours(recipe, validation),
    )
    findings = [*planned.findings, *broken, *_full_disk(recipe, planned), *guide_notes(name, recipe, planned)]
    if as_json:
        print_json({"recipe": name, **planning.as_json(planned), "findings": findings_as_json(findings)})
        return int(any(finding.severity == "error" for finding in findings))
    rows = [(line, value) for line, value in _lines(planned) if value is not None]
    print_table(("plan", name), rows)
    return print_findings(findings)


def _workload(
    recipe: Recipe, training: tuple[str, ...], clips: int | None, hours: float | None
) -> Workload | None:
    from quran_asr.experiments.planning.workload import Workload, weigh_manifests

    if clips is not None and hours is not None:
        return Workload(clips, hours)
    manifests = training or recipe.model.train_ds.manifests
    return weigh_manifests(manifests, recipe) if manifests else None


def _validation_hours(recipe: Recipe, validation: tuple[str, ...]) -> float | None:
    from quran_asr.experiments.planning.workload import read_clips

    data = recipe.model.validation_ds
    manifests = validation or data.manifests
    if not manifests:
        return None
    seconds = [one for manifest in manifests for one in read_clips(manifest).seconds]
    return sum(one for one in seconds if data.max_duration is None or one <= data.max_duration) / 3600


def _as_findings(refused: RecipeError) -> list[Finding]:
    """What is refused before there is a plan, for those who read JSON; the command exits 2 all the same."""
    from quran_asr.errors import Finding

    return [
        Finding("error", "refused", mistake.where, mistake.what, mistake.remedy)
        for mistake in refused.mistakes
    ]


def _full_disk(recipe: Recipe, planned: Plan) -> list[Finding]:
    """A warning where the run would not fit on this machine's disk: it may be meant for another."""
    from dataclasses import replace

    from quran_asr.experiments.run_folder import lacking_space

    keep = recipe.exp_manager.checkpoint_callback_params.save_top_k
    full = lacking_space(recipe.exp_manager.exp_dir, planned.parameters, keep)
    return [] if full is None else [replace(full, severity="warning")]


def _lines(planned: Plan) -> list[tuple[str, str | None]]:
    def number(value: int | None, unit: str = "") -> str | None:
        return None if value is None else f"{value:,}{unit}"

    rate, memory, effective = planned.peak_learning_rate, planned.memory_bytes, planned.effective_batch
    unknown = planned.batch_seconds_source
    return [
        ("clips", number(planned.clips)),
        ("hours", None if planned.hours is None else f"{planned.hours:,.1f}"),
        ("devices", f"{planned.devices}" + (f" x {planned.device}" if planned.device else "")),
        ("effective batch", None if effective is None else counted(effective, "clip")),
        ("batches an epoch", number(planned.batches_per_epoch, " on each device")),
        ("optimizer steps an epoch", number(planned.optimizer_steps_per_epoch)),
        ("optimizer steps", number(planned.optimizer_steps)),
        ("epochs", None if planned.epochs is None else f"{planned.epochs:g}"),
        ("warm-up", None if planned.warmup_epochs is None else f"{planned.warmup_epochs:g} epochs"),
        ("peak learning rate", None if rate is None else f"{rate:.2e} at step {planned.peak_step:,}"),
        ("parameters", f"{planned.parameters / 1e6:,.2f} M"),
        ("memory of a step", f"about {_gigabytes(memory.total)} for {planned.memory_batch}"),
        ("  weights", _gigabytes(memory.weights)),
        ("  gradients", _gigabytes(memory.gradients)),
        ("  optimizer", _gigabytes(memory.optimizer)),
        ("  activations", _gigabytes(memory.activations)),
        ("  joint and loss", _gigabytes(memory.joint)),
        (
            "time of a batch",
            unknown
            if planned.batch_seconds is None
            else f"{planned.batch_seconds:.3g} s ({planned.batch_seconds_source})",
        ),
        ("time of an epoch", _duration(planned.epoch_seconds)),
        ("audio to read", _audio_rate(planned)),
        ("time of a validation", _validation_time(planned)),
        ("total time", _total_time(planned)),
        ("checkpoint", _gigabytes(planned.checkpoint_bytes)),
        ("disk", _gigabytes(planned.disk_bytes)),
        *(
            (f"{'start from' if i == 0 else 'or from'}", _arrival(a))
            for i, a in enumerate(planned.pretrained)
        ),
    ]


def _audio_rate(planned: Plan) -> str | None:
    """What disks and network must bring; decoded audio is kept in memory as far as there is room."""
    rate = planned.audio_times_real_time
    if rate is None:
        return None
    opus, samples = rate * OPUS_BYTES / 1e6, rate * SAMPLE_BYTES / 1e6
    return f"{rate:,.0f} times real time: {opus:,.3g} MB/s as Opus, {samples:,.3g} MB/s as 16-bit samples"


def _validation_time(planned: Plan) -> str | None:
    seconds = planned.validation_seconds
    if seconds is None:
        return planned.validation_seconds_source if planned.batch_seconds is not None else None
    return f"{seconds:.3g} s ({planned.validation_seconds_source})"


def _total_time(planned: Plan) -> str | None:
    total = _duration(planned.total_seconds)
    if total is None:
        return None
    if planned.validation_seconds is None:
        return f"{total}, without validation"
    return f"{total}, with {planned.validations:,} validations"


def _duration(seconds: float | None) -> str | None:
    """`16 h 18 min`, `8 min 47 s`"""
    if seconds is None:
        return None
    whole, minutes = round(seconds), round(seconds / 60)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{minutes // 60:,} h {minutes % 60:02d} min"


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"


def _arrival(arrival: Arrival) -> str:
    if arrival.encoder_share is None or arrival.share is None:
        return f"{arrival.name}: unknown until the archive is read"
    kind = "streaming" if arrival.streams else "offline"
    return (
        f"{arrival.name} ({arrival.language}, {kind}): {arrival.encoder_share:.1%} of the encoder, "
        f"{arrival.share:.1%} of the model"
    )
