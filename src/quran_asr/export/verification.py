"""Verification of a bundle: NeMo and the runtime compared, whole and in chunks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from quran_asr import audio
from quran_asr.decoding import ctc
from quran_asr.decoding.options import Decoding
from quran_asr.errors import QuranAsrError
from quran_asr.evaluation.report import ScoredClip
from quran_asr.evaluation.scoring import score_clips
from quran_asr.evaluation.stress import PAIRS, joined_pairs
from quran_asr.records import SAMPLE_RATE, Counts, Emissions, Segment
from quran_asr.runtime.bundle import ENCODER, Bundle, read_bundle
from quran_asr.runtime.recognizer import Recognizer
from quran_asr.training.model import EncDecHybridRNNTCTCBPEModel, look_aheads, set_look_ahead

Floats = np.ndarray[Any, np.dtype[np.float32]]

TOLERANCE = 1e-3
"""Largest difference of a log-probability, natural log."""
REPORT = "please report it with the recipe: the exported graph is not this model"
CLIPS = 6
"""Recordings that prove a bundle, of those that are given: the first ones."""
CLIPS_INT8 = 200
"""Recordings on which the cost of 8-bit integers is counted."""
LONGEST = 20.0
"""Seconds of a recording that verifies a bundle; NeMo processes it once for each look-ahead."""


def check_bundle(
    model: EncDecHybridRNNTCTCBPEModel, folder: Path, clips: Sequence[Segment]
) -> dict[str, Any]:
    """Compare log-probabilities and words for every look-ahead.

    Args:
        model: in evaluation mode, on the CPU.
        folder: of the bundle.
        clips: recordings; without any, synthetic audio alone verifies it.

    Returns:
        `clips`, `source`, and for each look-ahead in milliseconds `largest_difference` (of a CTC
        log-probability, whole and in pieces), `same_words` and `compared` (both decoders).

    Raises:
        QuranAsrError: a difference above the tolerance, or another word.
    """
    bundle = read_bundle(folder)
    recordings = [*_recordings(clips), *_made_up()]
    real = len(recordings) - len(list(_made_up()))
    rows: dict[str, Any] = {}
    first = next(iter(look_aheads(model).values()))
    try:
        for ms, context in look_aheads(model).items():
            set_look_ahead(model, context)
            runtimes = {
                decoder: Recognizer(bundle, Decoding(decoder=decoder, pause_seconds=None), ms)
                for decoder in ("ctc", "transducer")
            }
            rows[str(ms)] = _compare(model, runtimes, recordings, f"look-ahead {ms} ms")
    finally:
        set_look_ahead(model, first)
    source = "recordings and synthetic audio" if real else "synthetic audio"
    return {"clips": len(recordings), "source": source, "look_aheads": rows}


def cost_of_int8(exact: Bundle, smaller: Bundle, clips: Sequence[Segment]) -> dict[str, Any]:
    """The effect of 8-bit matrices, at the widest look-ahead, with the transducer.

    Args:
        exact: with 32-bit floats.
        smaller: the same with 8-bit matrices.
        clips: recordings with their texts; without any, words on synthetic audio are compared.

    Returns:
        `clips`, `size_ratio`, `changed` (share of changed words), with texts `wer_float`
        and `wer`, and of the first clips `largest_difference` (of a CTC log-probability from the floats') and
        `pieces_same` of `pieces`: clips with the same words whole and in pieces.
    """
    recordings = [(clip.text, samples) for clip, samples in _samples(clips[:CLIPS_INT8])]
    texts = [text for text, _ in recordings]
    hypotheses = [samples for _, samples in recordings] or [samples for _, samples in _made_up()]
    before, after = (
        [recognizer.recognize(samples).text for samples in hypotheses]
        for recognizer in (Recognizer(exact), Recognizer(smaller))
    )
    first = hypotheses[:CLIPS]
    whole, small = Recognizer(exact), Recognizer(smaller)
    differences = [
        float(np.abs(whole.emissions([one]).log_probs - small.emissions([one]).log_probs).max(initial=0.0))
        for one in first
    ]
    sizes = [(bundle.folder / ENCODER).stat().st_size for bundle in (exact, smaller)]
    result: dict[str, Any] = {
        "clips": len(hypotheses),
        "size_ratio": round(sizes[1] / sizes[0], 4),
        "changed": round(_rate(before, after, exact.spelling), 5),
        "largest_difference": round(max(differences, default=0.0), 4),
        "pieces": len(first),
        "pieces_same": sum(_in_pieces(small, one) == text for one, text in zip(first, after, strict=False)),
        "wer_float": None,
        "wer": None,
    }
    if any(texts):
        result["wer_float"] = round(_rate(texts, before, exact.spelling), 5)
        result["wer"] = round(_rate(texts, after, exact.spelling), 5)
    return result


def cost_of_joining(bundle: Bundle, clips: Sequence[Segment]) -> dict[str, Any] | None:
    """The loss of accuracy when clips are joined in pairs, at the widest look-ahead, with the transducer.

    Args:
        bundle: as it is written.
        clips: recordings with their texts.

    Returns:
        As `joined` in a report; None where no two clips of a reciter have texts.
    """
    recognizer = Recognizer(bundle)
    with_text = [clip for clip in clips if clip.text][: 2 * PAIRS]
    texts = [recognizer.text_of(samples) for _, samples in _samples(with_text)]
    scores = score_clips([(clip.text, *clip.also_accept) for clip in with_text], texts, bundle.spelling)
    scored = [ScoredClip(clip, score) for clip, score in zip(with_text, scores, strict=True)]
    joined = joined_pairs(scored, recognizer.text_of, bundle.spelling)
    return None if joined is None else joined.to_json()


def _compare(
    model: EncDecHybridRNNTCTCBPEModel,
    runtimes: dict[str, Recognizer],
    recordings: Sequence[tuple[str, Floats]],
    where: str,
) -> dict[str, Any]:
    largest, same, hypotheses = 0.0, 0, 0
    vocabulary = runtimes["ctc"].bundle.vocabulary
    for name, samples in recordings:
        scores, references = nemo_transcribes(model, samples)
        expected = {
            "ctc": vocabulary.text(ctc.greedy(scores).tokens),
            "transducer": vocabulary.text(references),
        }
        whole = runtimes["ctc"].emissions([samples])
        pieces = runtimes["ctc"].emissions(cut(samples, seed=len(samples)))
        for emissions in (whole, pieces):
            largest = max(largest, _difference(emissions, scores, f"{where}, {name}"))
        for decoder, runtime in runtimes.items():
            text = runtime.recognize(samples).text
            hypotheses += 1
            same += text == expected[decoder]
            if text != expected[decoder]:
                raise QuranAsrError(
                    f"{decoder} gives `{text}` where the model gives `{expected[decoder]}`",
                    where=f"{where}, {name}",
                    remedy=REPORT,
                )
    return {"largest_difference": largest, "same_words": same, "compared": hypotheses}


@torch.inference_mode()
def nemo_transcribes(model: EncDecHybridRNNTCTCBPEModel, samples: Floats) -> tuple[Floats, tuple[int, ...]]:
    """The model's own whole-file pass: CTC log-probabilities [frames, vocabulary + 1], transducer tokens.

    A recording shorter than a feature frame has no frame here; NeMo itself would return one.
    """
    if len(samples) < int(model.cfg.preprocessor.sample_rate * model.cfg.preprocessor.window_stride):
        return np.zeros((0, int(model.tokenizer.vocab_size) + 1), np.float32), ()
    signal = torch.from_numpy(np.asarray(samples, np.float32))[None]
    features, lengths = model.preprocessor(input_signal=signal, length=torch.tensor([len(samples)]))
    encoded, frames = model.encoder(audio_signal=features, length=lengths)
    scores = model.ctc_decoder(encoder_output=encoded)[0, : int(frames[0])].numpy()
    found = model.decoding.rnnt_decoder_predictions_tensor(
        encoder_output=encoded, encoded_lengths=frames, return_hypotheses=True
    )
    return scores, tuple(int(token) for token in found[0].y_sequence)


def cut(samples: Floats, seed: int) -> Iterator[Floats]:
    """A recording in pieces of 1 to 8,000 samples, always the same for a seed."""
    draw = np.random.default_rng(seed)
    start = 0
    while start < len(samples):
        size = int(np.exp(draw.uniform(0, np.log(8_000))))
        yield samples[start : start + size]
        start += size


def _difference(emissions: Emissions, scores: Floats, where: str) -> float:
    if emissions.log_probs.shape != scores.shape:
        raise QuranAsrError(
            f"{len(emissions.log_probs)} frames where the model has {len(scores)}", where=where, remedy=REPORT
        )
    difference = float(np.abs(emissions.log_probs - scores).max(initial=0.0))
    if not difference <= TOLERANCE:
        raise QuranAsrError(
            f"a log-probability differs by {difference:.2g} from the model's (at most {TOLERANCE:g})",
            where=where,
            remedy=REPORT,
        )
    return difference


def _recordings(clips: Sequence[Segment]) -> Iterator[tuple[str, Floats]]:
    short = [clip for clip in clips if clip.duration <= LONGEST]
    for clip, samples in _samples(short[:CLIPS]):
        yield f"{clip.audio} at {clip.offset:g} s", samples


def _samples(
    clips: Sequence[Segment],
) -> Iterator[tuple[Segment, Floats]]:
    for clip in clips:
        yield clip, audio.read(clip.audio, clip.offset, clip.duration or None)


def _made_up() -> Iterator[tuple[str, Floats]]:
    """Cases that recordings rarely contain: silence, less than a chunk, more than the left context,
    clicks."""
    draw = np.random.default_rng(0)
    yield "silence", np.zeros(SAMPLE_RATE, np.float32)
    yield "one feature frame", (0.1 * draw.standard_normal(161)).astype(np.float32)
    yield "less than an encoder frame", (0.1 * draw.standard_normal(1_001)).astype(np.float32)
    seconds = np.arange(9 * SAMPLE_RATE) / SAMPLE_RATE
    loudness = 0.1 * np.abs(np.sin(2 * np.pi * 1.7 * seconds))
    voice = np.sign(np.sin(2 * np.pi * 120 * seconds)) + draw.standard_normal(len(seconds))
    yield "a hum that comes and goes", (loudness * voice).astype(np.float32)


def _in_pieces(recognizer: Recognizer, samples: Floats) -> str:
    stream = recognizer.stream()
    for piece in cut(samples, seed=len(samples)):
        stream.accept(piece)
    stream.finish()
    return stream.transcript.text


def _rate(references: Sequence[str], hypotheses: Sequence[str], spelling: str) -> float:
    scores = score_clips([(text,) for text in references], hypotheses, spelling)
    return sum((score.words for score in scores), Counts()).rate
