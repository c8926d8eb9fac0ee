"""False accepts of `quran-asr identify`: recordings that are not Quran, and what is found in them.

    python tools/identification_study.py make FOLDER [--reversed MANIFEST]
    python tools/identification_study.py score BUNDLE FOLDER [--quran MANIFEST] [--every N]
    python tools/identification_study.py attempts BUNDLE FOLDER [--quran MANIFEST]
    python tools/identification_study.py degrade MANIFEST FOLDER

`make` writes recordings without any Quran: silence, noise, tones, Arabic sentences and those of other
languages by eSpeak NG; with `--reversed` also the clips of a manifest played backwards, which have the
voices, rooms and phones of recitations. `score` prints how many of them are accepted at several thresholds of
the evidence (`quran_asr.decoding.identify`), and how many clips of a manifest are identified. `attempts`
prints a JSON object for each: evidence, agreement of the transducer and verses at each speed. `degrade`
writes the clips of a manifest as they might sound on a bad telephone (echo, pink noise at 0 to 15 dB, a band
from 80-300 to 3,000-4,000 Hz, soft clipping) and their manifest, for `quran-asr evaluate ... --identify`.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from quran_asr import audio
from quran_asr.corpus.manifest import read_manifest
from quran_asr.corpus.synthesis import Engine
from quran_asr.decoding.agreement import agreement
from quran_asr.decoding.identify import identify, spelled
from quran_asr.records import SAMPLE_RATE, Emissions
from quran_asr.runtime.alignment import OTHER_SPEEDS, search_graph
from quran_asr.runtime.n_best import encode_samples
from quran_asr.runtime.recognizer import load

if TYPE_CHECKING:
    from quran_asr.records import Samples

ARABIC = (
    "ذَهَبَ الْوَلَدُ إِلَى الْمَدْرَسَةِ صَبَاحًا وَرَجَعَ مَسَاءً",
    "أُحِبُّ أَنْ أَشْرَبَ الْقَهْوَةَ مَعَ أَصْدِقَائِي فِي الْمَقْهَى",
    "سَافَرَتِ الْعَائِلَةُ إِلَى مِصْرَ بِالطَّائِرَةِ فِي الصَّيْفِ الْمَاضِي",
    "يَعْمَلُ أَبِي مُهَنْدِسًا فِي شَرِكَةٍ كَبِيرَةٍ لِلسَّيَّارَاتِ",
    "اِفْتَتَحَ الْوَزِيرُ أَمْسِ مُؤْتَمَرَ التَّعْلِيمِ فِي الْعَاصِمَةِ",
    "دَرَجَاتُ الْحَرَارَةِ غَدًا بَيْنَ عِشْرِينَ وَخَمْسٍ وَعِشْرِينَ دَرَجَةً",
    "اِشْتَرَيْتُ خُبْزًا وَجُبْنًا وَزَيْتُونًا مِنَ السُّوقِ الْقَدِيمِ",
    "هَلْ تَعْرِفُ أَيْنَ تَقَعُ مَحَطَّةُ الْقِطَارِ مِنْ فَضْلِكَ",
    "قَرَأْتُ كِتَابًا عَنْ تَارِيخِ الْأَنْدَلُسِ وَأَعْجَبَنِي كَثِيرًا",
    "فَازَ الْفَرِيقُ بِالْمُبَارَاةِ بِثَلَاثَةِ أَهْدَافٍ مُقَابِلَ هَدَفَيْنِ",
    "يَجِبُ عَلَيْنَا أَنْ نُحَافِظَ عَلَى نَظَافَةِ الْبِيئَةِ وَالشَّوَارِعِ",
    "تَتَكَوَّنُ الْجُمْلَةُ الِاسْمِيَّةُ مِنْ مُبْتَدَأٍ وَخَبَرٍ",
    "أَرْسَلَتِ الشَّرِكَةُ رِسَالَةً إِلَى جَمِيعِ الزَّبَائِنِ بِالْبَرِيدِ",
    "كَانَ الْقِطُّ نَائِمًا تَحْتَ الطَّاوِلَةِ حِينَ دَخَلَ الضُّيُوفُ",
    "سَأَزُورُ طَبِيبَ الْأَسْنَانِ يَوْمَ الْخَمِيسِ فِي السَّاعَةِ الْعَاشِرَةِ",
    "مَرْحَبًا بِكُمْ فِي نَشْرَةِ الْأَخْبَارِ وَهَذِهِ أَهَمُّ الْعَنَاوِينِ",
    "لَا تَنْسَ أَنْ تُغْلِقَ الْبَابَ وَالنَّوَافِذَ قَبْلَ أَنْ تَنَامَ",
    "تَعَلَّمَتْ أُخْتِي الرَّسْمَ وَالْمُوسِيقَى فِي مَعْهَدِ الْفُنُونِ",
    "وَقَعَ حَادِثٌ عَلَى الطَّرِيقِ السَّرِيعِ وَلَمْ يُصَبْ أَحَدٌ",
    "اِرْتَفَعَتْ أَسْعَارُ النَّفْطِ وَالذَّهَبِ فِي الْأَسْوَاقِ الْعَالَمِيَّةِ",
    "إِذَا كُنْتَ تُرِيدُ النَّجَاحَ فَعَلَيْكَ بِالْعَمَلِ وَالصَّبْرِ",
    "السَّلَامُ عَلَيْكُمْ وَرَحْمَةُ اللَّهِ وَبَرَكَاتُهُ كَيْفَ حَالُكُمُ الْيَوْمَ",
    "إِنَّ مِنَ الْبَيَانِ لَسِحْرًا وَإِنَّ مِنَ الشِّعْرِ لَحِكْمَةً",
    "قِفَا نَبْكِ مِنْ ذِكْرَى حَبِيبٍ وَمَنْزِلِ بِسِقْطِ اللِّوَى بَيْنَ الدَّخُولِ فَحَوْمَلِ",
)
"""Everyday sentences, news, a greeting, a saying and a line of poetry."""

ARABIC_VOICES = ("ar", "ar+f2", "ar+m3")

OTHER_LANGUAGES = {
    "en": "The committee will publish its report on the state of the railways next Wednesday morning.",
    "fr": "Les enfants jouent dans le jardin pendant que leur grand-mère prépare le repas du dimanche.",
    "de": "Am Wochenende fahren wir mit dem Zug in die Berge und wandern bis zum Abend.",
    "es": "El ayuntamiento ha decidido construir una nueva biblioteca en el centro de la ciudad.",
    "it": "Domani mattina andiamo al mercato a comprare frutta, verdura e un po' di formaggio.",
    "pt": "O avião chegou com duas horas de atraso por causa da tempestade no litoral.",
    "ru": "Вчера вечером мы долго гуляли по набережной и разговаривали о новых книгах.",
    "pl": "W przyszłym tygodniu nauczyciel pokaże uczniom stare mapy i fotografie miasta.",
    "tr": "Yarın sabah erkenden kalkıp arkadaşlarımla birlikte göl kenarında balık tutacağız.",
    "fa": "دیروز با دوستم به کتابخانه رفتیم و چند کتاب داستان برای خواهرم گرفتیم",
    "ur": "کل شام ہم سب دوست بازار گئے اور وہاں سے کپڑے اور مٹھائی خریدی",
    "hi": "कल सुबह मैं अपने भाई के साथ बाज़ार गया और ताज़ी सब्ज़ियाँ खरीदीं",
    "bn": "আগামী সপ্তাহে আমরা সবাই মিলে নদীর ধারে বেড়াতে যাব",
    "id": "Kemarin sore kami pergi ke pantai bersama keluarga dan makan ikan bakar.",
    "ms": "Pada hujung minggu mereka melawat muzium negara dan mengambil banyak gambar.",
    "sw": "Kesho asubuhi tutakwenda sokoni kununua matunda na mboga kwa ajili ya wageni.",
    "el": "Το καλοκαίρι πηγαίνουμε συχνά στη θάλασσα και κολυμπάμε μέχρι το βράδυ.",
    "sv": "På lördag ska vi laga mat tillsammans och sedan titta på en gammal film.",
}

THRESHOLDS = (-8.0, -4.0, -2.0, 0.0, 2.0, 4.0, 8.0)
"""Nats of evidence; 0 is the one in use."""

LEAST_STORED = -16.0
"""Nats of evidence from which on the agreement of the transducer is of interest."""

LEVELS_DB = (-20, -40)
"""Root mean square of noise and tones, relative to full scale."""


def silence(rng: np.random.Generator) -> Iterator[tuple[str, Samples]]:
    for number, level in enumerate((None, None, -90, -80, -70)):
        samples = np.zeros(_samples(3 + 4 * number), np.float32)
        yield f"silence-{number}", samples if level is None else _at(rng.normal(size=len(samples)), level)


def noise(rng: np.random.Generator) -> Iterator[tuple[str, Samples]]:
    """White, pink and brown noise, mains hum, and noise in syllables (4 bursts a second)."""
    for level in LEVELS_DB:
        for seconds in (4, 10):
            count = _samples(seconds)
            times = np.arange(count) / SAMPLE_RATE
            for name, slope in (("white", 0.0), ("pink", 0.5), ("brown", 1.0)):
                spectrum = np.fft.rfft(rng.normal(size=count))
                spectrum /= np.maximum(1, np.arange(len(spectrum))) ** slope
                yield f"{name}{level}-{seconds}", _at(np.fft.irfft(spectrum, count), level)
            hum = sum(np.sin(2 * np.pi * 50 * k * times) / k for k in (1, 2, 3, 5, 7))
            yield f"hum{level}-{seconds}", _at(hum + 0.05 * rng.normal(size=count), level)
            bursts = rng.normal(size=count) * np.maximum(0, np.sin(2 * np.pi * 2 * times)) ** 2
            yield f"bursts{level}-{seconds}", _at(bursts, level)


def music(rng: np.random.Generator) -> Iterator[tuple[str, Samples]]:
    """Melodies, chords and glides of tones with harmonics and, as a voice has it, vibrato."""
    for number in range(20):
        notes: list[Samples] = []
        for _ in range(int(rng.integers(8, 30))):
            count = _samples(float(rng.choice([0.2, 0.3, 0.45, 0.6])))
            times = np.arange(count) / SAMPLE_RATE
            pitch = 110 * 2 ** (rng.choice([0, 2, 3, 5, 7, 8, 11, 12, 14]) / 12 + number % 3 * 0.5)
            chord = (1, 1.25, 1.5) if number % 4 == 1 else (1,)
            glide = 1 + (0.2 * times / times[-1] if number % 4 == 2 else 0)
            vibrato = 1 + 0.02 * np.sin(2 * np.pi * 5.5 * times) if number % 4 == 3 else 1
            phase = 2 * np.pi * np.cumsum(pitch * glide * vibrato * np.ones(count)) / SAMPLE_RATE
            tone = sum(np.sin(ratio * k * phase) / k for ratio in chord for k in range(1, 12))
            notes.append((tone * np.minimum(1, 30 * times) * np.exp(-1.5 * times)).astype(np.float32))
        yield f"music-{number}", _at(np.concatenate(notes), -20)


def arabic(rng: np.random.Generator) -> Iterator[tuple[str, Samples]]:
    with Engine() as engine:
        for number, text in enumerate(ARABIC):
            for voice in ARABIC_VOICES:
                rate, pitch = int(rng.integers(90, 170)), int(rng.integers(30, 70))
                yield f"{voice.replace('+', '-')}-{number}", engine.speak(text, voice, rate, pitch)


def other_languages(rng: np.random.Generator) -> Iterator[tuple[str, Samples]]:
    with Engine() as engine:
        for language, text in OTHER_LANGUAGES.items():
            for variant in ("", "+f2"):
                rate, pitch = int(rng.integers(90, 170)), int(rng.integers(30, 70))
                name = f"{language}{variant.replace('+', '-')}"
                yield name, engine.speak(text, f"{language}{variant}", rate, pitch)


KINDS: dict[str, Callable[[np.random.Generator], Iterator[tuple[str, Samples]]]] = {
    "silence": silence,
    "noise": noise,
    "music": music,
    "arabic": arabic,
    "other-languages": other_languages,
}


def _samples(seconds: float) -> int:
    return round(seconds * SAMPLE_RATE)


def _at(samples: Any, level_db: float) -> Samples:
    """At a root mean square in dB of full scale."""
    wave = np.asarray(samples, np.float64)
    return np.clip(wave * 10 ** (level_db / 20) / np.sqrt(np.mean(wave**2)), -1, 1).astype(np.float32)


def make(folder: Path, backwards: Path | None) -> None:
    for kind, recordings in KINDS.items():
        for name, samples in recordings(np.random.default_rng(0)):
            audio.write(folder / kind / f"{name}.flac", samples)
    for number, clip in enumerate(read_manifest(backwards, "letters") if backwards else ()):
        samples = audio.read(clip.audio, clip.offset, clip.duration or None)[::-1]
        audio.write(folder / "reversed" / f"{number:05}.flac", samples)


def score(bundle: Path, folder: Path, manifest: Path | None, every: int) -> None:
    recognizer = load(bundle, decoder="ctc", threads=1)
    graph = search_graph(recognizer)
    searching = searched = 0.0

    def evidence_of(emissions: Emissions) -> tuple[float, tuple[Any, ...]]:
        nonlocal searching, searched
        begin = time.process_time()
        found = identify(graph, emissions, least_evidence=THRESHOLDS[0])
        searching += time.process_time() - begin
        searched += len(emissions.log_probs) * emissions.frame_seconds
        return found.evidence, (found.verses, *(place.verses for place in found.equal))

    by_kind: dict[str, list[float]] = defaultdict(list)
    for path in sorted(folder.rglob("*.flac"))[::every]:
        by_kind[path.parent.name].append(evidence_of(recognizer.emissions([audio.read(path)]))[0])
    print("threshold", *(f"{threshold:+5.0f}" for threshold in THRESHOLDS), sep="\t")
    for kind, values in by_kind.items():
        accepted = [sum(value >= threshold for value in values) for threshold in THRESHOLDS]
        print(f"{kind} ({len(values)}), accepted", *accepted, f"most {max(values):.1f}", sep="\t")
    outcomes: dict[tuple[str, bool], list[float]] = defaultdict(list)
    for clip in read_manifest(manifest, recognizer.spelling)[::every] if manifest else ():
        samples = audio.read(clip.audio, clip.offset, clip.duration or None)
        evidence, places = evidence_of(recognizer.emissions([samples], clip.place))
        outcomes[clip.reciter.split("-s")[0], clip.verses in places].append(evidence)
    for (reciter, right), values in sorted(outcomes.items()):
        accepted = [sum(value >= threshold for value in values) for threshold in THRESHOLDS]
        print(f"{reciter}, {'exact' if right else 'not exact'} ({len(values)})", *accepted, sep="\t")
    print(f"search: {10 * searching / searched:.3f} s of processor time for 10 s")


def attempts(bundle: Path, folder: Path, manifest: Path | None) -> None:
    recognizer = load(bundle, decoder="ctc", threads=1)
    graph = search_graph(recognizer)
    recordings = [(str(path), [], audio.read(path)) for path in sorted(folder.rglob("*.flac"))]
    for clip in read_manifest(manifest, recognizer.spelling) if manifest else ():
        samples = audio.read(clip.audio, clip.offset, clip.duration or None)
        recordings.append((clip.audio, [str(verse) for verse in clip.verses], samples))
    for name, verses, samples in recordings:
        rows = []
        for speed in (1.0, *OTHER_SPEEDS):
            played = samples if speed == 1.0 else audio.resample(samples, round(SAMPLE_RATE * speed))
            encoded = encode_samples(recognizer, played, name)
            found = identify(graph, Emissions(encoded.ctc, recognizer.bundle.frame_seconds), LEAST_STORED)
            row = {"speed": speed, "evidence": found.evidence, "verses": [str(ref) for ref in found.verses]}
            if found.verses:
                row["equal"] = [[str(ref) for ref in place.verses] for place in found.equal]
                row["agreement"] = agreement(encoded.joint, spelled(graph, found), recognizer.engine.model)
            rows.append(row)
        print(json.dumps({"audio_filepath": name, "verses": verses, "attempts": rows}), flush=True)


def telephone(samples: Samples, rng: np.random.Generator) -> Samples:
    """A clip as it might sound on a bad telephone."""
    times = np.arange(int(SAMPLE_RATE * rng.uniform(0.1, 0.5))) / SAMPLE_RATE
    echo = rng.normal(size=len(times)) * np.exp(-6.9 * times / rng.uniform(0.2, 0.6))
    echo[0] += rng.uniform(3, 12)
    size = len(samples) + len(echo)
    wave = np.fft.irfft(np.fft.rfft(samples, size) * np.fft.rfft(echo, size), size)[: len(samples)]
    hertz = np.fft.rfftfreq(len(wave), 1 / SAMPLE_RATE)
    low, high = rng.uniform(80, 300), rng.uniform(3000, 4000)
    white = np.fft.rfft(rng.normal(size=len(wave)))
    pink = np.fft.irfft(white / np.sqrt(np.maximum(hertz, 30)), len(wave))
    ratio = 10 ** (rng.uniform(0, 15) / 10)
    wave += pink * np.sqrt(np.mean(wave**2) / np.mean(pink**2) / ratio)
    band = 1 / np.sqrt((1 + (low / np.maximum(hertz, 1)) ** 4) * (1 + (hertz / high) ** 12))
    wave = np.fft.irfft(np.fft.rfft(wave) * band, len(wave))
    return np.asarray(0.7 * np.tanh(wave / np.abs(wave).max() * rng.uniform(0.8, 3)), np.float32)


def degrade(manifest: Path, folder: Path) -> None:
    lines = []
    for number, clip in enumerate(read_manifest(manifest, "letters")):
        samples = audio.read(clip.audio, clip.offset, clip.duration or None)
        name = f"{number:05}.flac"
        audio.write(folder / name, telephone(samples, np.random.default_rng(number)))
        line = {"audio_filepath": name, "duration": len(samples) / SAMPLE_RATE, "reciter": clip.reciter}
        lines.append(json.dumps(line | {"verses": [str(verse) for verse in clip.verses]}) + "\n")
    (folder / "manifest.jsonl").write_text("".join(lines), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    making = commands.add_parser("make")
    making.add_argument("folder", type=Path)
    making.add_argument("--reversed", type=Path, dest="backwards")
    scoring = commands.add_parser("score")
    scoring.add_argument("bundle", type=Path)
    scoring.add_argument("folder", type=Path)
    scoring.add_argument("--quran", type=Path)
    scoring.add_argument("--every", type=int, default=1)
    attempting = commands.add_parser("attempts")
    attempting.add_argument("bundle", type=Path)
    attempting.add_argument("folder", type=Path)
    attempting.add_argument("--quran", type=Path)
    degrading = commands.add_parser("degrade")
    degrading.add_argument("manifest", type=Path)
    degrading.add_argument("folder", type=Path)
    chosen = parser.parse_args()
    if chosen.command == "make":
        make(chosen.folder, chosen.backwards)
    elif chosen.command == "attempts":
        attempts(chosen.bundle, chosen.folder, chosen.quran)
    elif chosen.command == "degrade":
        degrade(chosen.manifest, chosen.folder)
    else:
        score(chosen.bundle, chosen.folder, chosen.quran, chosen.every)


if __name__ == "__main__":
    main()
