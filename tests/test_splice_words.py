"""`tools/splice_words.py`: clips whose words stand in an order that the Quran does not have."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from quran_asr import audio
from quran_asr.corpus.manifest import read_manifest
from quran_asr.text.quran import load_quran

TOOL = Path(__file__).parents[1] / "tools" / "splice_words.py"


def splice(manifest: Path, folder: Path, seed: int) -> str:
    words = [sys.executable, TOOL, manifest, "--to", folder, "--hours", "0.01", "--seed", str(seed)]
    done = subprocess.run([*words, "--processes", "1"], capture_output=True, text=True, check=True)
    return done.stdout


@pytest.mark.data
@pytest.mark.slow
def test_words_of_a_reciter_are_joined_in_a_new_order_and_aligned_once(
    recordings: Path, tmp_path: Path
) -> None:
    recitations = recordings / "recitations"
    lines = [json.loads(line) for line in (recitations / "index.jsonl").read_text().splitlines()]
    chosen = [
        {**line, "audio_filepath": str(recitations / line["audio_filepath"])}
        for reciter in ("mishary-alafasy", "yasser-salama")
        for line in [one for one in lines if one["reciter"] == reciter and 4 < one["duration"] < 12][:12]
    ]
    manifest = tmp_path / "clips.jsonl"
    manifest.write_text("".join(json.dumps(line) + "\n" for line in chosen))
    known = {reciter: set[str]() for reciter in ("mishary-alafasy", "yasser-salama")}
    for clip in read_manifest(manifest, "letters"):
        known[clip.reciter] |= set(clip.text.split())

    first = splice(manifest, tmp_path / "spliced", 0)
    aligned = (tmp_path / "spliced" / "words.jsonl").read_bytes()
    clips = read_manifest(tmp_path / "spliced" / "manifest.jsonl", "letters")
    quran = load_quran("letters")
    text = " ".join(quran.verse(ref) for ref in quran.refs)
    assert "24 of 24 clips aligned\n" in first
    assert sum(clip.duration for clip in clips) == pytest.approx(36, abs=15)
    assert not any(clip.text in text for clip in clips)
    for clip in clips:
        assert set(clip.text.split()) <= known[clip.reciter]
        samples = audio.read(clip.audio)
        assert len(samples) / 16_000 == pytest.approx(clip.duration, abs=0.001)
        assert 0.01 < abs(samples).max() <= 1

    splice(manifest, tmp_path / "spliced", 1)
    assert (tmp_path / "spliced" / "words.jsonl").read_bytes() == aligned, "aligned a second time"
    assert [clip.text for clip in read_manifest(tmp_path / "spliced" / "manifest.jsonl", "letters")] != [
        clip.text for clip in clips
    ]
