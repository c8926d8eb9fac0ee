"""Whole surahs to verse clips and a manifest, recording by recording, in processes or on a cluster.

Each finished recording is a line of `recordings.jsonl`: what was cut from it, and what was left out and why.
A later call continues from there; `manifest.jsonl` is built from these lines alone.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from itertools import combinations
from pathlib import Path
from statistics import median
from typing import Any

from quran_asr.audio import probe
from quran_asr.corpus.manifest import GIVE_PATH, LONGEST_SECONDS, parse_lines, write_manifest
from quran_asr.corpus.scan import SOUND_ENDINGS, reciter_of
from quran_asr.corpus.workers import processes
from quran_asr.decoding.path import AlignedSegment, Unaligned
from quran_asr.errors import QuranAsrError
from quran_asr.files import parse_json, refuse_foreign, sha256_of
from quran_asr.locks import locked
from quran_asr.records import VerseRef
from quran_asr.runtime.alignment import AlignedRecording, align, align_blocks
from quran_asr.runtime.audio_input import blocks_of_file
from quran_asr.runtime.recognizer import FILE_SECONDS, Recognizer, load
from quran_asr.runtime.verse_clips import LEAST_SCORE, Clip, find_clips, write_clip
from quran_asr.text.passages import parse_range
from quran_asr.text.quran import load_quran

RECORDINGS = "recordings.jsonl"
MANIFEST = "manifest.jsonl"
LAYOUT = "<reciter>/SSS.<ext>, such as Alafasy/036.mp3 for surah 36"
SURAHS = 114

UNFINISHED = ""
"""Key of a recording that the next call tries again: it is not there, or something else went wrong."""

FITS_SHARE = 0.5
"""Least usable share of a reciter's verses; below it the text itself is doubted."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits within which a clip is used."""

    longest: float = 30.0
    """Seconds; longer verses are cut at pauses."""
    shortest: float = 0.4
    """Seconds."""
    score: float = LEAST_SCORE
    """Nats per letter by which the model may prefer other tokens to the words of the clip."""
    edge_db: float = 5.0
    """dB by which both cuts are below the median speech level."""


@dataclass(frozen=True, slots=True)
class Source:
    """A recording, or a stretch of one, to cut."""

    audio: str
    """Path."""
    reciter: str
    verses: tuple[VerseRef, ...]
    """Its passage in recited order; empty: unknown, and the whole Quran is searched."""
    offset: float = 0.0
    """Seconds into the recording at which the stretch begins."""
    duration: float | None = None
    """Seconds; None: to the end of the recording."""

    @property
    def folder(self) -> str:
        """Of its clips: that of the reciter, or its own where it may hold any verse."""
        if self.verses:
            return self.reciter
        return f"{self.reciter}/{Path(self.audio).stem}{f'-{self.offset:g}' if self.offset else ''}"

    @property
    def holds(self) -> str:
        """Its passage as it is written: `36`, `2:1-141`, or `112, 113:1-3`."""
        runs: list[list[VerseRef]] = []
        for verse in self.verses:
            if runs and verse == VerseRef(runs[-1][-1].surah, runs[-1][-1].ayah + 1):
                runs[-1].append(verse)
            else:
                runs.append([verse])
        return ", ".join(map(_written, runs))

    @property
    def place(self) -> str:
        """Where it is, for people: the file, and the second in it."""
        return f"{self.audio} at {self.offset:g} s" if self.offset else self.audio

    @property
    def stretch(self) -> Stretch:
        return self.offset, self.duration


Stretch = tuple[float, float | None]
"""Offset and duration in seconds; None: to the end of the recording."""
WHOLE: Stretch = (0.0, None)


def _written(run: Sequence[VerseRef]) -> str:
    """Consecutive verses of a surah: `36` for all of it, `2:255`, `2:1-141`."""
    first, last = run[0], run[-1]
    if first.ayah == 1 and last.ayah == load_quran().ayahs(first.surah):
        return str(first.surah)
    return str(first) if first == last else f"{first}-{last.ayah}"


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
    """Recordings of this call that cannot be read, or whose clips cannot be written, each with the reason."""
    others: tuple[tuple[str, str, str], ...]
    """Those of this call that hold another passage than they should: path, what was expected, what was
    found."""

    @property
    def clips(self) -> int:
        return sum(one.clips for one in self.reciters)


