"""How fast an epoch's audio comes from the disk with a cold cache: files one by one against shards.

python tools/read_throughput.py FILES.jsonl SHARDS/manifest.jsonl

Both manifests hold the same clips (`corpus pack FILES.jsonl --to SHARDS`). Every recording is read once, in
the order in which an epoch trains it; nothing is decoded. The page cache is dropped before each pass, which
needs root; other programs on the machine lose it too.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

from quran_asr.corpus.manifest import read_manifest
from quran_asr.records import Segment
from quran_asr.shards import member_of, read_member
from quran_asr.training.data.epoch import plan_epoch


def order(segments: list[Segment], epoch: int) -> list[int]:
    """Places of the clips in the order of an epoch."""
    members = [member_of(segment.audio) for segment in segments]
    numbers = {name: n for n, name in enumerate(dict.fromkeys(m.shard for m in members if m))}
    batches = plan_epoch(
        [segment.duration for segment in segments],
        batch_size=16,
        batch_seconds=None,
        longest=None,
        seed=0,
        epoch=epoch,
        shards=[numbers[member.shard] for member in members if member],
    )
    return [i for batch in batches for i in batch]


def read(segments: list[Segment], places: list[int]) -> tuple[float, int]:
    """(seconds, bytes) of reading these recordings one after another, after the cache was dropped."""
    Path("/proc/sys/vm/drop_caches").write_text("3")
    begin = time.perf_counter()
    size = 0
    for place in places:
        member = member_of(segments[place].audio)
        size += len(read_member(member) if member else Path(segments[place].audio).read_bytes())
    return time.perf_counter() - begin, size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("manifests", nargs="+")
    parser.add_argument("--repeat", type=int, default=3)
    asked = parser.parse_args()
    clips = {name: read_manifest(name, "letters") for name in asked.manifests}
    rates: dict[str, list[float]] = {name: [] for name in clips}
    for epoch in range(asked.repeat):  # in turn, so that the machine's other work falls on all alike
        for name, segments in clips.items():
            seconds, size = read(segments, order(segments, epoch))
            rates[name].append(len(segments) / seconds)
            print(f"{name}: {len(segments)} clips, {size / 1e6:.1f} MB, {seconds:.2f} s", flush=True)
    print(json.dumps({name: round(statistics.median(values), 1) for name, values in rates.items()}))


if __name__ == "__main__":
    main()
