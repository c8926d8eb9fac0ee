"""Sound that is no sound, streams that break, and neighbours who do not notice."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import quran_asr
from quran_asr import audio
from quran_asr.decoding.decoder import EncoderOutput, Model, SearchResult
from quran_asr.decoding.options import DECODERS, Decoding
from quran_asr.decoding.partial import NOTHING
from quran_asr.errors import QuranAsrError
from quran_asr.records import Hypothesis
from quran_asr.runtime.recognizer import Recognizer, results


@pytest.fixture(scope="module", params=["transducer", "ctc", "transducer-beam", "ctc-beam"])
def recognizer(small_bundle: Path, request: pytest.FixtureRequest) -> Recognizer:
    return quran_asr.load(small_bundle, decoder=request.param, look_ahead_ms=80)


@pytest.fixture(scope="module")
def transducer(small_bundle: Path) -> Recognizer:
    return quran_asr.load(small_bundle, look_ahead_ms=480)


def put(voice: np.ndarray, value: float) -> np.ndarray:
    return np.where(np.arange(len(voice)) == 40_000, value, voice)


@pytest.mark.parametrize(
    ("damage", "message", "do"),
    [
        (lambda voice: put(voice, np.nan), r"at 2\.50 s .* not a number", "finite"),
        (lambda voice: put(voice, np.inf), "not a number", "finite"),
        (lambda voice: voice * 32_768, "audio lies within -1 and 1", "int16"),
        (lambda voice: (voice * 1000).astype(np.int32), "samples come as int32", "int16 or float32"),
        (lambda voice: voice.reshape(2, 3, -1), r"samples come as \[2, 3, 16000\]", "frames, channels"),
    ],
)
def test_what_is_no_sound_is_refused_with_a_remedy(damage, message, do, transducer, voice) -> None:
    with pytest.raises(QuranAsrError, match=message) as refused:
        transducer.recognize(damage(voice.astype(np.float64)))
    assert do in refused.value.remedy


def test_a_page_instead_of_sound_is_called_a_page(transducer, tmp_path: Path) -> None:
    (tmp_path / "a.mp3").write_text("<!DOCTYPE html><html>404</html>")
    with pytest.raises(QuranAsrError, match=r"a\.mp3: a web page, not audio") as refused:
        transducer.recognize(tmp_path / "a.mp3")
    assert "download it again" in refused.value.remedy


@pytest.mark.parametrize("rate", [3, 3_999, 400_000])
def test_a_rate_that_no_recording_has_is_refused(rate, transducer, voice) -> None:
    with pytest.raises(QuranAsrError, match="its rate is"):
        transducer.recognize(voice, rate)


def test_int16_stereo_and_float_are_the_same_sound(transducer, voice) -> None:
    whole = np.round(voice * 30_000).astype(np.int16)
    transcript = transducer.recognize(whole)
    assert transcript.text
    assert transducer.recognize(whole.astype(np.float32) / 32_768) == transcript
    assert transducer.recognize(np.stack([whole, whole], axis=1)) == transcript


@pytest.mark.parametrize("rate", [8_000, 44_100])
def test_another_rate_is_recognized_as_the_file_of_it(rate, transducer, voice, tmp_path: Path) -> None:
    other = audio.resample(voice, 16_000, rate)
    audio.write(tmp_path / "other.wav", other, rate)
    stored = audio.read(tmp_path / "other.wav")
    stream = transducer.stream()
    whole = np.rint(other * 32_767).astype(np.int16)
    for start in range(0, len(whole), 999):
        stream.accept(whole[start : start + 999], rate)
    stream.finish()
    assert stream.transcript.text == transducer.recognize(stored).text
    assert transducer.recognize(tmp_path / "other.wav").text == stream.transcript.text


def test_a_stream_ends_once_and_keeps_its_rate(transducer, voice) -> None:
    stream = transducer.stream(where="hall")
    stream.accept(voice)
    with pytest.raises(QuranAsrError, match="hall: the rate changes from 16,000 to 44,100 Hz") as refused:
        stream.accept(voice, 44_100)
    assert "new stream" in refused.value.remedy
    stream = transducer.stream()
    stream.accept(voice)
    stream.finish()
    assert stream.finish().committed == ()
    with pytest.raises(QuranAsrError, match="more audio after the end") as refused:
        stream.accept(voice)
    assert "recognizer.stream()" in refused.value.remedy
    assert stream.transcript == transducer.recognize(voice)


def test_a_broken_stream_leaves_its_neighbours_as_they_would_be_alone(recognizer, voice) -> None:
    """One is given NaN, one's encoder state is NaN from the second second on, two are well."""
    sounds = [voice, voice[::-1].copy(), voice[:70_000], np.roll(voice, 50_000)]
    alone = [recognizer.recognize(sound).text for sound in sounds]
    assert alone[0] and alone[3] and alone[0] != alone[3]
    streams = [recognizer.stream(where=name) for name in ("well", "fed NaN", "spoilt", "well too")]
    for start in range(0, 96_000, 1_600):
        if start == 32_000:
            with pytest.raises(QuranAsrError, match=r"fed NaN: at 2\.00 s"):
                streams[1].push(np.full(1_600, np.nan, np.float32))
            nothing = np.full_like(streams[2].encoder.keys, np.nan)
            streams[2].encoder = replace(streams[2].encoder, keys=nothing)
        for stream, sound in zip(streams, sounds, strict=True):
            if stream.error is None and start < len(sound):
                stream.push(sound[start : start + 1_600])
        recognizer.advance(streams)
    for stream in streams:
        stream.end()
    recognizer.advance(streams)
    assert streams[0].transcript.text == alone[0]
    assert streams[3].transcript.text == alone[3]
    assert "not numbers" in str(streams[2].error) and "spoilt" in str(streams[2].error)
    with pytest.raises(QuranAsrError, match=r"spoilt: from about 1\.9 s"):
        streams[2].accept(voice)
    with pytest.raises(QuranAsrError, match="fed NaN"):
        streams[1].finish()
    kept = [word.text for word in streams[1].words]  # what was certain before stays
    assert kept == alone[1].split()[: len(kept)]


