"""What an audit is made of: signal measurements, kinds of sounds, pace, fingerprints."""

from __future__ import annotations

import io

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from quran_asr import audio
from quran_asr.corpus.duration_model import RecitedVerse, find_shifted, fit_duration_model
from quran_asr.corpus.fingerprint import find_copies, fingerprint
from quran_asr.corpus.phone_classes import KINDS, SECONDS, phones_of_text, phones_of_verse
from quran_asr.corpus.signal import Clipping, Signal, measure, power_spectra
from quran_asr.records import VerseRef
from quran_asr.text.passages import parse_range
from quran_asr.text.quran import load_quran

RATE = 16_000


def measured(samples: np.ndarray, stored: np.ndarray | None = None) -> Signal:
    clipping = Clipping()
    clipping(np.asarray(samples if stored is None else stored, dtype=np.float32).reshape(len(samples), -1))
    samples = samples.astype(np.float32)
    return measure(samples, power_spectra(samples), clipping)


def babble(seed: int, seconds: float) -> np.ndarray:
    """Something like speech: harmonics of a wandering pitch under a wandering envelope."""
    draw = np.random.default_rng(seed)
    count = int(seconds * RATE)
    time = np.arange(count) / RATE

    def wander(rate: float) -> np.ndarray:
        knots = draw.normal(size=int(seconds * rate) + 3)
        return np.interp(time * rate, np.arange(len(knots)), knots)

    pitch = 130 * np.exp(0.15 * wander(3.0))
    phase = 2 * np.pi * np.cumsum(pitch) / RATE
    sound = sum(np.sin(k * phase) * np.exp(wander(8.0)) / k for k in range(1, 24))
    envelope = np.clip(wander(5.0) + 0.5, 0, 2)
    return (0.05 * sound * envelope).astype(np.float32)


def test_level_peak_and_bandwidth_of_known_sounds():
    time = np.arange(2 * RATE) / RATE
    tone = measured(0.5 * np.sin(2 * np.pi * 1000 * time))
    assert tone.level_db == pytest.approx(20 * np.log10(0.5 / np.sqrt(2)), abs=0.01)
    assert tone.peak_db == pytest.approx(-6.02, abs=0.01)
    assert tone.bandwidth_hz == pytest.approx(1000, abs=40)
    assert tone.seconds == 2.0 and tone.silence_share == 0.0
    white = measured(np.random.default_rng(0).normal(0, 0.1, 2 * RATE))
    assert white.bandwidth_hz == pytest.approx(0.999 * 8000, abs=20)
    silence = measured(np.zeros(RATE))
    assert silence.level_db < -100 and silence.silence_share == 1.0 and silence.bandwidth_hz == 0.0


