from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from quran_asr.audio import CODECS, Codec, through
from quran_asr.config.recipe import RecipeError, load_recipe
from quran_asr.config.schema import Augment
from quran_asr.corpus.effects import (
    at_tempo,
    decaying_response,
    equalize,
    in_room,
    low_pass,
    with_noise,
    without_silence,
)
from quran_asr.training.data.augmentation import augment, draw_timing, impulse_responses, without_changes

Sound = NDArray[np.float32]


def asked(**changes: Any) -> Augment:
    nothing = load_recipe("base").quran.augment
    assert nothing is not None
    return replace(nothing, **changes)


def tone(hertz: float) -> Sound:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(16_000) / 16_000)).astype(np.float32)


def voice() -> Sound:
    """A second of a buzz at 140 Hz with overtones up to 3.9 kHz, which comes and goes."""
    seconds = np.arange(16_000) / 16_000
    buzz = sum(np.sin(2 * np.pi * 140 * k * seconds + k) / k for k in range(1, 28))
    return (0.2 * buzz * (0.55 + 0.45 * np.sin(2 * np.pi * 3 * seconds))).astype(np.float32)


def seconds_of_decay(response: Sound) -> float:
    """Until 60 dB less are left, from the way from -5 to -25 dB of the energy still to come (ISO 3382)."""
    left = np.cumsum((response**2)[::-1])[::-1]
    level = 10 * np.log10(np.maximum(left / left[0], 1e-12))
    return 3 * (int((level < -25).argmax()) - int((level < -5).argmax())) / 16_000


def decibels(ratio: float) -> float:
    return 20 * float(np.log10(ratio))


def test_low_pass_keeps_what_is_below_and_removes_what_is_above() -> None:
    mixed = tone(1000) + tone(6000)
    passed = low_pass(mixed, 4000)
    assert passed.dtype == np.float32
    assert np.abs(passed - tone(1000)).max() < 0.01
    assert np.array_equal(low_pass(mixed, 8000), mixed)


def test_gain_stays_in_its_range_and_both_ways() -> None:
    drawn = random.Random(0)
    settings = asked(gain_db=6.0)
    peaks = [np.abs(augment(tone(500), settings, drawn)).max() / 0.5 for _ in range(200)]
    assert 10 ** (-6 / 20) <= min(peaks) < 0.6
    assert 1.8 < max(peaks) <= 10 ** (6 / 20) + 1e-6


def test_speed_changes_the_length() -> None:
    drawn = random.Random(0)
    settings = asked(speed=(0.9, 1.1))
    lengths = sorted({len(augment(tone(500), settings, drawn)) for _ in range(20)})
    assert lengths == pytest.approx([16_000 / 1.1, 16_000 / 0.9], abs=2)


def test_nothing_asked_nothing_changed_and_the_source_is_never_written_to() -> None:
    source = tone(500)
    before = source.copy()
    off = asked()
    assert np.array_equal(augment(source, off, random.Random(0)), before)
    on = asked(gain_db=9.0, lowpass_probability=1.0, lowpass_hz=(3000.0, 4000.0), speed=(0.9,))
    augment(source, on, random.Random(0))
    assert np.array_equal(source, before)


def test_the_same_seed_draws_the_same() -> None:
    settings = asked(gain_db=9.0, lowpass_probability=0.5, lowpass_hz=(3000.0, 4000.0), speed=(0.9, 1.0))

    def draw() -> list[float]:
        drawn = random.Random(7)
        return [float(np.abs(augment(tone(500), settings, drawn)).sum()) for _ in range(5)]

    assert draw() == draw()


def test_the_tone_is_bent_octave_by_octave() -> None:
    gains = [0.0, 0.0, 0.0, 0.0, 6.0, 0.0, -9.0, 0.0]  # 1 kHz and 4 kHz
    for hertz, gain in ((500, 0.0), (1000, 6.0), (2000, 0.0), (4000, -9.0)):
        bent = equalize(tone(hertz), gains)
        assert bent.dtype == np.float32
        assert decibels(np.abs(bent[4000:12000]).max() / 0.5) == pytest.approx(gain, abs=0.05)


