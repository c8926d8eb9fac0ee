"""Synthetic speech: verses by eSpeak NG's Arabic voices, to try everything without recordings.

It is synthetic speech, not recitation: no tajwid, every final vowel pronounced, no pause rules. A model that
was trained on it knows these voices and these verses and nothing else.

eSpeak NG is licensed under GPL-3. It comes with the optional extra `speak` (the wheel `espeakng-loader`), is
loaded in this file only, and no part of it is included in this package.
"""

from __future__ import annotations

import _ctypes
import ctypes
import random
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from quran_asr import audio
from quran_asr.corpus.manifest import write_manifest
from quran_asr.errors import QuranAsrError
from quran_asr.records import SAMPLE_RATE, VerseRef
from quran_asr.text.quran import load_quran

if TYPE_CHECKING:
    from quran_asr.records import Samples

VOICES = (
    *("ar", "ar+m1", "ar+m2", "ar+m3", "ar+m5", "ar+m7", "ar+m8", "ar+f1", "ar+f2", "ar+f4", "ar+f5"),
    *("ar+Andy", "ar+Annie", "ar+Michael", "ar+f3", "ar+Alex"),
)
"""Sixteen distinct, intelligible voices; the quickstart holds out the last two."""

RATES, PITCHES = (120, 180), (30, 70)
"""Ranges of words per minute and of eSpeak's pitch (0 to 100), drawn for each clip."""

_SILENCE_BEFORE, _SILENCE_AFTER = 0.25, 0.2
"""Seconds. The engine itself leaves none. A streaming model needs some frames after the last word, and before
the first: without look-ahead it otherwise has to guess how a clip begins."""

_LONGEST_FRAGMENT = 4

_INSTALL_AGAIN = "install it again: pip install --force-reinstall espeakng-loader"

_LETTER_NAMES = {
    "ا": "أَلِفْ",
    "ح": "حَا",
    "ر": "رَا",
    "س": "سِينْ",
    "ص": "صَادْ",
    "ط": "طَا",
    "ع": "عَيْنْ",
    "ق": "قَافْ",
    "ك": "كَافْ",
    "ل": "لَامْ",
    "م": "مِيمْ",
    "ن": "نُونْ",
    "ه": "هَا",
    "ي": "يَا",
}
"""The letters that open 29 surahs are pronounced by name. They are the only words without marks."""