def test_pauses_and_edges():
    tone = 0.3 * np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE)
    gap = np.zeros(RATE // 2)
    whole = measured(np.concatenate([gap, tone, gap, gap, tone, gap[: RATE // 4]]))
    assert whole.longest_pause == pytest.approx(1.0, abs=0.03)
    assert (whole.lead, whole.tail) == (pytest.approx(0.5, abs=0.03), pytest.approx(0.25, abs=0.03))
    assert whole.silence_share == pytest.approx(1.75 / 3.75, abs=0.02)
    assert whole.start_db < -60 and whole.end_db < -60
    assert measured(tone).start_db == pytest.approx(0.0, abs=1.0)


def test_clipping_is_seen_as_stored_in_the_worst_channel_and_below_full_scale():
    draw = np.random.default_rng(0)
    quiet = draw.normal(0, 0.05, 4 * RATE)
    loud = np.clip(draw.normal(0, 0.5, 4 * RATE), -1, 1)
    expected = np.mean(np.abs(loud) >= 0.99)
    assert measured((quiet + loud) / 2, np.stack([quiet, loud], axis=1)).clipped_share == pytest.approx(
        expected
    )
    # clipped by somebody, then turned down: flat tops of many equal samples
    turned_down = 0.5 * np.clip(1.5 * np.sin(np.arange(4 * RATE) / 20.0), -1, 1)
    assert measured(turned_down).clipped_share == pytest.approx(np.mean(np.abs(turned_down) == 0.5), abs=0.05)
    assert measured(quiet).clipped_share == 0.0


def test_noise_is_measured_at_every_level():
    speech = babble(1, 6.0)
    noise = np.random.default_rng(2).normal(size=len(speech))
    noise *= np.sqrt(np.mean(speech**2) / np.mean(noise**2))
    ratios = [measured(speech + noise * 10 ** (-db / 20)) for db in (0, 5, 10, 20, 40)]
    estimates = [one.snr_db for one in ratios]
    assert estimates == sorted(estimates)
    hisses = [one.hiss_db for one in ratios]
    assert hisses == sorted(hisses, reverse=True)
    # white noise has 5/16 of its energy between 5 and 7.5 kHz
    for db, hissing in zip((5, 10, 20), hisses[1:4], strict=True):
        share = 10 ** (-db / 10) / (1 + 10 ** (-db / 10))
        assert hissing == pytest.approx(10 * np.log10(share * 5 / 16), abs=5.0)


def test_phones_of_verses_counted_by_hand():
    def counted(verse: str) -> dict[str, int]:
        sounds = dict(zip(KINDS, phones_of_verse(VerseRef.parse(verse)), strict=True))
        return {kind: int(count) for kind, count in sounds.items() if count}

    # qul huwa llahu ahad: the tanwin on the last word is not pronounced, and counts little
    assert counted("112:1") == {"verses": 1, "vowels": 7, "tanwin": 1, "sukuns": 1, "shaddas": 1, "words": 4}
    # alif lam meem: two names with a vowel held in full, and alif
    assert counted("2:1") == {
        "verses": 1, "vowels": 3, "long vowels": 1, "madds": 2, "full madds": 2, "sukuns": 2, "words": 1,
    }  # fmt: skip
    # wa la d-dalleen has a full madd before a doubled letter
    assert counted("1:7")["full madds"] == 1 and counted("1:7")["held ends"] == 1
    named = [ref for ref in load_quran("uthmani").refs if counted(str(ref)).get("full madds", 0) >= 2]
    assert VerseRef(42, 2) in named and VerseRef(19, 1) in named


@given(st.sampled_from(load_quran("uthmani").refs))
def test_every_verse_has_sounds_and_a_time(ref):
    sounds = phones_of_verse(ref)
    assert len(sounds) == len(KINDS) == len(SECONDS)
    assert min(sounds) >= 0
    whole = sum(count * each for count, each in zip(sounds, SECONDS, strict=True))
    letters = len(load_quran("letters").verse(ref).replace(" ", ""))
    assert 0.08 < whole / letters < 3.0
    assert sum(phones_of_text(load_quran("letters").verse(ref))) > 0


def durations(refs, seed: int, speed: float = 1.3, scatter: float = 0.08) -> list[float]:
    draw = np.random.default_rng(seed)
    usual = [sum(np.multiply(phones_of_verse(ref), SECONDS)) for ref in refs]
    return [float(speed * one * np.exp(draw.normal(0, scatter))) for one in usual]


def test_the_pace_is_found_among_faults():
    refs = load_quran("letters").refs[5000:5400]
    seconds = durations(refs, 0)
    draw = np.random.default_rng(1)
    for wrong in draw.choice(400, 80, replace=False):  # every fifth clip
        seconds[wrong] *= float(draw.choice([0.5, 0.6, 2.0]))
    duration_model = fit_duration_model([phones_of_verse(ref) for ref in refs], seconds)
    assert duration_model.scatter == pytest.approx(0.08, abs=0.012)
    errors = [
        np.log(
            duration_model.expected(phones_of_verse(ref))
            / (1.3 * sum(np.multiply(phones_of_verse(ref), SECONDS)))
        )
        for ref in refs
    ]
    assert np.abs(errors).max() < 0.15


def test_few_clips_give_the_usual_sounds_at_their_own_speed():
    refs = parse_range("108")
    duration_model = fit_duration_model(
        [phones_of_verse(ref) for ref in refs], durations(refs, 0, speed=0.7, scatter=0.0)
    )
    assert np.divide(duration_model.seconds, SECONDS) == pytest.approx(0.7, abs=0.01)


def test_shifted_runs_are_found_and_little_else():
    refs = [*parse_range("37"), *parse_range("56")]
    right = beside = 0
    for seed in range(12):
        by = 1 if seed % 2 else -1
        seconds = durations(refs, seed)
        duration_model = fit_duration_model([phones_of_verse(ref) for ref in refs], seconds)
        clips = [
            RecitedVerse(i, ref, length) for i, (ref, length) in enumerate(zip(refs, seconds, strict=True))
        ]
        assert find_shifted(clips, duration_model) == []
        start = 5 + 20 * seed % 150
        run = range(start, start + 15)
        moved = [
            RecitedVerse(i, one.ref, seconds[i + by] if i in run else one.seconds)
            for i, one in enumerate(clips)
        ]
        found = {
            clip for shift in find_shifted(moved, duration_model) if shift.by == by for clip in shift.clips
        }
        right += len(found & set(run))
        beside += len(found - set(run))
    assert right >= 0.75 * 12 * 15
    assert beside <= 0.1 * 12 * 15


def through_codec(samples: np.ndarray, container: str, subtype: str, rate: int) -> np.ndarray:
    memory = io.BytesIO()
    soundfile.write(memory, audio.resample(samples, RATE, rate), rate, format=container, subtype=subtype)
    memory.seek(0)
    back, stored = soundfile.read(memory, dtype="float32")
    return audio.resample(back, stored)


@pytest.mark.slow
def test_copies_are_found_after_codec_rate_gain_and_trimming_and_nothing_else():
    clips = [babble(seed, 4.0 + seed % 3) for seed in range(30)]
    changed = {
        3: through_codec(clips[3], "OGG", "OPUS", 24_000),
        7: 0.2 * through_codec(clips[7], "MP3", "MPEG_LAYER_III", 44_100),
        11: clips[11][RATE // 3 + 77 :],
        15: np.concatenate([np.zeros(5000, np.float32), clips[15]]),
    }
    prints = [fingerprint(power_spectra(one)) for one in [*clips, *changed.values()]]
    found = {(copy.first, copy.second): copy for copy in find_copies(prints)}
    assert set(found) == {(original, 30 + place) for place, original in enumerate(changed)}
    assert found[11, 32].later == pytest.approx(-(RATE // 3 + 77) / RATE, abs=0.05)
    assert found[15, 33].later == pytest.approx(5000 / RATE, abs=0.05)


def test_a_part_of_a_longer_recording_is_found_as_a_part():
    long = babble(5, 12.0)
    prints = [fingerprint(power_spectra(one)) for one in (long, long[3 * RATE : 8 * RATE], babble(6, 5.0))]
    (copy,) = find_copies(prints)
    assert (copy.first, copy.second) == (0, 1)
    assert copy.overlap > 0.95 and copy.overlap_of_longer == pytest.approx(5 / 12, abs=0.03)


def test_silence_and_clips_of_a_moment_have_no_copies():
    silent = [fingerprint(power_spectra(np.zeros(count, np.float32))) for count in (10, 800, 50_000, 50_000)]
    assert find_copies(silent) == [] and find_copies([]) == []
