"""Clips of a manifest in tar shards that NeMo, WebDataset and this package read in sequence.

`audio_0.tar`, `audio_1.tar`, ... contain the clips in an order that mixes reciters and verses, so that any
few shards are a fair sample. `tarred_audio_manifest.json` is NeMo's manifest of them, `manifest.jsonl` is
ours, whose paths give the location of a clip in its shard (`quran_asr.shards`). A shard is written, read back
and compared before it gets its name; finished shards are kept when the command runs again.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import random
import tarfile
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

from quran_asr import audio
from quran_asr.containers import links
from quran_asr.corpus.manifest import read_lines, sidecar_of, write_manifest
from quran_asr.errors import QuranAsrError
from quran_asr.files import parse_json, refuse_foreign, replacing, sha256_of, sweep, write_atomically
from quran_asr.locks import locked
from quran_asr.records import VerseRef
from quran_asr.shards import Member, as_file, state_of
from quran_asr.text.quran import load_quran

Codec: TypeAlias = Literal["auto", "flac", "opus"]
_Outcome: TypeAlias = Literal["kept", "changed", "written"]
OPUS_KILOBITS = 32
_LOSSY = {"mp3": "mp3", "opus": "opus", "vorbis": "ogg"}
"""Formats that `auto` copies -> file suffix; as FLAC they would be larger."""
MANIFEST, NEMO_MANIFEST, RECORDS = "manifest.jsonl", "tarred_audio_manifest.json", "shards"


@dataclass(frozen=True, slots=True)
class DroppedClip:
    """A clip that is not in any shard, and why."""

    clip: str
    reason: str


@dataclass(frozen=True, slots=True)
class PackReport:
    """The content of a folder of shards."""

    manifest: Path
    nemo_manifest: Path
    shards: int
    kept_shards: int
    """Shards finished by an earlier run."""
    changed_shards: tuple[str, ...]
    """Files of finished shards whose checksum was another than recorded; they were written again."""
    clips: int
    hours: float
    bytes: int
    dropped: tuple[DroppedClip, ...]

    @property
    def nemo_shards(self) -> str:
        """The shards in the notation of NeMo and WebDataset."""
        folder = self.manifest.parent
        return str(folder / f"audio__OP_0..{self.shards - 1}_CL_.tar")


def pack(
    manifest: str | Path,
    folder: str | Path,
    executor: Executor,
    *,
    hours_per_shard: float = 2.0,
    codec: Codec = "auto",
    verify: bool = False,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> PackReport:
    """Write the clips of a manifest to shards in `folder`.

    Args:
        manifest: of this package or of NeMo; segments of recordings are cut out.
        folder: missing, empty, or of an earlier call with the same arguments, which is continued.
        executor: where shards are written, one per job.
        hours_per_shard: of audio.
        codec: `flac` at 16 kHz, 16 bits; `opus` at 32 kbit/s; `auto` copies whole MP3, Opus and Vorbis files
            and converts all others to FLAC.
        verify: check the shards of an earlier run, and rewrite those that have changed.
        on_progress: called with (shards finished, shards).

    Raises:
        QuranAsrError: the manifest is wrong or in `folder`, `folder` has other content or the shards of
            another manifest, no clip can be read, or a job's process died.
        OSError: the disk is full; finished shards are kept.
    """
    folder = Path(folder).absolute()
    if Path(manifest).resolve().parent == folder.resolve():
        # Its shards would be replaced while they are read.
        raise QuranAsrError(
            "a manifest in this folder cannot be packed into the folder itself",
            where=str(manifest),
            remedy="name another folder: --to FOLDER",
        )
    refuse_foreign(folder, (RECORDS,), "folder of shards")
    _refuse_other_manifest(folder, Path(manifest))
    lines = read_lines(manifest)
    (folder / RECORDS).mkdir(parents=True, exist_ok=True)
    with locked(folder / RECORDS / "lock", busy="another process packs into this folder"):
        for place in (folder, folder / RECORDS):
            sweep(place)
        shares = _shares(lines, hours_per_shard)
        kept, changed = _write_shards(shares, folder, executor, codec, verify, on_progress)
        for stale in range(len(shares), len(shares) + _stale(folder, len(shares))):
            (folder / f"audio_{stale}.tar").unlink(missing_ok=True)
            _record_path(folder, stale).unlink(missing_ok=True)
        meta = {"packed_from": str(Path(manifest).resolve()), "codec": codec}
        return replace(_write_manifests(folder, len(shares), kept, meta), changed_shards=changed)


def _refuse_other_manifest(folder: Path, manifest: Path) -> None:
    """Shards are replaced by newer ones of their manifest, never by those of another."""
    try:
        before = parse_json(sidecar_of(folder / MANIFEST).read_bytes())["packed_from"]
    except (OSError, ValueError, KeyError, TypeError):
        return
    if before != str(manifest.resolve()):
        raise QuranAsrError(
            f"the folder holds the shards of {before}", where=str(folder), remedy="name another: --to FOLDER"
        )


def _shares(lines: Sequence[dict[str, Any]], hours: float) -> list[list[tuple[int, dict[str, Any]]]]:
    """(index in the manifest, line) of each shard, in a random order fixed by the number of lines."""
    order = list(range(len(lines)))
    random.Random(f"shards {len(lines)}").shuffle(order)
    total = sum(line["duration"] for line in lines)
    count = min(len(lines), max(1, math.ceil(total / 3600 / hours)))
    shares: list[list[tuple[int, dict[str, Any]]]] = [[] for _ in range(count)]
    before = 0.0
    for place in order:
        share = min(count - 1, int(before / total * count))
        shares[share].append((place, lines[place]))
        before += lines[place]["duration"]
    return [share for share in shares if share]


def _stale(folder: Path, first: int) -> int:
    """Number of surplus shards of an earlier, larger packing."""
    count = 0
    while _record_path(folder, first + count).exists():
        count += 1
    return count


def _record_path(folder: Path, number: int) -> Path:
    return folder / RECORDS / f"{number}.json"


def _write_shards(
    shares: Sequence[list[tuple[int, dict[str, Any]]]],
    folder: Path,
    executor: Executor,
    codec: Codec,
    verify: bool,
    on_progress: Callable[[int, int], None],
) -> tuple[int, tuple[str, ...]]:
    """How many shards were finished already, and the files of those that had changed since."""
    jobs = [
        executor.submit(_write_shard, folder, number, share, codec, verify)
        for number, share in enumerate(shares)
    ]
    kept = done = 0
    changed: list[str] = []
    try:
        for job in as_completed(jobs):
            outcome, file = job.result()
            kept += outcome == "kept"
            changed += [file] if outcome == "changed" else []
            done += 1
            on_progress(done, len(jobs))
    except BrokenProcessPool as error:
        raise QuranAsrError(
            "a process that wrote a shard died (out of memory, or a decoder crashed)",
            remedy="run the same command again with fewer --jobs: finished shards are kept",
        ) from error
    finally:
        for job in jobs:
            job.cancel()
    return kept, tuple(sorted(changed))


def _write_shard(
    folder: Path, number: int, share: Sequence[tuple[int, dict[str, Any]]], codec: Codec, verify: bool
) -> tuple[_Outcome, str]:
    """Write a shard and then its record, unless both exist; returns which it was, and the file."""
    target, record = folder / f"audio_{number}.tar", _record_path(folder, number)
    source = hashlib.sha256(json.dumps([codec, share], sort_keys=True).encode()).hexdigest()
    states = [state_of(line["audio_filepath"]) for _, line in share]
    recordings = hashlib.sha256(json.dumps(states).encode()).hexdigest()
    outcome = _before(target, record, source, recordings, verify)
    if outcome == "kept":
        return outcome, target.name
    record.unlink(missing_ok=True)
    lines, dropped, expected = [], [], dict[str, tuple[int, int, str]]()
    with replacing(target, ".tar") as unfinished:
        with tarfile.TarFile(unfinished, "w", format=tarfile.USTAR_FORMAT) as tar:
            for place, line in share:
                try:
                    content, ending = _encoded(line, codec)
                except QuranAsrError as error:
                    dropped.append({"clip": _name(line), "reason": error.what})
                    continue
                member = tarfile.TarInfo(
                    f"{place:09d}.{ending}"
                )  # no owner, no time: equal clips, equal bytes
                member.size, member.mode = len(content), 0o644
                start = tar.offset + tarfile.BLOCKSIZE
                tar.addfile(member, io.BytesIO(content))
                expected[member.name] = start, len(content), hashlib.sha256(content).hexdigest()
                path = str(Member(str(target), start, len(content)))
                lines.append({**_travelling(line), "audio_filepath": path, "member": member.name})
        _compare(unfinished, expected)
        checksum = sha256_of(unfinished)
    values = {
        "source": source,
        "recordings": recordings,
        "bytes": target.stat().st_size,
        "sha256": checksum,
        "lines": lines,
        "dropped": dropped,
    }
    write_atomically(record, json.dumps(values, ensure_ascii=False).encode())
    return outcome, target.name


def _before(target: Path, record: Path, source: str, recordings: str, verify: bool) -> _Outcome:
    """What an earlier run left: a shard to keep, one that has changed since, or none for these clips.

    Recordings that were repaired or replaced are other clips; older records do not hold their state.
    """
    try:
        values = parse_json(record.read_bytes())
        if values["source"] != source or values.get("recordings", recordings) != recordings:
            return "written"
        if values["bytes"] != target.stat().st_size:
            return "written"
        return "changed" if verify and values["sha256"] != sha256_of(target) else "kept"
    except (OSError, ValueError, KeyError, TypeError):
        return "written"


def _encoded(line: dict[str, Any], codec: Codec) -> tuple[bytes, str]:
    """The clip as a separate file, and its suffix."""
    offset, duration = line.get("offset") or 0.0, line["duration"]
    with as_file(Path(line["audio_filepath"])) as path:
        if codec == "auto" and not offset:
            info = audio.probe(path)
            whole = abs(info.seconds - duration) <= audio.TOLERANCE_SECONDS
            # A file whose header misleads decoders would mislead other readers too: it is re-encoded.
            if whole and info.format in _LOSSY and not links(path):
                return path.read_bytes(), _LOSSY[info.format]
        samples = audio.read(path, offset, duration)
    return (
        (audio.as_opus(samples, OPUS_KILOBITS), "opus")
        if codec == "opus"
        else (audio.as_flac(samples), "flac")
    )


def _name(line: dict[str, Any]) -> str:
    offset = line.get("offset") or 0.0
    return f"{line['audio_filepath']} at {offset:g} s" if offset else str(line["audio_filepath"])


def _travelling(line: dict[str, Any]) -> dict[str, Any]:
    """The keys of a line except its position in a recording; with its text, which NeMo needs."""
    kept = {key: value for key, value in line.items() if key != "offset"}
    if not str(kept.get("text") or "").strip():
        verses = [VerseRef.parse(ref) for ref in line["verses"]]
        kept["text"] = load_quran("diacritized").text(verses)
    return kept


def _compare(shard: Path, expected: dict[str, tuple[int, int, str]]) -> None:
    """Read a shard back independently, and compare position, size and content of every member."""
    found = {}
    with tarfile.TarFile(shard) as tar:
        for member in tar:
            source = tar.extractfile(member)
            content = source.read() if source else b""
            found[member.name] = member.offset_data, member.size, hashlib.sha256(content).hexdigest()
    if found != expected:
        raise QuranAsrError(
            "the shard reads back otherwise than it was written",
            where=str(shard.parent),
            remedy="check the disk, and run the same command again",
        )


def _write_manifests(folder: Path, count: int, kept: int, meta: dict[str, Any]) -> PackReport:
    lines: list[dict[str, Any]] = []
    nemo_lines: list[str] = []
    dropped: list[DroppedClip] = []
    shards = []
    for number in range(count):
        record = parse_json(_record_path(folder, number).read_bytes())
        shards.append({"file": f"audio_{number}.tar", "bytes": record["bytes"], "sha256": record["sha256"]})
        dropped += [DroppedClip(one["clip"], one["reason"]) for one in record["dropped"]]
        for line in record["lines"]:
            member = line.pop("member")
            lines.append(line)
            in_nemo = {**line, "audio_filepath": member, "shard_id": number}
            nemo_lines.append(json.dumps(in_nemo, ensure_ascii=False) + "\n")
    if not lines:
        first = dropped[0]
        raise QuranAsrError(
            f"no clip can be read, the first: {first.reason}",
            where=first.clip,
            remedy="find what cannot be read: quran-asr corpus audit MANIFEST --to FOLDER",
        )
    write_atomically(folder / NEMO_MANIFEST, "".join(nemo_lines).encode())
    write_manifest(
        folder / MANIFEST,
        lines,
        {**meta, "shards": shards, "dropped": [{"clip": one.clip, "reason": one.reason} for one in dropped]},
    )
    return PackReport(
        manifest=folder / MANIFEST,
        nemo_manifest=folder / NEMO_MANIFEST,
        shards=count,
        kept_shards=kept,
        changed_shards=(),
        clips=len(lines),
        hours=sum(line["duration"] for line in lines) / 3600,
        bytes=sum(shard["bytes"] for shard in shards),
        dropped=tuple(dropped),
    )