def synthesize_corpus(
    refs: Sequence[VerseRef],
    voices: Sequence[str],
    folder: str | Path,
    seed: int = 0,
    *,
    fragments_per_verse: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Speak verses by several voices into `folder`, with a manifest.

    Each voice is a reciter (`ar+f3` is `espeak-f3`) with one flac of 16 kHz for each verse, in EveryAyah's
    layout. Rate and pitch of a clip are drawn from the seed, the voice and the verse: the same arguments
    give the same bytes, and more voices or verses change none of the others.

    A fragment is an additional manifest line: one to four adjacent words of a clip, cut at the word starts
    that the engine reports, with their own text. It has no `verses` (it is not the verse) but `part_of`.

    Args:
        refs: the verses, each once.
        voices: `ar`, or `ar+` and a variant of eSpeak's.
        folder: for the corpus; missing folders are created, files of the same name replaced.
        fragments_per_verse: most fragments of each clip; fewer if a verse has too few words.
        on_progress: called with (clips done, clips).

    Returns:
        The path of the manifest, `folder/manifest.jsonl`: in the order of voices, then verses, each clip
        before its fragments.

    Raises:
        QuranAsrError: the extra `speak` is not installed, or there is no such voice or verse, or one is
            given twice.
        OSError: the disk is full, or the folder cannot be written.
    """
    if not refs or not voices:
        raise QuranAsrError(
            "nothing to synthesize: give at least one verse and one voice",
            remedy="run for example: quran-asr corpus synthesize 112 --voices ar --to FOLDER",
        )
    for given, count in Counter(map(str, [*refs, *voices])).items():
        if count > 1:
            raise QuranAsrError(
                f"`{given}` is given twice",
                remedy="give each verse and each voice once; ranges must not overlap",
            )
    quran = load_quran("diacritized")
    for ref in refs:
        quran.verse(ref)  # a wrong verse is reported before anything is written
    folder = Path(folder)
    lines: list[dict[str, Any]] = []
    with Engine() as engine:
        for voice in voices:
            engine.check_voice(voice)
        for number, (voice, ref) in enumerate(product(voices, refs), start=1):
            lines += _speak_verse(engine, voice, ref, quran.verse(ref), folder, seed, fragments_per_verse)
            if on_progress:
                on_progress(number, len(voices) * len(refs))
        made_by = f"espeak-ng {engine.version}"
    meta = {
        "made_by": made_by,
        "spelling": quran.spelling,
        "edition": quran.edition_name,
        "voices": list(voices),
        "verses": len(refs),
        "seed": seed,
    }
    manifest = folder / "manifest.jsonl"
    write_manifest(manifest, [{**line, "source": made_by} for line in lines], meta)
    return manifest


def _speak_verse(
    engine: Engine, voice: str, ref: VerseRef, text: str, folder: Path, seed: int, fragments: int
) -> list[dict[str, Any]]:
    """Speak one verse into its file: its manifest line, and those of its fragments."""
    chance = random.Random(f"{seed} {voice} {ref}")
    rate, pitch = chance.randint(*RATES), chance.randint(*PITCHES)
    words = text.split(" ")
    speech, starts = engine.synthesize_words(words, voice, rate, pitch)
    silence = [
        np.zeros(round(seconds * SAMPLE_RATE), np.float32) for seconds in (_SILENCE_BEFORE, _SILENCE_AFTER)
    ]
    samples = np.concatenate([silence[0], speech, silence[1]])
    reciter = f"espeak-{voice.partition('+')[2]}".rstrip("-")
    path = folder / reciter / f"{ref.surah:03}{ref.ayah:03}.flac"
    audio.write(path, samples)
    known = {"reciter": reciter, "riwaya": "hafs"}
    whole = {
        "audio_filepath": str(path),
        "offset": 0.0,
        "duration": len(samples) / SAMPLE_RATE,
        "text": text,
        "verses": [str(ref)],
        **known,
    }
    bounds = [_SILENCE_BEFORE + start for start in (*starts, len(speech) / SAMPLE_RATE)]
    parts = [
        (first, first + count)
        for count in range(1, min(_LONGEST_FRAGMENT, len(words) - 1) + 1)
        for first in range(len(words) - count + 1)
    ]
    return [whole] + [
        {
            "audio_filepath": str(path),
            "offset": round(bounds[first], 4),
            "duration": round(bounds[end] - bounds[first], 4),
            "text": " ".join(words[first:end]),
            "part_of": [str(ref)],
            **known,
        }
        for first, end in sorted(chance.sample(parts, min(fragments, len(parts))))
    ]


class _EventId(ctypes.Union):
    _fields_ = (("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8))


class _Event(ctypes.Structure):
    """`espeak_EVENT` of speak_lib.h."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _EventId),
    )


_LIST_TERMINATED, _WORD = 0, 1
_SYNCHRONOUS, _DONT_EXIT = 2, 0x8000
_RATE, _PITCH = 1, 3
_CHARS_UTF8 = 1
_Callback = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event)
)