def test_a_search_that_breaks_breaks_its_own_stream_only(small_bundle: Path, voice) -> None:
    def broken(text):
        return replace(text, predicted=np.full_like(text.predicted, np.nan))

    recognizer = quran_asr.load(small_bundle, look_ahead_ms=80)
    alone = recognizer.recognize(voice).text
    well, ill = recognizer.stream(), recognizer.stream(where="ill")
    for start in range(0, len(voice), 4_000):
        if start == 40_000:
            ill.search = replace(ill.search, texts=tuple(broken(text) for text in ill.search.texts))
        for stream in (well, ill):
            if stream.error is None:
                stream.push(voice[start : start + 4_000])
        recognizer.advance([ill, well])
    well.end()
    recognizer.advance([ill, well])
    assert well.transcript.text == alone
    assert "hold NaN" in str(ill.error)


@pytest.mark.parametrize("samples", [0, 1, 159, 1_540, 14_340, 16_900, 24_000])
def test_what_was_shown_last_is_not_lost_at_the_end(samples, recognizer, voice) -> None:
    """Also where the last piece of sound completed the last frame, so that the end brings no new one."""
    shown = list(results(recognizer, voice[:samples]))
    words = [word.text for result in shown for word in result.committed]
    assert " ".join(words) == recognizer.recognize(voice[:samples]).text
    assert shown[-1].partial == ()


def test_waiting_for_more_sound_changes_nothing_that_is_shown(recognizer, voice) -> None:
    stream = recognizer.stream()
    before = stream.accept(voice[:50_000])
    after = stream.accept(voice[50_000:50_010])
    assert after.committed == ()
    assert after.partial == before.partial