def find_sources(places: Sequence[str | Path], to: str | Path | None = None) -> list[Source]:
    """The recordings of folders and manifests.

    A file named by a number from 001 to 114 holds that surah; of any other file the passage is unknown. A
    line of a manifest names it by `surah` or `verses`, and a stretch of a recording by `offset` and
    `duration`.

    Args:
        places: folders and manifests.
        to: folder for the clips; within one of the folders it is left out.

    Raises:
        QuranAsrError: no such folder or manifest, a damaged line, no recording in it, two that would be
            cut to the same names, or clips that would lie among the recordings.
    """
    sources: list[Source] = []
    for place in map(Path, places):
        found = _of_folder(place, to) if place.is_dir() else _of_manifest(place)
        if not found:
            raise QuranAsrError("no recording in it", where=str(place), remedy=f"the layout is {LAYOUT}")
        sources += found
    _refuse_repeats(sources)
    _refuse_same_names(sources)
    if to is not None:
        _refuse_among_recordings([place for place in map(Path, places) if place.is_dir()], sources, Path(to))
    return sources


def _refuse_repeats(sources: Sequence[Source]) -> None:
    """Refuse a recording, or a stretch of one, that is named twice."""
    of_recording: dict[str, list[Source]] = {}
    for source in sources:
        of_recording.setdefault(source.audio, []).append(source)
    for those in of_recording.values():
        for one, other in combinations(those, 2):
            if _is_again(one.stretch, other.stretch):
                what = "this recording is named twice"
                if not one.stretch == other.stretch == WHOLE:
                    what = f"most of this stretch is named twice: it is in that of {one.place}"
                raise QuranAsrError(
                    what,
                    where=other.place,
                    remedy="name each folder once, and list each recording or stretch once in the manifests",
                )


def _is_again(one: Stretch, other: Stretch) -> bool:
    """Whether two stretches of a recording share more than half of the shorter one; a little is a margin."""
    (start, seconds), (other_start, other_seconds) = one, other
    length = LONGEST_SECONDS if seconds is None else seconds
    other_length = LONGEST_SECONDS if other_seconds is None else other_seconds
    shared = min(start + length, other_start + other_length) - max(start, other_start)
    return shared > min(length, other_length) / 2


def _refuse_same_names(sources: Sequence[Source]) -> None:
    """Refuse recordings whose clips would overwrite those of another."""
    held: dict[tuple[str, VerseRef | None], Source] = {}
    for source in sources:
        for verse in source.verses or (None,):
            other = held.setdefault((source.folder, verse), source)
            if other is not source:
                clips = f"its clips of {verse}" if verse else "its clips"
                remedy = "give each a reciter of its own in a manifest, or align them to two folders"
                if other.audio == source.audio:
                    remedy = "list the `verses` of each stretch, or align them to two folders"
                raise QuranAsrError(
                    f"{clips} would have the names of those of {other.place}",
                    where=source.place,
                    remedy=remedy,
                )


def _refuse_among_recordings(walked: Sequence[Path], sources: Sequence[Source], to: Path) -> None:
    """Refuse to write clips where the next call would take them for recordings."""
    target = to.resolve()
    clips = {target, *(target / source.folder for source in sources)}
    for folder in map(Path.resolve, walked):
        is_left_out = target != folder and target.is_relative_to(folder)
        if not is_left_out and any(place.is_relative_to(folder) for place in clips):
            raise QuranAsrError(
                f"the clips would be written among the recordings of {folder}",
                where=str(to),
                remedy=f"name another folder with --to, for example {folder.with_name('aligned')}",
            )


def _of_folder(folder: Path, to: str | Path | None) -> list[Source]:
    sources = []
    left_out = None if to is None else os.path.realpath(to)
    for place, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".") and os.path.realpath(Path(place, name)) != left_out
        )
        inside = Path(place).relative_to(folder).parts
        for name in sorted(files):
            path = Path(place, name)
            if path.suffix.lower() in SOUND_ENDINGS and not name.startswith("."):
                number = int(path.stem) if len(path.stem) == 3 and path.stem.isdecimal() else 0
                verses = parse_range(str(number)) if 1 <= number <= SURAHS else ()
                sources.append(
                    Source(str(path.resolve()), reciter_of((folder.resolve().name, *inside)), verses)
                )
    return sources


def _of_manifest(manifest: Path) -> list[Source]:
    sources = []
    for number, line in parse_lines(manifest):
        try:
            sources.append(_of_line(line, manifest.parent))
        except QuranAsrError as error:
            raise QuranAsrError(error.what, where=f"{manifest}:{number}", remedy=error.remedy) from None
    return sources


def _of_line(line: Mapping[str, Any], folder: Path) -> Source:
    audio = line.get("audio_filepath")
    if not isinstance(audio, str) or not audio or "\0" in audio:
        raise QuranAsrError("`audio_filepath` is missing or not a path", remedy=GIVE_PATH)
    path = (folder / audio).resolve()
    reciter = str(line.get("reciter") or path.parent.name)
    # it names the folder of the clips
    if reciter == ".." or Path(reciter).name != reciter or "\\" in reciter or "\0" in reciter:
        raise QuranAsrError(
            f"`reciter` is not a name for a folder: {reciter!r:.60}",
            remedy="write a plain name without slashes, for example Alafasy",
        )
    duration = _seconds(line, "duration")
    if duration == 0:
        raise QuranAsrError(
            "`duration` is 0", remedy="write the length of the stretch in seconds, or delete the line"
        )
    return Source(str(path), reciter, _passage(line), _seconds(line, "offset") or 0.0, duration)


