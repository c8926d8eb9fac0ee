"""`quran-asr export`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from quran_asr.cli.models import look_through, refuse_bundle
from quran_asr.cli.options import need
from quran_asr.cli.output import echo, print_json, print_table
from quran_asr.errors import QuranAsrError


@click.command(epilog="Example: quran-asr export nemo_experiments/laptop/2026-01-31_12-00-00 --to bundle")
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--to", "folder", type=click.Path(path_type=Path), required=True, help="Folder of the bundle.")
@click.option(
    "--int8", is_flag=True, help="Keep the encoder's matrices as 8-bit integers, and say what it costs."
)
@click.option(
    "--target",
    "targets",
    multiple=True,
    metavar="NAME",
    help="Also write for another runtime, a folder for each look-ahead: sherpa (sherpa-onnx).",
)
@click.option(
    "--clips",
    "manifest",
    type=click.Path(path_type=Path),
    metavar="MANIFEST",
    help="Recordings to prove the bundle with; default: the run's validation manifest, else made-up sound.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def export(
    model: Path, folder: Path, int8: bool, targets: tuple[str, ...], manifest: Path | None, as_json: bool
) -> int:
    """Make MODEL a bundle: a folder for inference without torch and NeMo.

    MODEL is a .nemo file, a .ckpt file of a run, or a run folder (its best checkpoint). The bundle is written
    when it says what the model says: whole and in pieces, for each look-ahead.
    """
    if not model.exists():
        raise QuranAsrError("no such model", where=str(model), remedy="give a .nemo, a .ckpt or a run folder")
    refuse_bundle(model)
    need("train")
    look_through(model)
    from quran_asr.export.bundle import export as write

    bundle = write(
        model,
        folder,
        int8=int8,
        targets=targets,
        manifest=manifest,
        on_step=lambda step: echo(f"{step} ...", err=True),
    )
    if as_json:
        print_json({"folder": str(folder), "figures": dict(bundle.figures)})
    else:
        _print(folder, bundle.figures)
    return 0


def _print(folder: Path, figures: Mapping[str, Any]) -> None:
    check = figures["check"]
    rows = [
        (f"{ms} ms", f"{row['largest_difference']:.1e}", f"{row['same_words']} of {row['compared']}")
        for ms, row in check["look_aheads"].items()
    ]
    way = "whole and in pieces" + (", before it became 8-bit" if figures.get("int8") else "")
    echo(f"beside the model on {check['clips']} clips ({check['source']}), {way}:")
    print_table(("look-ahead", "largest difference", "same words"), rows)
    cost = figures.get("int8")
    if cost:
        size = f"the encoder has {100 * cost['size_ratio']:.0f} % of its size"
        if cost["wer"] is not None:
            words = f"WER {cost['wer_float']:.4f} before, {cost['wer']:.4f} after"
        else:
            words = f"{100 * cost['changed']:.2f} % of the words changed"
        echo(f"8-bit: {size}; {words} ({cost['clips']} clips)")
        echo(
            f"       log-probabilities differ by up to {cost['largest_difference']:.2g}; whole and in pieces "
            f"{cost['pieces_same']} of {cost['pieces']} clips have the same words"
        )
    echo(f"{folder}: the bundle; quran-asr listen, transcribe and evaluate take it")
