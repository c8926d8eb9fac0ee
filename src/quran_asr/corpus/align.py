"""Whole surahs to verse clips and a manifest, recording by recording, in processes or on a cluster.

Each finished recording is a line of `recordings.jsonl`: what was cut from it, and what was left out and why.
A later call continues from there; `manifest.jsonl` is built from these lines alone.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from statistics import median
from typing import Any

from quran_asr.corpus.manifest import GIVE_PATH, parse_lines, write_manifest
from quran_asr.corpus.scan import SOUND_ENDINGS, reciter_of
from quran_asr.corpus.workers import processes
from quran_asr.errors import QuranAsrError
from quran_asr.files import parse_json, refuse_foreign, sha256_of
from quran_asr.locks import locked
from quran_asr.records import VerseRef
from quran_asr.runtime.alignment import AlignedRecording, align
from quran_asr.runtime.recognizer import Recognizer, load
from quran_asr.runtime.verse_clips import Clip, find_clips, write_clip
from quran_asr.text.passages import parse_range
from quran_asr.text.quran import load_quran

RECORDINGS = "recordings.jsonl"
MANIFEST = "manifest.jsonl"
LAYOUT = "<reciter>/SSS.<ext>, such as Alafasy/036.mp3 for surah 36"
SURAHS = 114

FITS_SHARE = 0.5
"""Least usable share of a reciter's verses; below it the text itself is doubted."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits within which a clip is used."""

    longest: float = 30.0
    """Seconds; longer verses are cut at pauses."""
    shortest: float = 0.4
    """Seconds."""
    score: float = -1.5
    """Nats per letter by which the model may prefer other tokens to the words of the clip."""
    edge_db: float = 5.0
    """dB by which both cuts are below the median speech level."""


@dataclass(frozen=True, slots=True)
class Source:
    """A recording to cut."""

    audio: str
    """Path."""
    reciter: str
    verses: str
    """Its passage, as `parse_range` reads it; empty: unknown, and the whole Quran is searched."""

    @property
    def folder(self) -> str:
        """Of its clips: that of the reciter, or its own where it may hold any verse."""
        return self.reciter if self.verses else f"{self.reciter}/{Path(self.audio).stem}"


@dataclass(frozen=True, slots=True)
class ReciterReport:
    """The usable share of a reciter."""

    reciter: str
    recordings: int
    hours: float
    clips: int
    usable_hours: float
    score: float | None
    """Median over all clips that were found, used or not."""
    left_out: dict[str, int]
    """Reason -> clips, verses or recordings."""
    fits: bool | None
    """Enough of the clips that were found are usable; otherwise other words may be recited, or another
    riwaya, or the model cannot follow the audio. None where nothing was found to judge by."""


@dataclass(frozen=True, slots=True)
class AlignReport:
    """The clips of all recordings, including those of earlier calls."""

    manifest: Path
    reciters: tuple[ReciterReport, ...]
    resumed: int
    """Recordings finished by an earlier call."""
    failed: tuple[tuple[str, str], ...]
    """Recordings that cannot be read, each with the reason."""
    others: tuple[tuple[str, str, str], ...]
    """Recordings that hold another passage than they should: path, what was expected, what was found."""

    @property
    def clips(self) -> int:
        return sum(one.clips for one in self.reciters)


def find_sources(places: Sequence[str | Path]) -> list[Source]:
    """The recordings of folders and manifests.

    A file named by a number from 001 to 114 holds that surah; of any other file the passage is unknown. A
    line of a manifest names it by `surah` or `verses`.

    Raises:
        QuranAsrError: no such folder or manifest, a damaged line, no recording in it, or two that would be
            cut to the same names.
    """
    sources: list[Source] = []
    for place in map(Path, places):
        found = _of_folder(place) if place.is_dir() else _of_manifest(place)
        if not found:
            raise QuranAsrError("no recording in it", where=str(place), remedy=f"the layout is {LAYOUT}")
        sources += found
    audios = Counter(source.audio for source in sources)
    twice = [audio for audio, times in audios.items() if times > 1]
    if twice:
        raise QuranAsrError(
            "this recording is named twice",
            where=twice[0],
            remedy="name each folder once, and list each recording once in the manifests",
        )
    _refuse_same_names(sources)
    return sources


