"""From a trained model to a verified bundle: graphs, vocabulary, description, model card."""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from quran_asr import __version__
from quran_asr.config.recipe import load_recipe
from quran_asr.corpus.manifest import read_manifest
from quran_asr.decoding.options import BEAM_TEMPERATURE, BEAMS, check_temperature
from quran_asr.errors import QuranAsrError
from quran_asr.evaluation.training_data import TrainingData
from quran_asr.experiments.checkpoints import copy_model
from quran_asr.export.graphs import quantize, quantize_weights, write_graphs
from quran_asr.export.targets import TARGETS
from quran_asr.export.verification import check_bundle, cost_of_int8, cost_of_joining
from quran_asr.files import sha256_of, sweep, unfinished_path, write_atomically, write_json
from quran_asr.locks import locked
from quran_asr.records import Segment
from quran_asr.runtime.bundle import (
    DESCRIPTION,
    ENCODER,
    JOINT,
    PREDICTION,
    TRAINING_DATA,
    VOCABULARY,
    Bundle,
    Shape,
    is_bundle,
    write_description,
)
from quran_asr.runtime.shallow_fusion import QURAN_MODEL, TUNED
from quran_asr.shards import is_recording
from quran_asr.training.model import EncDecHybridRNNTCTCBPEModel
from quran_asr.training.recognizer import load_model, spelling_of
from quran_asr.training.streaming import describe, model_shape

CARD = "MODEL_CARD.md"
Precision = Literal["float32", "int8", "int8-weights"]
"""Of the encoder, see `export`."""


def model_card(bundle: Bundle) -> str:
    """Markdown, generated from the bundle's description alone."""
    provenance, figures = bundle.provenance, bundle.figures
    trained = provenance.get("trained_on")
    data = (
        f"{trained['clips']:,} clips, {trained['hours']:.2f} hours, {trained['reciters']:,} reciters, "
        f"{trained['verses']:,} verses"
        if trained
        else "unknown"
    )
    size = sum(file.stat().st_size for file in bundle.folder.glob("*.onnx")) / 1e6
    lines = [
        f"# {bundle.name}",
        "",
        "A streaming recognizer of Quran recitation (FastConformer, transducer and CTC).",
        "",
        f"- writes: `{bundle.spelling}`, {len(bundle.vocabulary):,} pieces",
        f"- look-aheads: {', '.join(f'{ms} ms' for ms in bundle.look_aheads_ms)}",
        f"- parameters: {provenance['parameters']:,}, {bundle.precision}, {size:.1f} MB",
        f"- made from: `{provenance['model']}` (sha256 {provenance['sha256']})",
        f"- recipe: {provenance['recipe'] or 'unknown'}",
        f"- trained on: {data}",
        f"- temperature of the beam search: {bundle.beam_temperature:g}",
        f"- exported: {provenance['exported']}, quran-asr {provenance['quran_asr']}",
        "",
        "## Measured when it was exported",
        "",
        *_check_lines(figures.get("check")),
        *_int8_lines(figures.get("int8")),
        *_joined_lines(figures.get("joined")),
        "",
        "Its error rates on unseen reciters were not measured here: run",
        "`quran-asr evaluate MANIFEST --model FOLDER`.",
        "",
        "## Use",
        "",
        "```python",
        "import quran_asr",
        "",
        'recognizer = quran_asr.load("FOLDER")',
        'print(recognizer.recognize("recitation.mp3").text)',
        "",
        "stream = recognizer.stream()",
        "for samples in microphone:  # float32, 16 kHz",
        "    result = stream.accept(samples)",
        "    print(result.committed, result.partial)",
        "```",
        "",
        "It was made for recitation of the Quran by one voice, and writes nothing else. It does not judge a",
        "recitation: a recognition error is not a mistake of the reciter.",
        "",
    ]
    return "\n".join(lines)


def _check_lines(check: dict[str, object] | None) -> list[str]:
    if not check:
        return []
    lines = [
        f"In 32-bit floats, beside the trained model on {check['clips']} clips ({check['source']}), whole",
        "and in pieces:",
        "",
        "| look-ahead | largest difference of a log-probability | clips with the same words |",
        "|---|---|---|",
    ]
    rows = check["look_aheads"]
    assert isinstance(rows, dict)
    for ms, row in rows.items():
        lines.append(
            f"| {ms} ms | {row['largest_difference']:.1e} | {row['same_words']} of {row['compared']} |"
        )
    return lines