def _passage(line: Mapping[str, Any]) -> tuple[VerseRef, ...]:
    """What a line of a manifest holds; empty where it is unknown."""
    surah, verses = line.get("surah"), line.get("verses") or []
    if not isinstance(verses, list) or not all(isinstance(verse, str) for verse in verses):
        raise QuranAsrError(
            '`verses` is not a list such as ["112:1"]',
            remedy="write a list of references, or leave `verses` out if they are unknown",
        )
    if surah is not None and not (type(surah) is int and 1 <= surah <= SURAHS):
        raise QuranAsrError(
            f"`surah` is not a number from 1 to {SURAHS}: {surah!r:.40}",
            remedy="write the number without quotes, or leave `surah` out if it is unknown",
        )
    passage = tuple(map(VerseRef.parse, verses))
    for verse in passage:
        load_quran().verse(verse)  # refuses one that does not exist
    return passage or (parse_range(str(surah)) if surah is not None else ())


def _seconds(line: Mapping[str, Any], key: str) -> float | None:
    value = line.get(key)
    if value is None:
        return None
    if type(value) not in (int, float) or not 0 <= value <= LONGEST_SECONDS:
        raise QuranAsrError(
            f"`{key}` is not a number of seconds from 0 to a day: {value!r:.40}",
            remedy=f'write it in seconds, for example "{key}": 4.2',
        )
    return float(value)


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
    gone; damaged ones as well, but not those that were missing or whose clips could not be written. A stretch
    of a recording replaces one of an earlier call that is mostly the same, or has the same clips.

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
    sources = find_sources(places, to)
    folder = Path(to)
    if (folder / MANIFEST).exists():
        refuse_foreign(folder, (RECORDINGS,), "folder of `corpus align`")
    settings = f"{_digest(Path(bundle))} {json.dumps(asdict(limits))}"
    with locked(folder / "align.lock", busy="another `corpus align` works here"):
        finished = _finished(folder / RECORDINGS)
        keys = {source: _key(source, settings) for source in sources}
        todo = [one for one in sources if not _is_done(_line_of(finished, one), keys[one], folder)]
        resumed = len(sources) - len(todo)
        pool = executor or processes(min(jobs, max(1, len(todo))), "spawn")
        try:
            running = {pool.submit(align_source, one, str(bundle), str(folder), limits): one for one in todo}
            for done, future in enumerate(as_completed(running), start=1):
                source = running[future]
                line = {"key": keys[source], **future.result()}
                _add(finished, line)
                _append(folder / RECORDINGS, line)
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
            lines = sorted(
                (line for those in finished.values() for line in those),
                key=lambda line: (line["reciter"], line["audio_filepath"], line.get("offset", 0.0)),
            )
            reciters = _reciters(lines)
            _write_manifest(folder, lines, reciters, limits)  # also after an interruption
    named = {(source.audio, source.stretch) for source in sources}
    now = [line for line in lines if (line["audio_filepath"], _stretch_of(line)) in named]
    failed = tuple((line["audio_filepath"], line["error"]) for line in now if line["error"])
    others = tuple(
        (line["audio_filepath"], line["holds"], line["found"]) for line in now if line.get("found")
    )
    return AlignReport(folder / MANIFEST, reciters, resumed, failed, others)


def align_source(source: Source, bundle: str, folder: str, limits: Limits) -> dict[str, Any]:
    """Align one recording and write its clips; runs in a worker.

    Returns:
        Its line of `recordings.jsonl`. A recording that cannot be read gives one too. The key is left to the
        caller, except where the next call is to try again.
    """
    line: dict[str, Any] = {
        "audio_filepath": source.audio,
        "offset": source.offset,
        "duration": source.duration,
        "reciter": source.reciter,
        "holds": source.holds,
        "seconds": 0.0,
        "error": "",
        "found": "",
        "clips": [],
        "left_out": [],
    }
    try:
        recording = _aligned(source, source.verses or None, _recognizer(bundle))
        line["seconds"] = round(recording.seconds - source.offset, 3)
        place = Path(folder) / source.folder
        place.mkdir(parents=True, exist_ok=True)
        used: set[str] = set()
        for clip in find_clips(recording, limits.longest):
            clip = replace(clip, start=max(clip.start, source.offset))
            reason = _reason_against(recording, clip, used, limits)
            described = _described(clip)
            if reason:
                line["left_out"].append({**described, "reason": reason})
            else:
                used.add(clip.name)
                path = write_clip(recording, clip, place)
                line["clips"].append({**described, "file": str(path.relative_to(folder))})
        recited = {verse for segment in recording.segments for verse in segment.verses}
        expected = list(dict.fromkeys(source.verses))
        missing = [verse for verse in expected if verse not in recited]
        line["left_out"] += [{"verse": str(verse), "reason": "not recognized"} for verse in missing]
        if 2 * len(missing) > len(expected):
            line["found"] = _other_passage(source, _recognizer(bundle), limits)
    except QuranAsrError as error:
        line["error"] = error.what
        if not os.access(source.audio, os.R_OK):
            line["key"] = UNFINISHED
    except OSError as error:
        where = f": {os.fsdecode(error.filename)}" if error.filename else ""
        line["error"] = f"{error.strerror or error}{where}"  # a full disk, for example
        line["key"] = UNFINISHED
    return line