def _refuse_same_names(sources: Sequence[Source]) -> None:
    """Refuse recordings whose clips would overwrite those of another."""
    held: dict[tuple[str, VerseRef | None], Source] = {}
    for source in sources:
        for verse in parse_range(source.verses) if source.verses else (None,):
            other = held.setdefault((source.folder, verse), source)
            if other is not source:
                clips = f"its clips of {verse}" if verse else "its clips"
                raise QuranAsrError(
                    f"{clips} would have the names of those of {other.audio}",
                    where=source.audio,
                    remedy="give each a reciter of its own in a manifest, or align them to two folders",
                )


def _of_folder(folder: Path) -> list[Source]:
    sources = []
    for place, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        inside = Path(place).relative_to(folder).parts
        for name in sorted(files):
            path = Path(place, name)
            if path.suffix.lower() in SOUND_ENDINGS and not name.startswith("."):
                number = int(path.stem) if len(path.stem) == 3 and path.stem.isdecimal() else 0
                verses = str(number) if 1 <= number <= SURAHS else ""
                sources.append(
                    Source(str(path.resolve()), reciter_of((folder.resolve().name, *inside)), verses)
                )
    return sources


def _of_manifest(manifest: Path) -> list[Source]:
    sources = []
    for number, line in parse_lines(manifest):
        where = f"{manifest}:{number}"
        audio, surah, verses = line.get("audio_filepath"), line.get("surah"), line.get("verses") or []
        if not isinstance(audio, str) or not audio:
            raise QuranAsrError("`audio_filepath` is missing or not a path", where=where, remedy=GIVE_PATH)
        if not isinstance(verses, list) or not all(isinstance(verse, str) for verse in verses):
            raise QuranAsrError(
                '`verses` is not a list such as ["112:1"]',
                where=where,
                remedy="write a list of references, or leave `verses` out if they are unknown",
            )
        if surah is not None and not (isinstance(surah, int) and 1 <= surah <= SURAHS):
            raise QuranAsrError(
                f"`surah` is not a number from 1 to {SURAHS}: {surah!r:.40}",
                where=where,
                remedy="write the number without quotes, or leave `surah` out if it is unknown",
            )
        holds = str(surah) if surah is not None else ""
        if verses:
            first, last = VerseRef.parse(verses[0]), VerseRef.parse(verses[-1])
            holds = (
                str(first) if first == last else f"{first}-{last if first.surah < last.surah else last.ayah}"
            )
        path = (manifest.parent / audio).resolve()
        reciter = str(line.get("reciter") or path.parent.name)
        if (
            reciter == ".." or Path(reciter).name != reciter or "\\" in reciter
        ):  # it names the folder of the clips
            raise QuranAsrError(
                f"`reciter` is not a name for a folder: {reciter!r:.60}",
                where=where,
                remedy="write a plain name without slashes, for example Alafasy",
            )
        sources.append(Source(str(path), reciter, holds))
    return sources


