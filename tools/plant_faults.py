"""Plant known faults in a copy of a corpus, and say how well `quran-asr corpus audit` finds them.

    python tools/plant_faults.py plant MANIFEST --to FOLDER [--seed 0] [--share 0.02]
    quran-asr corpus audit FOLDER/manifest.jsonl [--align --model MODEL]
    python tools/plant_faults.py score FOLDER [--original AUDIT_FOLDER]

Clips without a fault stay where they are and are only named. Changed sound is written as Opus at 16 kHz, so
that every fault has been through a lossy codec. `faults.jsonl` says which clip has which fault.

Precision is that of a reason: of the clips that it rejected, the share in which a fault was planted.
The originals have faults too: with `--original`, the folder of an audit of the unchanged corpus, clips that
are rejected there for the same reason count for neither side.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import soundfile

from quran_asr import audio
from quran_asr.corpus.manifest import read_lines, write_manifest
from quran_asr.records import SAMPLE_RATE, VerseRef

if TYPE_CHECKING:
    from quran_asr.records import Samples

Line = dict[str, Any]

FOUND_BY = {
    "swapped": {"too-slow", "too-fast", "shifted-numbering", "other-words", "words-missing"},
    "cut": {"cut-off", "too-fast", "words-missing", "other-words"},
    "noise": {"noise"},
    "silence": {"silent", "silence"},
    "shifted": {"shifted-numbering", "other-words"},
    "clipped": {"clipping"},
    "half-speed": {"too-slow"},
    "copied": {"duplicate-conflict"},
}
"""Kind of fault -> the reasons that name it."""


@dataclass(frozen=True)
class Fault:
    clip: int
    kind: str
    detail: str


def draw_swapped(
    lines: Sequence[Line], free: set[int], wanted: int, rng: random.Random
) -> list[tuple[int, int]]:
    """Pairs of clips of one reciter with different words."""
    pairs: list[tuple[int, int]] = []
    pool = sorted(free)
    rng.shuffle(pool)
    while len(pairs) * 2 < wanted and pool:
        first = pool.pop()
        second = next(
            (
                i
                for i in pool
                if lines[i]["reciter"] == lines[first]["reciter"]
                and lines[i]["verses"] != lines[first]["verses"]
            ),
            None,
        )
        if second is not None:
            pool.remove(second)
            pairs.append((first, second))
    return pairs


def draw_runs(lines: Sequence[Line], free: set[int], wanted: int, rng: random.Random) -> list[list[int]]:
    """Runs of 7 to 16 neighbouring verses of one reciter."""
    place = {(line["reciter"], VerseRef.parse(line["verses"][0])): i for i, line in enumerate(lines)}
    starts = sorted(free)
    rng.shuffle(starts)
    runs: list[list[int]] = []
    taken: set[int] = set()
    for start in starts:
        if sum(map(len, runs)) >= wanted:
            break
        reciter, ref = lines[start]["reciter"], VerseRef.parse(lines[start]["verses"][0])
        length = rng.randint(7, 16)
        run = [place.get((reciter, VerseRef(ref.surah, ref.ayah + step))) for step in range(length)]
        whole = [clip for clip in run if clip is not None and clip in free and clip not in taken]
        if len(whole) == length:
            runs.append(whole)
            taken.update(whole)
    return runs


def cut(samples: Samples, rng: random.Random) -> tuple[Samples, str]:
    share, end = rng.uniform(0.2, 0.4), rng.choice(["beginning", "end"])
    gone = int(share * len(samples))
    return (samples[gone:] if end == "beginning" else samples[:-gone]), f"{share:.0%} of the {end}"


def noisy(samples: Samples, rng: random.Random) -> tuple[Samples, str]:
    """White or pink noise, 0 to 10 dB under the mean power of the clip."""
    ratio, colour = rng.uniform(0.0, 10.0), rng.choice(["white", "pink"])
    spectrum = np.fft.rfft(np.random.default_rng(rng.getrandbits(32)).normal(size=len(samples)))
    if colour == "pink":
        spectrum[1:] /= np.sqrt(np.arange(1, len(spectrum)))
    noise = np.fft.irfft(spectrum, len(samples))
    noise *= np.sqrt(np.mean(np.square(samples)) / np.mean(noise**2)) * 10 ** (-ratio / 20)
    mixed = samples + noise.astype(np.float32)
    return mixed / max(1.0, float(np.abs(mixed).max())), f"{colour}, {ratio:.1f} dB"


def silenced(samples: Samples, rng: random.Random) -> tuple[Samples, str]:
    """All of it, or 40 to 80 % in one stretch; digital silence or faint hiss."""
    share = 1.0 if rng.random() < 0.3 else rng.uniform(0.4, 0.8)
    hiss = rng.choice([0.0, 10 ** (-70 / 20)])
    length = int(share * len(samples))
    start = rng.randint(0, len(samples) - length)
    changed = samples.copy()
    changed[start : start + length] = np.random.default_rng(rng.getrandbits(32)).normal(0, hiss, length)
    return changed, f"{share:.0%}"


def clipped(samples: Samples, rng: random.Random) -> tuple[Samples, str]:
    """So loud that 1.5 to 8 % of the samples are cut to full scale."""
    share = rng.uniform(0.015, 0.08)
    gain = 1.0 / float(np.quantile(np.abs(samples), 1.0 - share))
    return np.clip(samples * gain, -1.0, 1.0), f"{share:.1%} of the samples"


def half_speed(samples: Samples, rng: random.Random) -> tuple[Samples, str]:
    """Twice as long and an octave lower, as with a wrong sampling rate."""
    return audio.resample(samples, SAMPLE_RATE // 2, SAMPLE_RATE), "twice as long"


def copied(samples: Samples, rng: random.Random) -> tuple[Samples, str]:
    """Another gain and 50 ms less at the beginning; the codec follows."""
    gain = rng.uniform(0.3, 0.8)
    return samples[800:] * np.float32(gain), f"gain {gain:.2f}, 50 ms later"


CHANGES = {
    "cut": cut,
    "noise": noisy,
    "silence": silenced,
    "clipped": clipped,
    "half-speed": half_speed,
}


def plant(manifest: Path, to: Path, seed: int, share: float) -> None:
    lines = [line for line in read_lines(manifest) if len(line.get("verses") or []) == 1]
    rng = random.Random(seed)
    free = set(range(len(lines)))
    wanted = round(share * len(lines))
    sources = [line["audio_filepath"] for line in lines]
    faults: list[Fault] = []
    gone: set[int] = set()

    for run in draw_runs(lines, free, wanted, rng):
        free -= set(run)
        for clip, following in pairwise(run):
            lines[clip]["audio_filepath"] = sources[following]
            lines[clip]["duration"] = audio.probe(sources[following]).seconds
            faults.append(Fault(clip, "shifted", "holds the next verse"))
        gone.add(run[-1])
    for first, second in draw_swapped(lines, free, wanted, rng):
        free -= {first, second}
        for clip, other in ((first, second), (second, first)):
            lines[clip]["audio_filepath"] = sources[other]
            lines[clip]["duration"] = audio.probe(sources[other]).seconds
            faults.append(Fault(clip, "swapped", f"holds {lines[other]['verses'][0]}"))
    for kind, change in CHANGES.items():
        for clip in rng.sample(sorted(free), min(wanted, len(free))):
            free.discard(clip)
            samples, detail = change(audio.read(sources[clip]), rng)
            write_changed(to, lines[clip], samples)
            faults.append(Fault(clip, kind, detail))
    for clip, other in draw_swapped(lines, free, 2 * wanted, rng):
        free -= {clip, other}
        samples, detail = copied(audio.read(sources[other]), rng)
        write_changed(to, lines[clip], samples)
        faults.append(Fault(clip, "copied", f"of {lines[other]['verses'][0]}, {detail}"))
        faults.append(Fault(other, "copied", f"stands under {lines[clip]['verses'][0]} too"))
    write_manifest(to / "manifest.jsonl", [line for i, line in enumerate(lines) if i not in gone])
    written = [
        {
            "reciter": lines[f.clip]["reciter"],
            "verse": lines[f.clip]["verses"][0],
            "kind": f.kind,
            "detail": f.detail,
        }
        for f in sorted(faults, key=lambda fault: fault.clip)
    ]
    text = "".join(json.dumps(one) + "\n" for one in written)
    (to / "faults.jsonl").write_text(text, encoding="utf-8")
    print(f"{len(lines) - len(gone)} clips, faulty: {dict(Counter(f.kind for f in faults))}")


def write_changed(to: Path, line: Line, samples: Samples) -> None:
    path = to / "audio" / line["reciter"] / f"{line['verses'][0].replace(':', '-')}.opus"
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, SAMPLE_RATE, format="OGG", subtype="OPUS")
    line["audio_filepath"] = str(path)
    line["duration"] = audio.probe(path).seconds


def rejected(folder: Path) -> dict[tuple[str, str], set[str]]:
    """(reciter, verse) -> the reasons for which it was rejected."""
    lines = [json.loads(line) for line in (folder / "rejects.jsonl").read_text("utf-8").splitlines()]
    return {
        (line["reciter"], line["verses"][0]): {
            reason["code"] for reason in line["audit"]["reasons"] if reason["action"] == "reject"
        }
        for line in lines
    }


def score(folder: Path, original: Path | None) -> None:
    planted = {
        (fault["reciter"], fault["verse"]): fault["kind"]
        for fault in map(json.loads, (folder / "faults.jsonl").read_text("utf-8").splitlines())
    }
    found = rejected(folder)
    known = rejected(original) if original else {}
    print("| fault | planted | rejected | recall | named by its reason | recall of the reason |")
    print("|---|---|---|---|---|---|")
    for kind, reasons in FOUND_BY.items():
        clips = [clip for clip, its in planted.items() if its == kind]
        any_reason = sum(clip in found for clip in clips)
        named = sum(bool(found.get(clip, set()) & reasons) for clip in clips)
        if clips:
            print(
                f"| {kind} | {len(clips)} | {any_reason} | {any_reason / len(clips):.3f} "
                f"| {named} | {named / len(clips):.3f} |"
            )
    print(
        "\n| reason | rejected | with a fault of its kinds | with another fault "
        "| in the originals too | without | precision |"
    )
    print("|---|---|---|---|---|---|---|")
    for reason in sorted({one for reasons in found.values() for one in reasons}):
        tally: Counter[str] = Counter()
        for clip, reasons in found.items():
            if reason in reasons:
                kind = planted.get(clip)
                if kind is None:
                    tally["original" if reason in known.get(clip, set()) else "without"] += 1
                else:
                    tally["right" if reason in FOUND_BY[kind] else "other"] += 1
        judged = tally["right"] + tally["other"] + tally["without"]
        precision = f"{(tally['right'] + tally['other']) / judged:.3f}" if judged else "-"
        print(
            f"| {reason} | {tally.total()} | {tally['right']} | {tally['other']} "
            f"| {tally['original']} | {tally['without']} | {precision} |"
        )
    clean = [clip for clip in found if clip not in planted]
    new = [clip for clip in clean if clip not in known]
    clips = len((folder / "audit.jsonl").read_text("utf-8").splitlines())
    print(
        f"\nrejected {len(found)} of {clips} clips; of the {clips - len(planted)} without a planted fault "
        f"{len(clean)}, new ones {len(new)}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    commands = parser.add_subparsers(required=True, dest="command")
    planting = commands.add_parser("plant")
    planting.add_argument("manifest", type=Path)
    planting.add_argument("--to", type=Path, required=True)
    planting.add_argument("--seed", type=int, default=0)
    planting.add_argument("--share", type=float, default=0.02, help="of the clips, for each kind of fault")
    scoring = commands.add_parser("score")
    scoring.add_argument("folder", type=Path)
    scoring.add_argument("--original", type=Path)
    asked = parser.parse_args()
    if asked.command == "plant":
        plant(asked.manifest, asked.to, asked.seed, asked.share)
    else:
        score(asked.folder, asked.original)


if __name__ == "__main__":
    main()
