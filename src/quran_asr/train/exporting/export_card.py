"""The model card of a bundle: what it is, where it comes from, what was measured, how it is used."""

from __future__ import annotations

from quran_asr.listen.bundle import Bundle

CARD = "MODEL_CARD.md"


def model_card(bundle: Bundle) -> str:
    """Markdown, from what the bundle knows and nothing else."""
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
        f"- exported: {provenance['exported']}, quran-asr {provenance['quran_asr']}",
        "",
        "## Measured when it was exported",
        "",
        *_check_lines(figures.get("check")),
        *_int8_lines(figures.get("int8")),
        "",
        "How well it hears unknown reciters is told by `quran-asr evaluate FOLDER MANIFEST`; it was not",
        "measured here.",
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
        "    moment = stream.accept(samples)",
        "    print(moment.committed, moment.partial)",
        "```",
        "",
        "It was made for recitation of the Quran by one voice, and writes nothing else. It is no judge of a",
        "recitation: what it hears wrongly is no mistake of the reciter.",
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
        lines.append(f"| {ms} ms | {row['largest_difference']:.1e} | {row['same_words']} of {row['heard']} |")
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
