"""`quran-asr plan`: what a training will be, before it begins."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from quran_asr.runs.plan import Plan
    from quran_asr.runs.plan_start import Arrival


@click.command(
    epilog="Example: quran-asr plan transfer --clips 67399 --hours 56 --devices 1",
    context_settings={"ignore_unknown_options": False},
)
@click.argument("words", metavar="RECIPE [KEY=VALUE]...", nargs=-1)
@click.option("--train", metavar="MANIFEST", help="Plan for the clips of this manifest.")
@click.option("--clips", type=click.IntRange(min=1), help="Plan for this many clips.")
@click.option(
    "--hours", type=click.FloatRange(min=0, min_open=True, max=1e7), help="Hours of audio in the clips."
)
@click.option(
    "--devices", type=click.IntRange(min=1), help="GPUs to plan for; the recipe's number if not given."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def plan(
    words: tuple[str, ...],
    train: str | None,
    clips: int | None,
    hours: float | None,
    devices: int | None,
    as_json: bool,
) -> int:
    """Show what a recipe will do: batches, optimizer steps, peak learning rate, parameters.

    RECIPE is a shipped name or a file. What looks wrong is said on stderr, with its mend.
    """
    from quran_asr.cli.printing import findings_as_json, print_findings, print_json, print_table
    from quran_asr.findings import QuranAsrError
    from quran_asr.runs import plan as planning
    from quran_asr.runs.overrides import split_words
    from quran_asr.runs.recipe import load_recipe

    if train is not None and (clips is not None or hours is not None):
        raise QuranAsrError(
            "--train counts the clips and hours itself", remedy="leave out --clips and --hours"
        )
    if (clips is None) != (hours is None):
        raise QuranAsrError("--clips and --hours belong together", remedy="give both, or --train MANIFEST")
    name, overrides = split_words(words)
    recipe = load_recipe(name, overrides)
    work = None
    if clips is not None and hours is not None:
        work = planning.Workload(clips, hours)
    else:
        manifests = (train,) if train is not None else recipe.model.train_ds.manifests
        if manifests:
            durations = [seconds for manifest in manifests for seconds in planning.read_durations(manifest)]
            work = planning.weigh(durations, recipe)
    planned = planning.plan(recipe, work, devices)
    if as_json:
        findings = findings_as_json(planned.findings)
        print_json({"recipe": name, **planning.as_json(planned), "findings": findings})
        return int(any(finding.severity == "error" for finding in planned.findings))
    rows = [(line, value) for line, value in _lines(planned) if value is not None]
    print_table(("plan", name), rows)
    return print_findings(planned.findings)


def _lines(planned: Plan) -> list[tuple[str, str | None]]:
    def number(value: int | None, unit: str = "") -> str | None:
        return None if value is None else f"{value:,}{unit}"

    rate = planned.peak_learning_rate
    return [
        ("clips", number(planned.clips)),
        ("hours", None if planned.hours is None else f"{planned.hours:,.1f}"),
        ("GPUs", number(planned.devices)),
        ("effective batch", number(planned.effective_batch, " clips")),
        ("batches an epoch", number(planned.batches_per_epoch)),
        ("optimizer steps an epoch", number(planned.optimizer_steps_per_epoch)),
        ("optimizer steps", number(planned.optimizer_steps)),
        ("epochs", None if planned.epochs is None else f"{planned.epochs:g}"),
        ("peak learning rate", None if rate is None else f"{rate:.2e} at step {planned.peak_step:,}"),
        ("parameters", f"{planned.parameters / 1e6:,.2f} M"),
        *(
            (f"{'start from' if i == 0 else 'or from'}", _arrival(a))
            for i, a in enumerate(planned.pretrained)
        ),
    ]


def _arrival(arrival: Arrival) -> str:
    if arrival.encoder_share is None or arrival.share is None:
        return f"{arrival.name}: unknown until the archive is read"
    kind = "streaming" if arrival.streams else "offline"
    return (
        f"{arrival.name} ({arrival.language}, {kind}): {arrival.encoder_share:.1%} of the encoder, "
        f"{arrival.share:.1%} of the model"
    )