def _int8_lines(cost: dict[str, object] | None) -> list[str]:
    if not cost:
        return []
    lines = [
        "",
        f"8-bit matrices instead of 32-bit floats: the encoder has {cost['size_ratio']:.2f} of its size.",
    ]
    lines.append(
        f"Log-probabilities differ by up to {cost['largest_difference']:.2g} from those of the floats; "
        f"{cost['pieces_same']} of {cost['pieces']} clips have the same words whole and in pieces."
    )
    if cost.get("wer_float") is not None:
        lines.append(
            f"WER on {cost['clips']} clips: {cost['wer_float']:.4f} before, {cost['wer']:.4f} after."
        )
    else:
        lines.append(f"Words that changed on {cost['clips']} clips: {cost['changed']:.4f} of all.")
    return lines


def _joined_lines(joined: dict[str, Any] | None) -> list[str]:
    if not joined:
        return []
    alone, pairs = joined["alone"]["wer"], joined["in_pairs"]["wer"]
    return ["", f"WER on {joined['clips']} clips: {alone:.4f} alone, {pairs:.4f} joined in pairs."]


WRITTEN = {DESCRIPTION, ENCODER, PREDICTION, JOINT, VOCABULARY, CARD, TRAINING_DATA, *TARGETS}
WRITTEN |= {QURAN_MODEL, TUNED, *(f"fusion-{decoder}.png" for decoder in BEAMS.values())}
WRITTEN |= {f"tuning-{decoder}" for decoder in BEAMS.values()}
"""What a folder may contain to be replaced by a new bundle: the language model and its weights were made for
the bundle before."""


def export(
    model_path: Path,
    folder: Path,
    *,
    precision: Precision = "float32",
    targets: Sequence[str] = (),
    manifest: Path | None = None,
    beam_temperature: float = BEAM_TEMPERATURE,
    on_step: Callable[[str], None] = lambda step: None,
) -> Bundle:
    """Write a bundle, after it has been verified against the model.

    Args:
        model_path: a `.nemo`, a `.ckpt` of a run, or a run folder (its best).
        folder: of the bundle; an existing bundle is replaced once the new one is verified.
        precision: `int8` computes with the encoder's matrices in 8-bit integers: small and fast, at a cost in
            accuracy. `int8-weights` stores them in 8 bits and computes in 32-bit floats: as small, no
            faster, and nearly as accurate as `float32`.
        targets: names from `TARGETS`; adds `<target>/<look-ahead>ms` for each look-ahead, in 32-bit floats.
        manifest: recordings for the verification; with int8 their texts also measure its cost. None takes the
            validation recordings of the model's run if they exist, otherwise synthetic audio alone.
        beam_temperature: of `transducer-beam` with this model, see `Decoding.temperature`; which is best on
            validation clips, `tools/beam_temperature.py` measures.
        on_step: called with a description of the current step.

    Raises:
        QuranAsrError: an unknown target, a temperature out of range, no loadable model, no streaming model,
            other files in the folder, or the bundle differs from the model. Then nothing is written.
    """
    if unknown := set(targets) - set(TARGETS):
        raise QuranAsrError(
            f"no export target `{unknown.pop()}`", where="--target", remedy=f"use {', '.join(TARGETS)}"
        )
    check_temperature(beam_temperature)
    folder = folder.resolve()
    _refuse_to_destroy(folder)
    with locked(folder.with_name(f".{folder.name}.lock"), busy="another export writes here"):
        return _export(model_path, folder, precision, targets, manifest, beam_temperature, on_step)


def _export(
    model_path: Path,
    folder: Path,
    precision: Precision,
    targets: Sequence[str],
    manifest: Path | None,
    beam_temperature: float,
    on_step: Callable[[str], None],
) -> Bundle:
    """Write it under a temporary name, then rename it; the folder is locked meanwhile."""
    if is_bundle(folder):
        on_step(f"a bundle is in {folder}: it is replaced when the new one is proven")
    on_step(f"loading {model_path}")
    model, source = load_model(model_path)
    model.eval()
    shape = model_shape(model, str(source))
    clips = _clips(model, source, manifest)
    sweep(folder.parent)
    unfinished = unfinished_path(folder.parent)
    unfinished.mkdir()
    try:
        on_step("writing the graphs")
        bundle = write_unproven(model, source, shape, unfinished, beam_temperature)
        on_step("comparing with the model, whole and in pieces")
        figures: dict[str, Any] = {"check": check_bundle(model, unfinished, clips)}
        if precision != "float32":
            on_step("to 8-bit integers")
            bundle, figures["int8"] = _replace_by_int8(bundle, precision, clips)
        figures["joined"] = cost_of_joining(bundle, clips)
        for target in targets:
            module, _, function = TARGETS[target].partition(":")
            write = getattr(importlib.import_module(module), function)
            for frames in shape.look_aheads:
                name = f"{bundle.milliseconds(frames)}ms"
                on_step(f"writing {target}/{name}")
                write(model, shape, unfinished / target / name, frames)
        bundle = replace(bundle, figures=figures)
        write_atomically(unfinished / CARD, model_card(bundle).encode())
        extra = [CARD]
        if (data := _training_data(source)) is not None:
            _write_training_data(data, unfinished)
            extra.append(TRAINING_DATA)
        write_description(bundle, extra)
        _take_place(unfinished, folder)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    return replace(bundle, folder=folder)


