"""The clips with most errors: reference above hypothesis, word by word, with a player."""

from __future__ import annotations

import base64
import html
import os
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path

from quran_asr import audio
from quran_asr.corpus.manifest import each_line
from quran_asr.errors import QuranAsrError
from quran_asr.evaluation.edit_distance import Edit, align
from quran_asr.evaluation.scoring import word_letters
from quran_asr.evaluation.transcripts import TranscribedClip, read_transcripts, worst
from quran_asr.records import Segment

SHOWN = 12
"""Clips on a page; several trainings share them."""
MOST_AUDIO_BYTES = 6_000_000
"""Bytes of MP3 on a page; some seventeen minutes."""
LONGEST_SECONDS = 300.0
"""Seconds of a clip that is played."""
LONGEST_WORD = 40
"""Letters that are shown of a word; a model that loops writes thousands."""
KEPT_HITS = 6
"""Words kept before and after an error; in a longer stretch of right words the rest is left out."""

LEGEND = """
<ul class="legend">
<li><span class="pair substitution" dir="rtl" lang="ar"><span class="reference">أح<mark>د</mark></span
><span class="hypothesis">أح<mark>ب</mark></span></span> another word: what differs is underlined</li>
<li><span class="pair marks" dir="rtl" lang="ar"><span class="reference">أَ<mark>حَ</mark>د</span
><span class="hypothesis">أَ<mark>حْ</mark>د</span></span> the same letters, other marks: dotted underline</li>
<li><span class="pair deletion" dir="rtl" lang="ar"><span class="reference">قل</span
><span class="hypothesis gap">–</span></span> deleted word: struck through</li>
<li><span class="pair insertion" dir="rtl" lang="ar"><span class="reference gap">–</span
><span class="hypothesis">قل</span></span> inserted word: with a plus</li>
</ul>
"""
"""What the colours and lines of an alignment mean; HTML."""


class Recordings:
    """Which recordings a page may take in: those of the runs that it shows.

    A file of transcripts may come from anywhere and name any file of this machine; a page is passed on. So
    a recording lies in a run's folder, or belongs to a manifest that the run was trained or validated with:
    the manifest names it, or lies in a folder above it. A manifest within the run came with it and decides
    nothing about other files.
    """

    def __init__(self, runs: Iterable[Path], manifests: Iterable[Path] = ()) -> None:
        self._runs = [folder.resolve() for folder in runs]
        self._manifests = [path for path in manifests if not self._is_in_a_run(path.resolve())]

    def hold(self, path: Path) -> bool:
        """Whether a recording, links followed, is one of them."""
        real = path.resolve()
        folders, named = self._of_manifests
        return self._is_in_a_run(real) or str(real) in named or any(map(real.is_relative_to, folders))

    def _is_in_a_run(self, real: Path) -> bool:
        return any(map(real.is_relative_to, self._runs))

    @cached_property
    def _of_manifests(self) -> tuple[list[Path], set[str]]:
        folders: list[Path] = []
        named: set[str] = set()
        for path in self._manifests:
            folder = path.resolve().parent
            try:
                names = {
                    str(values["audio_filepath"])
                    for _, values in each_line(path)
                    if "audio_filepath" in values
                }
            except (QuranAsrError, OSError):
                continue
            named |= {os.path.realpath(folder / name) for name in names}
            if names and folder not in (Path(folder.anchor), Path.home()):
                folders.append(folder)
        return folders, named


@dataclass(slots=True)
class Players:
    """Audio players of a page, within the bytes that it may still take."""

    recordings: Recordings
    wanted: bool = True
    """False: recordings may not be passed on with the page."""
    left: int = MOST_AUDIO_BYTES

    def player(self, segment: Segment, folder: Path) -> str:
        """HTML that plays a clip, or the reason why it does not.

        Args:
            folder: where a relative path begins.
        """
        if not self.wanted:
            return ""
        try:
            if not self.recordings.hold(folder / segment.audio):
                raise QuranAsrError(
                    "the recording is neither in the run nor in its manifests",
                    remedy="name it in a manifest of the run",
                )
            encoded = _as_mp3(segment, folder)
        except QuranAsrError as error:
            return f'<p class="note">No audio: {html.escape(error.what)}.</p>'
        if len(encoded) > self.left:
            return '<p class="note">No audio: the page has no room for more.</p>'
        self.left -= len(encoded)
        source = f"data:audio/mpeg;base64,{base64.b64encode(encoded).decode()}"
        name = html.escape(Path(segment.audio).name)
        return f'<audio controls aria-label="{name}" preload="metadata" src="{source}"></audio>'


def worst_clips(path: Path, number: int, players: Players) -> str:
    """HTML of the clips of a `transcripts.jsonl` with the most word errors; everything in it is escaped.

    Raises:
        QuranAsrError: the file cannot be read.
    """
    clips = read_transcripts(path)
    wrong = sum(clip.words.errors > 0 for clip in clips)
    if not wrong:
        return f'<p class="note">Every word of {len(clips):,} clips is right.</p>'
    shown = worst(clips, number)
    note = f"{len(shown)} of {wrong:,} clips with an error, those with the most, of {len(clips):,} clips."
    articles = (_article(clip, players.player(clip.segment, path.parent)) for clip in shown)
    return f'<p class="note">{note}</p>\n' + "\n".join(articles)


