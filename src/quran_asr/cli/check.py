"""`quran-asr check`: run the checks that precede a training."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import click

from quran_asr.cli.options import need


@click.command(
    epilog="Example: quran-asr check compact --train data/train.jsonl --validation data/validation.jsonl"
)
@click.argument("words", nargs=-1, metavar="[RECIPE] [KEY=VALUE]...")
@click.option(
    "--train",
    "training",
    multiple=True,
    type=click.Path(),
    metavar="MANIFEST",
    help="Training manifest. May be repeated.",
)
@click.option(
    "--validation",
    multiple=True,
    type=click.Path(),
    metavar="MANIFEST",
    help="Validation manifest. May be repeated.",
)
@click.option(
    "--sample",
    default="50",
    show_default=True,
    metavar="N|all",
    help="Number of clips of each manifest to decode.",
)
@click.option(
    "--gate-steps",
    type=click.IntRange(min=0),
    metavar="N",
    help="Steps of the overfit gate, in which the model must memorize a few clips; 0 skips it. Default: the "
    "recipe's, else 300, but none for a large model on a CPU.",
)
@click.option(
    "--allow-partial",
    is_flag=True,
    help="Pass even if less than 90 % of the encoder is loaded from the pretrained model.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON: recipe, checks, passed.")
def check(
    words: tuple[str, ...],
    training: tuple[str, ...],
    validation: tuple[str, ...],
    sample: str,
    gate_steps: int | None,
    allow_partial: bool,
    as_json: bool,
) -> int:
    """Check machine, data, leakage, tokens, weights, memory, and whether the model can overfit a few clips.

    RECIPE is a name of `quran-asr recipe list` or a file; default: transfer. Each check passes, warns or
    fails, with a remedy. Exits 1 if one fails, 2 if the recipe is wrong or a manifest is missing. Writes
    nothing; a pretrained model is downloaded.
    """
    need("train")
    from quran_asr.cli.training_setup import load
    from quran_asr.config.overrides import split_words
    from quran_asr.corpus.manifest import require_file
    from quran_asr.errors import QuranAsrError

    if sample != "all" and not (sample.isdecimal() and len(sample) < 10 and int(sample) > 0):
        raise QuranAsrError(f"`{sample}` is not a number of clips", where="--sample", remedy="50, or all")
    name, overrides = split_words(words, default="transfer")
    for key, manifests in (("train_ds", training), ("validation_ds", validation)):
        if manifests:
            overrides.append(f"model.{key}.manifest_filepath={json.dumps(manifests)}")
    recipe = load(name, overrides)
    for option, ds in (("--train", recipe.model.train_ds), ("--validation", recipe.model.validation_ds)):
        if not ds.manifests:
            raise QuranAsrError(
                f"no manifest to check: give one with {option} MANIFEST",
                remedy=f"add {option} MANIFEST (`quran-asr corpus scan` makes one from recordings)",
            )
        for manifest in ds.manifests:
            require_file(Path(manifest))

    from quran_asr.cli.output import print_json, progress_bar
    from quran_asr.cli.training_setup import StartOptions, TorchChecks, show_line, start_from_checkpoint
    from quran_asr.experiments.checks import preflight as checking
    from quran_asr.experiments.planning.starting_point import TOO_LITTLE

    keep_tokens = recipe.exp_manager.resume_from_checkpoint is not None
    start_options = StartOptions(allow_partial, keep_tokens, quiet=True)  # the line `start` names it
    recipe = start_from_checkpoint(recipe)
    with tempfile.TemporaryDirectory(prefix="quran-asr-") as folder:
        preflight = checking.Preflight(
            recipe,
            TorchChecks(recipe, start_options, Path(folder), gate_steps),
            progress_bar,
            sample=None if sample == "all" else int(sample),
            tolerated=(TOO_LITTLE,) if allow_partial else (),
        )
        lines = checking.run(preflight.checks(), lambda line: None if as_json else show_line(line))
    if as_json:
        print_json(checking.as_json(name, lines))
    return int(checking.has_failed(lines))
