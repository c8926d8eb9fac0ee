"""A model in torch, fed piece by piece: NeMo's frames, and the words of the bundle exported from it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from quran_asr import audio
from quran_asr.errors import QuranAsrError
from quran_asr.records import Segment, Transcript
from quran_asr.runtime.recognizer import load

pytest.importorskip("nemo", reason="needs the extra train")

import torch

from quran_asr.export.verification import nemo_transcribes
from quran_asr.training.model import look_aheads, set_look_ahead
from quran_asr.training.recognizer import (
    OfflineRecognizer,
    StreamingRecognizer,
    load_model,
    load_recognizer,
    recognizer_of,
    windows,
)

pytestmark = pytest.mark.slow

PAUSE = 0.6
"""Seconds of silence between the recitations of the long recording."""


@pytest.fixture(scope="module")
def nemo(small_bundle: Path) -> Path:
    return small_bundle.parent / "model.nemo"


@pytest.fixture(scope="module")
def long(voice: NDArray[np.float32], tmp_path_factory: pytest.TempPathFactory) -> Segment:
    """Seventy seconds in which a voice of growing length comes and goes."""
    silence = np.zeros(round(PAUSE * 16_000), np.float32)
    parts: list[NDArray[np.float32]] = []
    while sum(map(len, parts)) < 70 * 16_000:
        parts += [np.roll(voice, 1_000 * len(parts))[: 16_000 + 4_000 * len(parts)], silence]
    path = tmp_path_factory.mktemp("long") / "long.wav"
    samples = np.concatenate(parts)
    audio.write(path, samples)
    return Segment(str(path), 0.0, len(samples) / 16_000, (), "", "")


@pytest.mark.parametrize(
    ("decoder", "look_ahead", "pause"),
    [("transducer", None, 0.4), ("transducer", 0, None), ("ctc", 80, 0.4), ("transducer-beam", None, 0.4)],
)
def test_a_model_gives_the_words_of_its_bundle_on_a_long_recording(
    nemo: Path, small_bundle: Path, long: Segment, decoder: str, look_ahead: int | None, pause: float | None
) -> None:
    bundle = load(small_bundle, decoder=decoder, look_ahead_ms=look_ahead, pause_seconds=pause)
    model = load_recognizer(nemo, decoder, look_ahead, pause)
    expected = bundle.recognize(long.audio)
    short = Segment(long.audio, 3.0, 2.5, (), "", "")
    first, answer, last = model.recognize_clips([short, long, short])
    assert isinstance(answer, Transcript)
    assert answer.text == expected.text
    assert len(answer.text) > 50  # silence would prove nothing
    assert [(word.start, word.end) for word in answer.words] == [
        (word.start, word.end) for word in expected.words
    ]
    assert first == last
    assert isinstance(first, Transcript)
    assert first.text == bundle.recognize(audio.read(short.audio, short.offset, short.duration)).text


def test_frames_fed_in_pieces_are_those_of_nemos_whole_file_pass(nemo: Path, long: Segment) -> None:
    recognizer = load_recognizer(nemo, "ctc")
    assert isinstance(recognizer, StreamingRecognizer)
    samples = audio.read(long.audio)[: 30 * 16_000]
    model = recognizer.engine.sessions.model  # type: ignore[attr-defined]
    for ms, context in look_aheads(model).items():
        set_look_ahead(model, context)
        expected, _ = nemo_transcribes(model, samples)
        stream = recognizer.stream(look_ahead_ms=ms)
        scores = np.concatenate(list(recognizer.engine.emissions(stream, np.array_split(samples, 7))))
        assert scores.shape == expected.shape
        np.testing.assert_allclose(scores, expected, atol=1e-3)


def test_memory_does_not_grow_with_the_recording(nemo: Path, long: Segment) -> None:
    """What is kept of a stream, and what is encoded at once, are bounded."""
    recognizer = load_recognizer(nemo)
    assert isinstance(recognizer, StreamingRecognizer)
    sizes: list[int] = []
    encode = recognizer.engine.sessions.encode

    def watched(*given: object) -> object:
        encoded, states = encode(*given)  # type: ignore[arg-type]
        sizes.append(given[0].shape[1])  # type: ignore[attr-defined]
        sizes.append(
            sum(part.untyped_storage().nbytes() for part in (states[0].attention, states[0].convolution))
        )
        return encoded, states

    recognizer.engine.sessions.encode = watched  # type: ignore[method-assign, assignment]
    next(iter(recognizer.recognize_clips([long])))
    assert max(sizes[::2]) <= 8 * recognizer.bundle.shape.left_frames + 7
    assert len(set(sizes[1::2])) == 1


def test_a_model_that_needs_whole_recordings_is_given_parts(nemo: Path, long: Segment) -> None:
    recognizer = load_recognizer(nemo)
    assert isinstance(recognizer, StreamingRecognizer)
    model = recognizer.engine.sessions.model  # type: ignore[attr-defined]
    with torch.inference_mode():
        whole = OfflineRecognizer(model, "whole", "transducer", None)
        (answer,) = whole.recognize_clips([Segment(long.audio, 0.0, 10.0, (), "", "")])
    unpaused = load_recognizer(nemo, "transducer", pause_seconds=None)
    (same,) = unpaused.recognize_clips([Segment(long.audio, 0.0, 10.0, (), "", "")])
    assert isinstance(answer, Transcript)
    assert isinstance(same, Transcript)
    assert answer.text == same.text


def test_the_default_is_beam_search_where_there_is_one(nemo: Path, small_bundle: Path) -> None:
    assert load(small_bundle).decoder == "transducer-beam"
    assert load_recognizer(nemo).decoder == "transducer-beam"
    model, _ = load_model(nemo)
    model.preprocessor.featurizer.preemph = 0.5  # no stream can make these features
    assert recognizer_of(model, "whole").decoder == "transducer"
    with pytest.raises(QuranAsrError, match="whole recordings, which transducer-beam cannot search"):
        recognizer_of(model, "whole", "transducer-beam")


def test_a_model_whose_features_no_stream_can_make_is_given_the_whole(nemo: Path) -> None:
    model, _ = load_model(nemo)
    assert isinstance(recognizer_of(model, "ours"), StreamingRecognizer)
    model.preprocessor.featurizer.preemph = 0.5
    assert isinstance(recognizer_of(model, "another emphasis"), OfflineRecognizer)
    model, _ = load_model(nemo)
    model.cfg.preprocessor.normalize = "per_feature"
    assert isinstance(recognizer_of(model, "normalized"), OfflineRecognizer)


def test_windows_hold_a_bounded_number_of_seconds() -> None:
    clips = [Segment("a", 0.0, seconds, (), "", "") for seconds in (1.0, 2000.0, 300.0, 299.0, 2.0)]
    assert [[clip.duration for clip in window] for window in windows(clips)] == [
        [1.0],
        [2000.0],
        [300.0, 299.0],
        [2.0],
    ]
    many = [Segment("a", 0.0, 1.0, (), "", "")] * 130
    assert [len(window) for window in windows(many)] == [64, 64, 2]