def alignment(edits: Sequence[Edit]) -> str:
    """HTML of two aligned texts, right to left: the reference above the hypothesis."""
    parts: list[str] = []
    stretches = [list(group) for _, group in groupby(edits, key=lambda edit: edit.kind == "hit")]
    for place, stretch in enumerate(stretches):
        before, after = KEPT_HITS if place else 0, KEPT_HITS if place + 1 < len(stretches) else 0
        left_out = len(stretch) - before - after
        if stretch[0].kind == "hit" and left_out > KEPT_HITS:
            parts += [_pair(edit) for edit in stretch[:before]]
            parts.append(f'<span class="skipped" dir="ltr" lang="en">{left_out:,} words right</span>')
            parts += [_pair(edit) for edit in stretch[len(stretch) - after :]]
        else:
            parts += [_pair(edit) for edit in stretch]
    return f'<div class="alignment" dir="rtl" lang="ar">{" ".join(parts)}</div>'


def _article(clip: TranscribedClip, player: str) -> str:
    segment, words = clip.segment, clip.words
    place = [
        f"<bdi>{html.escape(Path(segment.audio).name)}</bdi>",
        " ".join(html.escape(str(verse)) for verse in segment.verses),
        f"<bdi>{html.escape(segment.reciter)}</bdi>" if segment.reciter else "",
        f"{segment.duration:.1f} s from {segment.offset:.1f} s"
        if segment.offset
        else f"{segment.duration:.1f} s",
    ]
    errors = (
        f"{words.errors:,} {'error' if words.errors == 1 else 'errors'} in {words.reference_length:,} words"
    )
    return (
        f'<article class="clip"><h4>{errors}</h4><p class="note">{" · ".join(filter(None, place))}</p>'
        f"{alignment(clip.edits())}{player}</article>"
    )


def _pair(edit: Edit) -> str:
    """A reference word above the hypothesis word; extra text for screen readers is in `aside`."""
    if edit.kind == "substitution":
        kind = "marks" if word_letters(edit.reference) == word_letters(edit.hypothesis) else "substitution"
        return _words(kind, *_letters(edit), "recognized as")
    reference, hypothesis = ("".join(_clusters(word)) for word in (edit.reference, edit.hypothesis))
    aside = {"hit": "", "deletion": "left out", "insertion": "added"}[edit.kind]
    return _words(edit.kind, html.escape(reference), html.escape(hypothesis), aside)


def _words(kind: str, reference: str, hypothesis: str, aside: str) -> str:
    unread = ' aria-hidden="true"'
    above = (
        f'<span class="reference">{reference}</span>'
        if reference
        else f'<span class="reference gap"{unread}>–</span>'
    )
    below = f'<span class="hypothesis gap"{unread}>–</span>'
    if hypothesis:  # of a hit only one of both is read out
        below = f'<span class="hypothesis"{unread if kind == "hit" else ""}>{hypothesis}</span>'
    between = f'<span class="aside" dir="ltr" lang="en"> {aside} </span>' if aside else ""
    return f'<span class="pair {kind}">{above}{between}{below}</span>'


def _letters(edit: Edit) -> tuple[str, str]:
    """Both words with the letters marked in which they differ."""
    letters = align(_clusters(edit.reference), _clusters(edit.hypothesis), alike=word_letters)
    reference = [(step.reference, step.kind != "hit") for step in letters if step.reference]
    hypothesis = [(step.hypothesis, step.kind != "hit") for step in letters if step.hypothesis]
    return _marked(reference), _marked(hypothesis)


def _marked(letters: Sequence[tuple[str, bool]]) -> str:
    parts = []
    for differs, group in groupby(letters, key=lambda letter: letter[1]):
        text = html.escape("".join(letter for letter, _ in group))
        parts.append(f"<mark>{text}</mark>" if differs else text)
    return "".join(parts)


def _clusters(word: str) -> list[str]:
    """Letters, each with its marks: a mark alone has nothing to stand on. Of a long word the beginning."""
    clusters: list[str] = []
    for character in word:
        if clusters and unicodedata.category(character).startswith("M"):
            clusters[-1] += character
        else:
            clusters.append(character)
    return clusters if len(clusters) <= LONGEST_WORD else [*clusters[:LONGEST_WORD], "…"]


def _as_mp3(segment: Segment, folder: Path) -> bytes:
    if not 0 < segment.duration <= LONGEST_SECONDS:
        raise QuranAsrError(
            f"clips of up to {LONGEST_SECONDS:.0f} s are played, and this one has {segment.duration:.0f}",
            remedy="cut it into shorter clips",
        )
    samples = audio.read(folder / segment.audio, segment.offset, segment.duration)
    return audio.as_mp3(samples)
