"""Clips for a benchmark, from a manifest or synthetic: the cost does not depend on the words."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from quran_asr import audio
from quran_asr.corpus.manifest import read_manifest
from quran_asr.errors import QuranAsrError
from quran_asr.files import write_atomically
from quran_asr.records import SAMPLE_RATE, Segment
from quran_asr.text.quran import load_quran
from quran_asr.training.data.epoch import Stage, stage_batches

WORDS_A_SECOND = 1.5
"""Words per second of synthetic clips: fast recitation. Recitations average 0.7 to 1.25, eSpeak about two."""


@dataclass(frozen=True, slots=True)
class Clips:
    """Clips, and their batches in the first epoch of our loader."""

    segments: tuple[Segment, ...]
    batches: tuple[tuple[Segment, ...], ...]
    manifest: Path
    """Batch after batch, as a NeMo manifest."""


def made_clips(count: int, seconds: tuple[float, float], spelling: str, folder: Path) -> list[Segment]:
    """Write `count` WAV files of noise with words of the Quran, as many as fit their lengths.

    Args:
        seconds: shortest and longest.
    """
    lengths = random.Random(0)
    noise = np.random.default_rng(0)
    quran = load_quran(spelling)
    words = [word for ref in quran.refs[7:] for word in quran.verse(ref).split()]
    segments = []
    for number in range(count):
        duration = round(lengths.uniform(*seconds), 2)
        first, length = lengths.randrange(len(words) - 1000), max(1, round(WORDS_A_SECOND * duration))
        path = folder / f"{number:04}.wav"
        samples = noise.normal(0.0, 0.05, round(duration * SAMPLE_RATE)).astype(np.float32)
        audio.write(path, samples)
        text = " ".join(words[first : first + length])
        segments.append(Segment(str(path), 0.0, duration, (), text, ""))
    return segments


def chosen_clips(manifests: Sequence[str], count: int, spelling: str) -> list[Segment]:
    """`count` clips of manifests, drawn with a fixed seed; repeated from the beginning if there are fewer.

    Raises:
        QuranAsrError: no manifest has a clip.
    """
    found = [segment for manifest in manifests for segment in read_manifest(manifest, spelling)]
    if not found:
        raise QuranAsrError(
            "no clip in the manifests",
            where=", ".join(manifests),
            remedy="name manifests with clips: --train MANIFEST",
        )
    drawn = random.Random(0).sample(found, min(count, len(found)))
    return [drawn[i % len(drawn)] for i in range(count)]


def in_batches(segments: Sequence[Segment], clips: int, folder: Path) -> Clips:
    """Plan the batches of seed 0, and write the manifest from which NeMo makes the same ones."""
    planned = stage_batches([s.duration for s in segments], [Stage(0, clips, None, None, 1)], 0, 0)
    batches = tuple(tuple(segments[i] for i in batch) for batch in planned)
    manifest = folder / f"{clips}x{len(batches)}.jsonl"
    lines = [
        {"audio_filepath": s.audio, "offset": s.offset, "duration": s.duration, "text": s.text}
        for batch in batches
        for s in batch
    ]
    written = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    write_atomically(manifest, written.encode())
    return Clips(tuple(segments), batches, manifest)