@pytest.mark.slow
@given(snr=st.floats(-5, 40), seed=st.integers(0, 99))
def test_noise_lies_as_far_below_the_clip_as_asked(snr: float, seed: int) -> None:
    source = voice()
    noise = with_noise(source, snr, random.Random(seed)) - source
    assert decibels(np.sqrt((source**2).mean() / (noise**2).mean())) == pytest.approx(snr, abs=0.1)


def test_noise_beneath_silence_is_silent() -> None:
    assert not with_noise(np.zeros(800, np.float32), 10.0, random.Random(0)).any()


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.subtype)
def test_a_codec_changes_the_clip_and_keeps_its_time_level_and_length(codec: Codec) -> None:
    source = 3 * voice()  # above full scale
    coded = through(codec, source)
    assert coded.dtype == np.float32
    assert coded.shape == source.shape
    inner = slice(2000, 14_000)

    def likeness(shift: int) -> float:
        moved = coded[inner.start + shift : inner.stop + shift]
        return float(np.corrcoef(source[inner], moved)[0, 1])

    assert max(range(-60, 61), key=likeness) == 0
    assert 0.9 < likeness(0) < 0.999_999
    assert decibels(np.std(coded[inner]) / np.std(source[inner])) == pytest.approx(0, abs=1)


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.subtype)
@pytest.mark.parametrize("length", [0, 1, 7, 161, 1000])
def test_a_codec_takes_clips_of_any_length(codec: Codec, length: int) -> None:
    coded = through(codec, voice()[:length])
    assert coded.shape == (length,)
    assert np.isfinite(coded).all()


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.subtype)
def test_a_codec_survives_clipped_audio_and_nan(codec: Codec) -> None:
    clipped = np.clip(8 * voice(), -1, 1)  # resampling overshoots at its corners
    inner = slice(2000, 14_000)
    assert np.corrcoef(clipped[inner], through(codec, clipped)[inner])[0, 1] > 0.9
    broken = np.full(1000, np.nan, np.float32)
    assert through(codec, broken) is broken


def test_an_empty_clip_stays_empty() -> None:
    settings = asked(equalizer_db=6.0, lowpass_probability=1.0, noise_probability=1.0, codec_probability=1.0)
    assert len(augment(np.zeros(0, np.float32), settings, random.Random(0))) == 0


@pytest.mark.slow
def test_rooms_echo_as_long_as_asked_and_begin_with_the_direct_sound() -> None:
    dry, wet = (impulse_responses(seconds, seed=0, count=6) for seconds in ((0.1, 0.15), (0.7, 0.8)))
    for response in (*dry, *wet):
        assert response[0] > 0.5 * np.abs(response).max()  # one wall's echo may be louder than the voice
        assert float((response**2).sum()) == pytest.approx(1, abs=1e-4)

    def direct(responses: tuple[Sound, ...]) -> float:  # share of the energy in the first 10 ms
        return float(np.mean([(response[:160] ** 2).sum() for response in responses]))

    assert direct(dry) > direct(wet) + 0.2
    decays = [seconds_of_decay(response) for response in wet]
    assert 0.6 < float(np.median(decays)) < 1.0
    again = impulse_responses((0.7, 0.8), seed=0, count=6)
    other = impulse_responses((0.7, 0.8), seed=1, count=6)
    assert all(map(np.array_equal, wet, again))
    assert not any(map(np.array_equal, wet, other))


def test_a_room_adds_what_came_before() -> None:
    click = np.zeros(4000, np.float32)
    click[1000] = 1.0
    response = impulse_responses((0.3, 0.4), seed=0, count=1)[0]
    reverberant = in_room(click, response)
    assert reverberant.dtype == np.float32
    assert len(reverberant) == len(click)
    assert np.abs(reverberant[:1000]).max() < 1e-6
    assert reverberant[1000:] == pytest.approx(response[:3000], abs=1e-6)


