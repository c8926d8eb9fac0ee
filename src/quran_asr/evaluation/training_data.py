"""What a model was trained on, so that a report can separate seen reciters and texts from unseen ones."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from quran_asr.corpus.manifest import read_lines, read_manifest
from quran_asr.errors import QuranAsrError
from quran_asr.files import parse_json
from quran_asr.records import Segment, VerseRef
from quran_asr.text.quran import load_quran
from quran_asr.text.spelling import spell

FILE_NAME = "training_data.json"

_MANIFEST_INSTEAD = "name the manifest that was trained on instead: `--trained-on train.jsonl`"


@dataclass(frozen=True, slots=True)
class ManifestFacts:
    """One manifest that was trained on."""

    path: str
    sha256: str
    """Of the manifest's bytes."""
    clips: int
    hours: float


@dataclass(frozen=True, slots=True)
class TrainingData:
    """Reciters and texts of all clips that a model was trained on: the file `training_data.json`."""

    manifests: tuple[ManifestFacts, ...]
    reciters: tuple[str, ...]
    """Sorted; an empty name among them means that some clips name no reciter."""
    verses: tuple[VerseRef, ...]
    """In the order of the mushaf."""
    texts: tuple[str, ...]
    """Sorted, in letters: the texts of clips that name no verses."""

    @classmethod
    def from_segments(cls, segments: Iterable[Segment], manifests: Sequence[Path] = ()) -> TrainingData:
        """Gather what was trained on.

        Args:
            segments: the clips that are trained on, after filters.
            manifests: the files that they come from, read here for their hash, clips and hours.
        """
        reciters: set[str] = set()
        verses: set[VerseRef] = set()
        texts: set[str] = set()
        for segment in segments:
            reciters.add(segment.reciter)
            verses.update(segment.verses)
            if not segment.verses:
                texts.add(spell(segment.text, "letters"))
        facts = tuple(_facts(path) for path in manifests)
        return cls(facts, tuple(sorted(reciters)), tuple(sorted(verses)), tuple(sorted(texts - {""})))

    def joined(self, later: TrainingData) -> TrainingData:
        """This and what was trained on later, each reciter, verse, text and manifest once."""
        known = {manifest.sha256 for manifest in self.manifests}
        return TrainingData(
            self.manifests + tuple(one for one in later.manifests if one.sha256 not in known),
            tuple(sorted({*self.reciters, *later.reciters})),
            tuple(sorted({*self.verses, *later.verses})),
            tuple(sorted({*self.texts, *later.texts})),
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "manifests": [asdict(manifest) for manifest in self.manifests],
            "reciters": list(self.reciters),
            "verses": [str(verse) for verse in self.verses],
            "texts": list(self.texts),
        }

    @classmethod
    def read(cls, path: Path) -> TrainingData:
        """Read a `training_data.json`.

        Raises:
            QuranAsrError: no such file, or not one that `to_json` gives.
        """
        try:
            found = parse_json(path.read_text(encoding="utf-8"))
            return cls(
                tuple(ManifestFacts(**manifest) for manifest in found["manifests"]),
                tuple(found["reciters"]),
                tuple(VerseRef.parse(verse) for verse in found["verses"]),
                tuple(found["texts"]),
            )
        except FileNotFoundError as error:
            raise QuranAsrError("there is no such file", where=str(path), remedy=_MANIFEST_INSTEAD) from error
        except (ValueError, KeyError, TypeError, AttributeError, QuranAsrError) as error:
            raise QuranAsrError(
                "this does not record the training data of a model",
                where=str(path),
                remedy=_MANIFEST_INSTEAD,
            ) from error


def find_training_data(place: Path, spelling: str) -> TrainingData:
    """What `--trained-on` names: a run folder, a `training_data.json`, or the manifest that was trained on.

    Raises:
        QuranAsrError: nothing is there, or it cannot be read.
    """
    if place.is_dir():
        if not (place / FILE_NAME).exists():
            raise QuranAsrError(
                f"this folder has no {FILE_NAME}, so it is not a run",
                where=str(place),
                remedy="name a run folder or the manifest that was trained on",
            )
        return TrainingData.read(place / FILE_NAME)
    if place.suffix == ".json" and place.name == FILE_NAME:
        return TrainingData.read(place)
    return TrainingData.from_segments(read_manifest(place, spelling), [place])


def cells(segments: Sequence[Segment], training: TrainingData | None) -> list[str]:
    """For each clip `seen_reciter/unseen_text` and so on, or `unknown` when the training data are unknown.

    A verse is seen if its letters are those of a verse that was trained on (itself or a twin elsewhere) or
    stand in a text that was trained on. A clip of known verses is seen text if all of them are; of a clip
    that names no verses all words must stand in a row in what was trained on. A reciter is
    `unknown_reciter` where the clip does not name him, or where he may be among training clips without names.
    """
    if training is None:
        return ["unknown"] * len(segments)
    quran = load_quran("letters")
    known_verses = {quran.verse(ref) for ref in training.verses}
    texts = "\n".join(f" {text} " for text in training.texts)
    trained = set(training.verses)
    in_mushaf_order = " " + "".join(f"{quran.verse(ref)} " if ref in trained else "\n " for ref in quran.refs)
    named_reciters = set(training.reciters) - {""}
    all_named = "" not in training.reciters

    def text_is_seen(segment: Segment) -> bool:
        if segment.verses:
            verses = [quran.verse(ref) for ref in segment.verses]
            return all(verse in known_verses or f" {verse} " in texts for verse in verses)
        row = f" {spell(segment.text, 'letters')} "
        return row in texts or row in in_mushaf_order

    def reciter_is(segment: Segment) -> str:
        if segment.reciter in named_reciters:
            return "seen_reciter"
        return "unseen_reciter" if segment.reciter and all_named else "unknown_reciter"

    return [
        f"{reciter_is(segment)}/{'seen' if text_is_seen(segment) else 'unseen'}_text" for segment in segments
    ]


def _facts(path: Path) -> ManifestFacts:
    lines = read_lines(path)
    seconds = sum(float(line.get("duration") or 0.0) for line in lines)
    return ManifestFacts(
        str(path), hashlib.sha256(path.read_bytes()).hexdigest(), len(lines), round(seconds / 3600, 6)
    )