def align_recordings(
    places: Sequence[str | Path],
    to: str | Path,
    bundle: str | Path,
    *,
    limits: Limits | None = None,
    jobs: int = 1,
    executor: Executor | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> AlignReport:
    """Cut recordings into clips of verses, and write a manifest of those whose alignment is good.

    Clips are `TO/RECITER/SSSAAA.flac`, or `TO/RECITER/RECORDING/SSSAAA.flac` where it was not known what the
    recording holds; of a part of a verse `SSSAAA-FFF-LLL.flac`, with its first and last word counted from 0.
    Finished recordings are skipped, unless the recording, the model or the limits have changed or a clip is
    gone.

    Args:
        places: folders and manifests, see `find_sources`.
        to: folder for `manifest.jsonl`, `recordings.jsonl` and the clips.
        bundle: folder of the model; on a cluster the workers find it under the same path.
        limits: for a clip to be used.
        jobs: processes.
        executor: where recordings are aligned, instead of in processes here.
        on_progress: called with (recordings finished, recordings).

    Raises:
        QuranAsrError: as `find_sources`; no such model; another call works in the folder, or it has a
            manifest of something else; a worker died.
        OSError: the folder cannot be written.
    """
    limits = limits or Limits()
    sources = find_sources(places)
    folder = Path(to)
    if (folder / MANIFEST).exists():
        refuse_foreign(folder, (RECORDINGS,), "folder of `corpus align`")
    settings = f"{_digest(Path(bundle))} {json.dumps(asdict(limits))}"
    with locked(folder / "align.lock", busy="another `corpus align` works here"):
        finished = _finished(folder / RECORDINGS)
        keys = {source: _key(source, settings) for source in sources}
        todo = [
            source
            for source in sources
            if finished.get(source.audio, {}).get("key") != keys[source]
            or not all((folder / clip["file"]).is_file() for clip in finished[source.audio]["clips"])
        ]
        resumed = len(sources) - len(todo)
        pool = executor or processes(min(jobs, max(1, len(todo))), "spawn")
        try:
            running = {pool.submit(align_source, one, str(bundle), str(folder), limits): one for one in todo}
            for done, future in enumerate(as_completed(running), start=1):
                source = running[future]
                finished[source.audio] = {**future.result(), "key": keys[source]}
                _append(folder / RECORDINGS, finished[source.audio])
                if on_progress:
                    on_progress(resumed + done, len(sources))
        except BrokenProcessPool as error:
            raise QuranAsrError(
                "a process that aligned recordings died (out of memory, or a decoder crashed)",
                remedy="run the same command again: finished recordings are kept",
            ) from error
        finally:
            if executor is None:
                pool.shutdown(cancel_futures=True)
            lines = sorted(finished.values(), key=lambda line: (line["reciter"], line["audio_filepath"]))
            reciters = _reciters(lines)
            _write_manifest(folder, lines, reciters, limits)  # also after an interruption
    failed = tuple((line["audio_filepath"], line["error"]) for line in lines if line["error"])
    others = tuple(
        (line["audio_filepath"], line["holds"], line["found"]) for line in lines if line.get("found")
    )
    return AlignReport(folder / MANIFEST, reciters, resumed, failed, others)


def align_source(source: Source, bundle: str, folder: str, limits: Limits) -> dict[str, Any]:
    """Align one recording and write its clips; runs in a worker.

    Returns:
        Its line of `recordings.jsonl`, without the key. A recording that cannot be read gives one too.
    """
    line: dict[str, Any] = {
        "audio_filepath": source.audio,
        "reciter": source.reciter,
        "holds": source.verses,
        "seconds": 0.0,
        "error": "",
        "found": "",
        "clips": [],
        "left_out": [],
    }
    try:
        recording = align(source.audio, source.verses or None, _recognizer(bundle))
        line["seconds"] = round(recording.seconds, 3)
        place = Path(folder) / source.folder
        place.mkdir(parents=True, exist_ok=True)
        used: set[str] = set()
        for clip in find_clips(recording, limits.longest):
            reason = _reason_against(recording, clip, used, limits)
            described = _described(clip)
            if reason:
                line["left_out"].append({**described, "reason": reason})
            else:
                used.add(clip.name)
                path = write_clip(recording, clip, place)
                line["clips"].append({**described, "file": str(path.relative_to(folder))})
        recited = {verse for segment in recording.segments for verse in segment.verses}
        expected = parse_range(source.verses) if source.verses else []
        missing = [verse for verse in expected if verse not in recited]
        line["left_out"] += [{"verse": str(verse), "reason": "not recognized"} for verse in missing]
        if 2 * len(missing) > len(expected):
            line["found"] = _other_passage(source.audio, expected, _recognizer(bundle), limits)
    except QuranAsrError as error:
        line["error"] = error.what
    except OSError as error:
        line["error"] = error.strerror or str(error)
    return line


@lru_cache(maxsize=1)
def _recognizer(bundle: str) -> Recognizer:
    return load(bundle, decoder="ctc", threads=1)


def _other_passage(audio: str, expected: Sequence[VerseRef], recognizer: Recognizer, limits: Limits) -> str:
    """The passage that a recording holds instead of what was expected; empty where none stands out."""
    verses = [
        verse
        for segment in align(audio, None, recognizer).segments
        if segment.score >= limits.score
        for verse in segment.verses
    ]
    if not verses:
        return ""
    surah, times = Counter(verse.surah for verse in verses).most_common(1)[0]
    those = [verse for verse in verses if verse.surah == surah]
    if 2 * times <= len(verses) or not set(expected).isdisjoint(those):
        return ""
    first, last = min(those), max(those)
    return str(first) if first == last else f"{first}-{last.ayah}"


def _reason_against(recording: AlignedRecording, clip: Clip, used: set[str], limits: Limits) -> str:
    """Why a clip is not used; empty where it is."""
    if clip.name in used:
        return "recited again"
    if clip.seconds > limits.longest:
        return "no pause to cut at"
    if clip.seconds < limits.shortest:
        return "too short"
    if clip.score < limits.score or any(word.mismatch is not None for word in clip.words):
        return "other words"
    if any(
        other.start < clip.words[-1].end and other.end > clip.words[0].start for other in recording.unaligned
    ):
        return "other speech within"
    if clip.edge_db < limits.edge_db:
        return "no pause beside it"
    return ""


def _described(clip: Clip) -> dict[str, Any]:
    return {
        "verse": str(clip.verse),
        "words": None if clip.whole else [clip.words[0].index, clip.words[-1].index],
        "start": round(clip.start, 3),
        "end": round(clip.end, 3),
        "score": round(clip.score, 3),
        "edge_db": round(clip.edge_db, 1),
    }


def _digest(bundle: Path) -> str:
    """The identity of the model: its description and its encoder."""
    return " ".join(sha256_of(bundle / name)[:16] for name in ("bundle.json", "encoder.onnx"))


def _key(source: Source, settings: str) -> str:
    """Identity of a recording; one that is finished is skipped while it is unchanged. Empty if not found."""
    try:
        state = Path(source.audio).stat()
    except OSError:
        return ""
    return f"{state.st_size} {state.st_mtime_ns} {source.reciter} {source.verses} {settings}"


def _finished(path: Path) -> dict[str, dict[str, Any]]:
    """Recording -> its last line. A truncated last line, of a killed call, is ignored."""
    finished: dict[str, dict[str, Any]] = {}
    if path.exists():
        for raw in path.read_bytes().splitlines():
            try:
                line = parse_json(raw)
                finished[line["audio_filepath"]] = line
            except (ValueError, TypeError, KeyError):
                continue
    return finished


def _append(path: Path, line: dict[str, Any]) -> None:
    with path.open("ab") as file:
        if file.tell() and not _ends_a_line(path):
            file.write(b"\n")
        file.write((json.dumps(line, ensure_ascii=False) + "\n").encode())


def _ends_a_line(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def _write_manifest(
    folder: Path, lines: Sequence[dict[str, Any]], reciters: Sequence[ReciterReport], limits: Limits
) -> None:
    quran = load_quran("diacritized")
    clips = []
    for line in lines:
        for clip in line["clips"]:
            words = quran.verse(VerseRef.parse(clip["verse"])).split()
            first, last = clip["words"] or (0, len(words) - 1)
            clips.append(
                {
                    "audio_filepath": str(folder / clip["file"]),
                    "offset": 0.0,
                    "duration": round(clip["end"] - clip["start"], 4),
                    "text": " ".join(words[first : last + 1]),
                    **(
                        {"part_of": [clip["verse"]], "words": clip["words"]}
                        if clip["words"]
                        else {"verses": [clip["verse"]]}
                    ),
                    "reciter": line["reciter"],
                    "riwaya": "hafs",
                    "score": clip["score"],
                    "source": {
                        "audio_filepath": line["audio_filepath"],
                        "start": clip["start"],
                        "end": clip["end"],
                    },
                }
            )
    meta = {
        "made_by": "corpus align",
        "spelling": quran.spelling,
        "edition": quran.edition_name,
        "limits": asdict(limits),
        "reciters": {one.reciter: asdict(one) for one in reciters},
    }
    write_manifest(folder / MANIFEST, clips, meta)


def _reciters(lines: Sequence[dict[str, Any]]) -> tuple[ReciterReport, ...]:
    reports = []
    for reciter in sorted({line["reciter"] for line in lines}):
        those = [line for line in lines if line["reciter"] == reciter]
        clips = [clip for line in those for clip in line["clips"]]
        others = [one for line in those for one in line["left_out"]]
        reasons = Counter(one["reason"] for one in others)
        reasons.update("cannot be read" for line in those if line["error"])
        scores = [one["score"] for one in (*clips, *others) if "score" in one]
        found = (
            len(clips) + reasons["other words"] + reasons["other speech within"] + reasons["not recognized"]
        )
        reports.append(
            ReciterReport(
                reciter,
                len(those),
                round(sum(line["seconds"] for line in those) / 3600, 4),
                len(clips),
                round(sum(clip["end"] - clip["start"] for clip in clips) / 3600, 4),
                round(median(scores), 3) if scores else None,
                dict(reasons.most_common()),
                len(clips) >= FITS_SHARE * found if found else None,
            )
        )
    return tuple(reports)