class Engine:
    """eSpeak NG. Its output depends on the arguments alone.

    The library keeps state between utterances (a vibrato that runs on, a random generator), so each
    utterance gets a library of its own: a private copy of the file, loaded, seeded, and unloaded again.
    That takes 4 ms. Close it, or use it in a `with`.

    Raises:
        QuranAsrError: the extra `speak` is not installed, or its library does not load.
    """

    def __init__(self) -> None:
        try:
            import espeakng_loader
        except ImportError:
            raise QuranAsrError(
                "speaking needs the engine eSpeak NG, which is not installed",
                remedy="pip install 'quran-asr[speak]'",
            ) from None
        self._data = Path(espeakng_loader.get_data_path())
        self._folder = tempfile.TemporaryDirectory(prefix="quran-asr-speak-")
        try:
            self._library = shutil.copy(espeakng_loader.get_library_path(), self._folder.name)
            library = ctypes.CDLL(self._library)
            library.espeak_Info.restype = ctypes.c_char_p
            self.version: str = library.espeak_Info(None).decode().split()[0]
            _ctypes.dlclose(library._handle)
        except (OSError, AttributeError) as error:
            self._folder.cleanup()
            raise QuranAsrError(
                f"the engine eSpeak NG does not load: {error}", remedy=_INSTALL_AGAIN
            ) from error

    def close(self) -> None:
        """Remove the private copy of the library."""
        self._folder.cleanup()

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def check_voice(self, voice: str) -> None:
        """Refuse a voice that is not `ar` or `ar+` and a variant; the engine accepts any name silently.

        Raises:
            QuranAsrError: there is no such voice; it lists those there are.
        """
        language, _, variant = voice.partition("+")
        variants = sorted(file.name for file in (self._data / "voices" / "!v").iterdir())
        if language != "ar" or (variant not in variants if "+" in voice else variant):
            raise QuranAsrError(
                f"no voice `{voice}`",
                remedy="voices are ar and ar+VARIANT, where VARIANT is one of " + ", ".join(variants),
            )

    def synthesize_words(
        self, words: Sequence[str], voice: str, rate: int, pitch: int
    ) -> tuple[Samples, tuple[float, ...]]:
        """Speak words with vowel marks in one breath.

        Args:
            words: at least one; words without any mark are pronounced letter by letter.
            voice: as `check_voice` allows.
            rate: words a minute.
            pitch: 0 to 100.

        Returns:
            (samples at 16 kHz, for each word the second at which it begins).

        Raises:
            QuranAsrError: the engine refuses.
        """
        pronounced = [_as_pronounced(word) for word in words]
        positions = [sum(len(word) + 1 for word in pronounced[:number]) for number in range(len(pronounced))]
        native_rate, native, events = self._synthesize(" ".join(pronounced), voice, rate, pitch)
        samples = audio.resample(native, native_rate)
        begins = {position: sample / native_rate for position, sample in events}
        if not len(samples) or any(position not in begins for position in positions):
            raise QuranAsrError(
                f"the engine did not synthesize every word of `{' '.join(words)}`",
                remedy="try other voices with --voices, or leave this verse out",
            )
        return samples, tuple(begins[position] for position in positions)

    def speak(self, text: str, voice: str, rate: int, pitch: int) -> Samples:
        """Speak a text in any of the engine's languages.

        Args:
            text: in the writing of the language.
            voice: a language of eSpeak's, for example `fr`, perhaps with a variant (`fr+f2`).
            rate: words a minute.
            pitch: 0 to 100.

        Raises:
            QuranAsrError: the engine refuses.
        """
        native_rate, native, _ = self._synthesize(text, voice, rate, pitch)
        return audio.resample(native, native_rate)

    def _synthesize(
        self, text: str, voice: str, rate: int, pitch: int
    ) -> tuple[int, Samples, list[tuple[int, int]]]:
        """(rate in hertz, samples at that rate, [(place in the text, sample) of each word])."""
        chunks: list[bytes] = []
        words: list[tuple[int, int]] = []
        interrupted: list[BaseException] = []

        def collect(wave: Any, count: int, events: Any) -> int:
            try:
                if wave and count:
                    chunks.append(ctypes.string_at(wave, count * 2))
                for event in events:
                    if event.type == _LIST_TERMINATED:
                        break
                    if event.type == _WORD:
                        words.append((event.text_position - 1, event.sample))
            except BaseException as error:  # Ctrl-C: ctypes would swallow it
                interrupted.append(error)
            return int(bool(interrupted))  # 1 stops the engine

        callback = _Callback(collect)
        library = ctypes.CDLL(self._library)
        try:
            native_rate = library.espeak_Initialize(_SYNCHRONOUS, 0, str(self._data).encode(), _DONT_EXIT)
            if native_rate <= 0:
                raise QuranAsrError(
                    f"the engine eSpeak NG does not start (its data: {self._data})", remedy=_INSTALL_AGAIN
                )
            library.espeak_ng_SetRandSeed(ctypes.c_long(1))
            library.espeak_SetSynthCallback(callback)
            utf8 = text.encode() + b"\0"
            refused = (
                library.espeak_SetVoiceByName(voice.encode())
                or library.espeak_SetParameter(_RATE, rate, 0)
                or library.espeak_SetParameter(_PITCH, pitch, 0)
                or library.espeak_Synth(utf8, ctypes.c_size_t(len(utf8)), 0, 1, 0, _CHARS_UTF8, None, None)
            )
            if interrupted:
                raise interrupted[0]
            if refused:
                raise QuranAsrError(
                    f"the engine eSpeak NG refuses voice `{voice}`, rate {rate}, pitch {pitch}",
                    remedy="use a voice such as ar or ar+f2, a rate of 80 to 450 and a pitch of 0 to 100",
                )
            library.espeak_Terminate()
        finally:
            _ctypes.dlclose(library._handle)
        native = np.frombuffer(b"".join(chunks), np.int16).astype(np.float32) / np.float32(32_768)
        return native_rate, native, words


def _as_pronounced(word: str) -> str:
    if re.search("[\u064b-\u0652]", word):
        return word
    return " ".join(_LETTER_NAMES.get(letter, letter) for letter in word)