def _refuse_to_destroy(folder: Path) -> None:
    """Refuse a folder with files that no export wrote."""
    if folder == Path.cwd():
        raise QuranAsrError(
            "this is the working folder", where=str(folder), remedy="name another one with --to"
        )
    strangers = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else [folder.name]
    if is_bundle(folder):
        strangers = [name for name in strangers if name not in WRITTEN]
    if folder.exists() and strangers:
        what = "the folder already holds other files"
        raise QuranAsrError(
            f"{what}: {', '.join(strangers[:3])}", where=str(folder), remedy="name a new folder with --to"
        )


def write_unproven(
    model: EncDecHybridRNNTCTCBPEModel,
    source: Path,
    shape: Shape,
    folder: Path,
    beam_temperature: float = BEAM_TEMPERATURE,
) -> Bundle:
    """Write a bundle into an empty folder. It is not verified yet."""
    write_graphs(model, shape, folder)
    bundle = describe(model, source.stem, spelling_of(model), shape, folder, _provenance(model, source))
    bundle = replace(bundle, beam_temperature=beam_temperature)
    bundle.vocabulary.write(folder / VOCABULARY)
    write_description(bundle)
    return bundle


def to_int8(bundle: Bundle, folder: Path, precision: Precision = "int8") -> Bundle:
    """Write the bundle again into an empty folder, with an encoder of 8-bit integers."""
    for name in (PREDICTION, JOINT, VOCABULARY):
        copy_model(bundle.folder / name, folder / name)
    write = quantize if precision == "int8" else quantize_weights
    write(bundle.folder / ENCODER, folder / ENCODER)
    smaller = replace(bundle, folder=folder, precision=precision)
    write_description(smaller)
    return smaller


def _clips(model: EncDecHybridRNNTCTCBPEModel, source: Path, manifest: Path | None) -> list[Segment]:
    spelling = str((model.cfg.get("quran") or {}).get("spelling", "diacritized"))
    if manifest is not None:
        return read_manifest(manifest, spelling)
    recipe = source.parent.parent / "recipe.yaml"
    clips: list[Segment] = []
    if recipe.is_file():
        with suppress(QuranAsrError):  # recordings that have moved since
            for path in load_recipe(str(recipe)).model.validation_ds.manifests:
                clips += read_manifest(path, spelling)
    return [clip for clip in clips if is_recording(clip.audio)]


def _provenance(model: EncDecHybridRNNTCTCBPEModel, source: Path) -> dict[str, Any]:
    return {
        "model": source.name,
        "sha256": sha256_of(source),
        "recipe": (model.cfg.get("quran") or {}).get("recipe"),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "trained_on": _in_numbers(_training_data(source)),
        "exported": datetime.now(UTC).strftime("%Y-%m-%d"),
        "quran_asr": __version__,
    }


def _training_data(source: Path) -> TrainingData | None:
    """The training data of a checkpoint's run; None if unknown."""
    path = source.parent.parent / TRAINING_DATA
    return TrainingData.read(path) if path.is_file() else None


def _in_numbers(data: TrainingData | None) -> dict[str, Any] | None:
    if data is None:
        return None
    return {
        "clips": sum(manifest.clips for manifest in data.manifests),
        "hours": round(sum(manifest.hours for manifest in data.manifests), 3),
        "reciters": len(data.reciters),
        "verses": len(data.verses),
    }


def _write_training_data(data: TrainingData, folder: Path) -> None:
    """So that an evaluation can separate known reciters and texts from new ones. No paths of this disk."""
    named = replace(data, manifests=tuple(replace(one, path=Path(one.path).name) for one in data.manifests))
    write_json(folder / TRAINING_DATA, named.to_json())


def _replace_by_int8(
    bundle: Bundle, precision: Precision, clips: Sequence[Segment]
) -> tuple[Bundle, dict[str, Any]]:
    """The same bundle with an 8-bit encoder, and the cost in accuracy."""
    smaller = bundle.folder / "int8"
    smaller.mkdir()
    cost = cost_of_int8(bundle, to_int8(bundle, smaller, precision), clips)
    (smaller / ENCODER).replace(bundle.folder / ENCODER)
    shutil.rmtree(smaller)
    return replace(bundle, precision=precision), cost


def _take_place(unfinished: Path, folder: Path) -> None:
    """Move the finished folder to its final place; an earlier bundle is removed."""
    earlier = unfinished_path(folder.parent)
    if folder.exists():
        folder.rename(earlier)
    unfinished.rename(folder)
    shutil.rmtree(earlier, ignore_errors=True)