@lru_cache(maxsize=1)
def _recognizer(bundle: str) -> Recognizer:
    return load(bundle, decoder="ctc", threads=1)


def _aligned(source: Source, verses: Sequence[VerseRef] | None, recognizer: Recognizer) -> AlignedRecording:
    """The alignment of a recording or of a stretch of it; its times are those of the recording."""
    if source.stretch == WHOLE:
        return align(source.audio, verses, recognizer)
    blocks = blocks_of_file(source.audio, FILE_SECONDS, source.offset, source.duration)
    found = align_blocks(recognizer, blocks, verses, source.audio)
    end = probe(source.audio).seconds
    if source.duration is not None:
        end = min(end, source.offset + source.duration)
    # what is before the stretch is never part of a clip
    unaligned = [Unaligned(0.0, source.offset)] if source.offset else []
    unaligned += [Unaligned(one.start + source.offset, one.end + source.offset) for one in found.unaligned]
    return AlignedRecording(
        source.audio,
        recognizer.bundle.name,
        recognizer.spelling,
        end,
        tuple(_later(segment, source.offset) for segment in found.segments),
        tuple(unaligned),
    )


def _later(segment: AlignedSegment, by: float) -> AlignedSegment:
    return replace(
        segment, words=tuple(replace(one, start=one.start + by, end=one.end + by) for one in segment.words)
    )


def _other_passage(source: Source, recognizer: Recognizer, limits: Limits) -> str:
    """The passage that a recording holds instead of what was expected; empty where none stands out."""
    verses = [
        verse
        for segment in _aligned(source, None, recognizer).segments
        if segment.score >= limits.score
        for verse in segment.verses
    ]
    if not verses:
        return ""
    surah, times = Counter(verse.surah for verse in verses).most_common(1)[0]
    those = [verse for verse in verses if verse.surah == surah]
    if 2 * times <= len(verses) or not set(source.verses).isdisjoint(those):
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
    if clip.has_other_words(limits.score):
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
    """Identity of a recording; one that is finished is skipped while it is unchanged."""
    try:
        state = Path(source.audio).stat()
    except OSError:
        return UNFINISHED
    stretch = "" if source.stretch == WHOLE else f" {source.offset} {source.duration}"
    return f"{state.st_size} {state.st_mtime_ns} {source.reciter} {source.holds}{stretch} {settings}"


Finished = dict[str, list[dict[str, Any]]]
"""Recording -> the last line of each of its stretches."""


def _finished(path: Path) -> Finished:
    """The lines of earlier calls. A truncated last line, of a killed call, is ignored."""
    finished: Finished = {}
    if path.exists():
        for raw in path.read_bytes().splitlines():
            try:
                _add(finished, parse_json(raw))
            except (ValueError, TypeError, KeyError):
                continue
    return finished


def _line_of(finished: Finished, source: Source) -> dict[str, Any] | None:
    those = finished.get(source.audio, [])
    return next((line for line in those if _stretch_of(line) == source.stretch), None)


def _is_done(line: Mapping[str, Any] | None, key: str, folder: Path) -> bool:
    """Whether a recording is finished, unchanged, and has all its clips."""
    if line is None or key == UNFINISHED or line.get("key") != key:
        return False
    return all((folder / clip["file"]).is_file() for clip in line["clips"])


def _stretch_of(line: Mapping[str, Any]) -> Stretch:
    return line.get("offset", 0.0), line.get("duration")  # earlier versions had whole recordings only


def _add(finished: Finished, line: dict[str, Any]) -> None:
    """Add a line in place of those with mostly the same stretch, or with clips that it has written again."""
    files = {clip["file"] for clip in line["clips"]}
    those = [
        other
        for other in finished.get(line["audio_filepath"], [])
        if not _is_again(_stretch_of(line), _stretch_of(other))
        and files.isdisjoint(clip["file"] for clip in other["clips"])
    ]
    finished[line["audio_filepath"]] = [*those, line]


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