def test_everything_at_once_keeps_the_length_but_for_the_speed() -> None:
    settings = asked(
        gain_db=6.0,
        equalizer_db=6.0,
        lowpass_probability=1.0,
        noise_probability=1.0,
        room_probability=1.0,
        codec_probability=1.0,
    )
    rooms = impulse_responses(settings.room_seconds, 0, 3)
    source = voice()
    changed = [augment(source, settings, random.Random(seed), rooms) for seed in range(12)]
    assert {(len(one), one.dtype) for one in changed} == {(16_000, np.dtype(np.float32))}
    assert all(np.isfinite(one).all() and one.any() for one in changed)
    assert np.array_equal(source, voice())


def strongest_hertz(samples: Sound) -> float:
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(np.argmax(spectrum) * 16_000 / len(samples))


@pytest.mark.parametrize("factor", [0.4, 0.65, 0.9, 1.2, 2.0])
@pytest.mark.parametrize("hertz", [90, 220, 1_700])
def test_the_tempo_changes_the_length_and_not_the_pitch(factor: float, hertz: int) -> None:
    source = tone(hertz)
    changed = at_tempo(source, factor)
    assert (len(changed), changed.dtype) == (round(16_000 / factor), np.float32)
    assert strongest_hertz(changed) == pytest.approx(hertz, abs=3)
    middle = changed[len(changed) // 8 : -len(changed) // 8]
    assert level_db(middle) == pytest.approx(level_db(source), abs=0.5)  # frames fit, nothing cancels


def test_at_another_tempo_everything_comes_at_its_place() -> None:
    source = np.concatenate([np.zeros(8000, np.float32), tone(300)[:4000], np.zeros(4000, np.float32)])
    slow = at_tempo(source, 0.5)
    heard = np.flatnonzero(np.abs(slow) > 0.1 * np.abs(source).max())
    assert heard[0] == pytest.approx(16_000, abs=480) and heard[-1] == pytest.approx(24_000, abs=480)
    assert at_tempo(source, 1.0) is source
    for length in range(0, 1300, 13):
        assert len(at_tempo(tone(200)[:length], 0.7)) == round(length / 0.7)
    assert not at_tempo(np.zeros(3000, np.float32), 0.6).any()


@pytest.mark.parametrize("factor", [0.8, 1.15, 1.45])
@pytest.mark.parametrize("tempo", [0.75, 1.0, 1.2])
def test_a_higher_voice_keeps_its_tempo(factor: float, tempo: float) -> None:
    source = np.concatenate([np.zeros(8000, np.float32), tone(400), np.zeros(8000, np.float32)])
    settings = asked(voice=(factor,), tempo=(tempo,))
    changed = augment(source, settings, random.Random(0))
    planned = draw_timing(settings, random.Random(0)).seconds(len(source) / 16_000)
    assert planned == pytest.approx(2 / tempo) and abs(len(changed) / 16_000 - planned) < 0.001
    assert strongest_hertz(changed) == pytest.approx(400 * factor, abs=3)
    heard = np.flatnonzero(np.abs(changed) > 0.1 * np.abs(source).max())
    assert heard[0] == pytest.approx(8000 / tempo, abs=480)
    assert heard[-1] == pytest.approx(24_000 / tempo, abs=480)


def test_voices_are_drawn() -> None:
    several = asked(voice=(0.9, 1.0, 1.3))
    drawn = random.Random(1)
    assert {draw_timing(several, drawn).voice for _ in range(60)} == {0.9, 1.0, 1.3}


@pytest.mark.parametrize(
    ("seed", "expected"),  # draw_timing(settings, random.Random(seed)) before `voice` was a key (2843ae3)
    [
        (3, (0.9, 0.5470791195270435, 0.0)),
        (8, (0.9, 0.0, 0.7451503421493032)),
        (11, (1.0, 1.0966545592183772, 0.9693835691894994)),
    ],
)
def test_recipes_without_voices_keep_their_draws(seed: int, expected: tuple[float, ...]) -> None:
    settings = asked(silence_probability=0.5, speed=(0.9, 1.0, 1.1))
    timing = draw_timing(settings, random.Random(seed))
    assert (timing.speed, timing.before, timing.after) == expected


def test_bounds_that_are_upside_down_are_refused() -> None:
    for key in ("lowpass_hz=[5000,3000]", "noise_snr_db=[20,5]", "room_seconds=[0.8,0.2]"):
        with pytest.raises(RecipeError, match="lower bound exceeds upper bound"):
            load_recipe("base", [f"quran.augment.{key}"])


def level_db(samples: Sound) -> float:
    return decibels(float(np.sqrt(np.mean(np.square(samples, dtype=np.float64)))))


@pytest.mark.slow
def test_levels_are_drawn_from_their_range_whatever_the_clip_had() -> None:
    drawn = random.Random(0)
    settings = asked(level_db=(-50.0, -6.0))
    levels = [level_db(augment(voice() * np.float32(gain), settings, drawn)) for gain in (0.01, 1, 4) * 60]
    assert min(levels) >= -50.01 and max(levels) <= -5.99
    assert min(levels) < -45 and max(levels) > -11
    silent = np.zeros(800, np.float32)
    assert np.array_equal(augment(silent, settings, drawn), silent)


@pytest.mark.slow
def test_silence_is_put_at_both_ends_as_the_plan_of_the_batch_expects() -> None:
    settings = asked(silence_probability=0.6, silence_seconds=(0.1, 1.5), speed=(0.9, 1.1), tempo=(0.6, 1.2))
    source = voice()
    lengths = []
    for seed in range(200):
        changed = augment(source, settings, random.Random(seed))
        planned = draw_timing(settings, random.Random(seed)).seconds(len(source) / 16_000)
        assert abs(len(changed) / 16_000 - planned) < 0.001
        lengths.append(planned)
    assert min(lengths) < 1.0 < 3.6 < max(lengths)
    always = asked(silence_probability=1.0, silence_seconds=(0.2, 1.5))
    openings = [augment(source, always, random.Random(seed))[:3200] for seed in range(100)]
    digital = sum(not opening.any() for opening in openings)
    assert 25 < digital < 75, "digital silence and room tone both come"
    quiet = level_db(source) - 25
    assert all(level_db(opening) < quiet for opening in openings if opening.any())


def test_a_tight_clip_begins_and_ends_with_the_voice() -> None:
    padded = np.concatenate([np.zeros(8000, np.float32), tone(500), np.zeros(4000, np.float32)])
    tight = augment(padded, asked(tight_probability=1.0), random.Random(0))
    assert 16_000 <= len(tight) <= 16_000 + 2 * 320
    silent = np.zeros(4000, np.float32)
    assert np.array_equal(without_silence(silent), silent)


def test_an_overdriven_clip_keeps_its_peak_and_loses_its_crests() -> None:
    clip = augment(voice(), asked(clip_probability=1.0), random.Random(0))
    assert np.abs(clip).max() == pytest.approx(np.abs(voice()).max(), rel=1e-5)
    crest = np.abs(clip).max() / np.sqrt(np.mean(clip**2))
    assert crest < 0.6 * np.abs(voice()).max() / np.sqrt(np.mean(voice() ** 2))


def test_before_the_changes_begin_every_clip_has_the_middle_level_and_nothing_else_changes() -> None:
    compact = load_recipe("compact").quran.augment
    assert compact is not None
    plain = without_changes(compact)
    for seed in range(20):
        clip = augment(voice() * np.float32(0.1), plain, random.Random(seed))
        assert len(clip) == len(voice())
        assert level_db(clip) == pytest.approx(sum(compact.level_db or ()) / 2, abs=0.01)
        assert np.allclose(clip / np.abs(clip).max(), voice() / np.abs(voice()).max(), atol=1e-5)
    assert without_changes(asked(gain_db=9.0)) == asked()


def test_an_even_decay_takes_the_time_that_was_asked_and_keeps_the_energy() -> None:
    for seconds in (0.3, 0.8):
        response = decaying_response(seconds, 0.0)
        assert float(np.square(response).sum()) == pytest.approx(1.0, rel=1e-4)
        assert seconds_of_decay(response[100:]) == pytest.approx(seconds, rel=0.1)
        assert decibels(abs(response[0]) / float(np.sqrt(np.square(response[1:]).sum()))) == pytest.approx(
            0.0, abs=0.1
        )