def test_an_8_bit_graph_does_not_carry_nan_to_a_neighbour(
    small_bundle: Path, voice, tmp_path: Path, redescribe
) -> None:
    """It scales a batch as one: beside a stream of NaN every number of the batch would be NaN."""
    from quran_asr.export.graphs import quantize

    folder = Path(shutil.copytree(small_bundle, tmp_path / "bundle"))
    quantize(small_bundle / "encoder.onnx", folder / "encoder.onnx")
    redescribe(folder, lambda described: described.update(precision="int8"))
    recognizer = quran_asr.load(folder, look_ahead_ms=80, decoder="transducer")
    streams = well, ill = recognizer.stream(), recognizer.stream(where="ill")
    for part in (voice[:48_000], voice[48_000:]):
        for stream in streams:
            stream.push(part)
        recognizer.advance(streams)
        nothing = np.full_like(ill.encoder.keys, np.nan)
        ill.encoder = replace(ill.encoder, keys=nothing, values=nothing)
    assert "not numbers" in str(ill.error)
    assert well.error is None and len(well.words) > len(ill.words) > 0


def test_a_stream_is_moved_once_and_by_its_own_recognizer(small_bundle, transducer) -> None:
    stream = transducer.stream()
    with pytest.raises(QuranAsrError, match="named twice"):
        transducer.advance([stream, stream])
    with pytest.raises(QuranAsrError, match="another recognizer"):
        quran_asr.load(small_bundle).advance([stream])


def test_a_caller_may_use_its_buffer_again(recognizer, voice) -> None:
    stream, buffer = recognizer.stream(), np.zeros(320, np.float32)
    for start in range(0, len(voice) - 320, 320):
        buffer[:] = voice[start : start + 320]
        stream.accept(buffer)
    stream.finish()
    assert stream.transcript.text == recognizer.recognize(voice[: start + 320]).text


class FirstBest:
    """A decoder of this file: the first token of every chunk that is not blank."""

    def __init__(self, decoding: Decoding, model: Model) -> None:
        self.blank, self.start = model.blank, 0

    def step(self, chunks: Sequence[EncoderOutput], states: Sequence[int]) -> list[SearchResult]:
        results = []
        for chunk, frame in zip(chunks, states, strict=True):
            best = chunk.ctc.argmax(axis=1).tolist()
            found = [(token, frame + i) for i, token in enumerate(best) if token != self.blank][:1]
            tokens, frames = tuple(token for token, _ in found), tuple(frame for _, frame in found)
            results.append(SearchResult(Hypothesis(tokens, frames, 0.0), state=frame + len(best)))
        return results

    def draft(self, state: int) -> Hypothesis:
        return NOTHING


def test_a_new_decoder_is_a_class_and_a_line_in_the_table(small_bundle: Path, voice, monkeypatch) -> None:
    monkeypatch.setitem(DECODERS, "first-best", f"{__name__}:FirstBest")
    recognizer = quran_asr.load(small_bundle, decoder="first-best", look_ahead_ms=80)
    assert recognizer.recognize(voice).text
    assert recognizer.decoder == "first-best"


def test_where_an_utterance_may_end_does_not_depend_on_the_level(transducer, voice) -> None:
    """What lies before a recording is silence, and no sound that all the rest is soft beside."""

    def allowed(samples: np.ndarray) -> list[bool]:
        stream = transducer.stream()
        stream.push(samples)
        stream.end()
        found: list[bool] = []
        while frames := stream.ready():
            found += stream.may_end(stream.take(frames)).tolist()
            stream.encoder = replace(stream.encoder, frames=stream.encoder.frames + frames)
        return found

    samples = np.concatenate([voice, np.zeros(12_000, np.float32), voice[:16_000]]).astype(np.float32)
    loud, soft = allowed(samples), allowed(np.float32(0.03) * samples)
    assert loud == soft
    assert not any(loud[: len(voice) // 1280])
    assert any(loud[len(voice) // 1280 :])
