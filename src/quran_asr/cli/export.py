"""`quran-asr export`: a trained model as a bundle for inference without torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from quran_asr.cli.models import checkpoint_of, refuse_bad_archive
from quran_asr.cli.options import FiniteRange, need
from quran_asr.cli.output import echo, print_json, print_table
from quran_asr.decoding.options import BEAM_TEMPERATURE, TEMPERATURES
from quran_asr.errors import QuranAsrError
from quran_asr.export.targets import TARGETS


@click.command(epilog="Example: quran-asr export nemo_experiments/compact/2026-01-31_12-00-00 --to bundle")
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "--to",
    "folder",
    type=click.Path(path_type=Path),
    required=True,
    metavar="FOLDER",
    help="Folder of the bundle.",
)
@click.option(
    "--int8", is_flag=True, help="Compute with the encoder's matrices in 8 bits, and report what it costs."
)
@click.option(
    "--int8-weights",
    is_flag=True,
    help="Only store the encoder's matrices in 8 bits: as small as --int8, nearly exact, no faster.",
)
@click.option(
    "--target",
    "targets",
    multiple=True,
    type=click.Choice(TARGETS),
    help="Also write the model for another runtime (sherpa: sherpa-onnx), a folder for each look-ahead.",
)
@click.option(
    "--clips",
    "manifest",
    type=click.Path(path_type=Path),
    metavar="MANIFEST",
    help="Clips to verify the bundle with. Default: the run's validation manifest, else synthetic audio.",
)
@click.option(
    "--beam-temperature",
    type=FiniteRange(*TEMPERATURES),
    default=BEAM_TEMPERATURE,
    show_default=True,
    metavar="T",
    help="Temperature of the beam search with this model: above 1, more texts stay in the beam.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def export(
    model: Path,
    folder: Path,
    int8: bool,
    int8_weights: bool,
    targets: tuple[str, ...],
    manifest: Path | None,
    beam_temperature: float,
    as_json: bool,
) -> int:
    """Export MODEL to a bundle: a folder for inference without torch and NeMo.

    MODEL is a .nemo, a .ckpt in its run, or a run folder (its best checkpoint). The bundle is written only if
    it gives the same words as the model, on whole files and in chunks, at each look-ahead.
    """
    if int8 and int8_weights:
        raise QuranAsrError("`--int8` and `--int8-weights` exclude each other", remedy="leave one out")
    checkpoint = checkpoint_of(model)
    need("train")
    refuse_bad_archive(checkpoint)
    from quran_asr.export.bundle import export as write

    bundle = write(
        model,
        folder,
        precision="int8-weights" if int8_weights else "int8" if int8 else "float32",
        targets=targets,
        manifest=manifest,
        beam_temperature=beam_temperature,
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
    way = "whole and in chunks" + (", before quantization" if figures.get("int8") else "")
    echo(f"compared with the model on {check['clips']} clips ({check['source']}), {way}:")
    print_table(("look-ahead", "largest difference", "same words"), rows)
    cost = figures.get("int8")
    if cost:
        size = f"the encoder has {100 * cost['size_ratio']:.0f} % of its size"
        if cost["wer"] is not None:
            words = f"WER {cost['wer_float']:.4f} before, {cost['wer']:.4f} after"
        else:
            words = f"{100 * cost['changed']:.2f} % of the words differ"
        echo(f"8-bit: {size}; {words} ({cost['clips']} clips)")
        echo(
            f"       log-probabilities differ by up to {cost['largest_difference']:.2g}; whole and in chunks "
            f"{cost['pieces_same']} of {cost['pieces']} clips have the same words"
        )
    joined = figures.get("joined")
    if joined:
        alone, pairs = joined["alone"]["wer"], joined["in_pairs"]["wer"]
        echo(f"joined: WER {alone:.4f} of {joined['clips']} clips alone, {pairs:.4f} joined in pairs")
    echo(f"{folder}: the bundle, for --model of transcribe, listen and evaluate")
