"""Language models in the runtime: streams and whole files agree, weight 0 changes nothing, n-best lists."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import quran_asr
from quran_asr import audio
from quran_asr.decoding.arpa import write_arpa
from quran_asr.decoding.fusion import Fusion
from quran_asr.decoding.options import Decoding
from quran_asr.decoding.quran_language_model import build_passage_model
from quran_asr.decoding.vocabulary import Vocabulary
from quran_asr.errors import QuranAsrError
from quran_asr.records import Segment
from quran_asr.runtime.bundle import read_bundle
from quran_asr.runtime.n_best import decode, encode_samples, recognize_n_best
from quran_asr.runtime.recognizer import Recognizer
from quran_asr.runtime.shallow_fusion import load_fusion, read_tuned, write_tuned

BEAM_DECODERS = ("transducer-beam", "ctc-beam")


@pytest.fixture(scope="module")
def recognizers(small_bundle: Path) -> dict[str, Recognizer]:
    """With random weights nearly all is blank: the bonus makes them write tokens."""
    options = {"passage": "112", "lm_weight": 0.5, "token_bonus": 4.0, "look_ahead_ms": 80, "threads": 1}
    return {name: quran_asr.load(small_bundle, decoder=name, **options) for name in BEAM_DECODERS}


@settings(max_examples=4, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(BEAM_DECODERS), cuts=st.lists(st.integers(0, 48_000), max_size=12))
def test_how_a_stream_is_cut_changes_nothing(
    recognizers: dict[str, Recognizer], voice: np.ndarray, name: str, cuts: list[int]
) -> None:
    recognizer, voice = recognizers[name], voice[:48_000]
    stream = recognizer.stream()
    for part in np.split(voice, sorted(cuts)):
        stream.accept(part)
    stream.finish()
    whole = recognizer.recognize(voice)
    assert whole.text
    words = [[(word.text, word.start, word.end) for word in one.words] for one in (whole, stream.transcript)]
    assert words[0] == words[1]


@pytest.mark.parametrize("name", BEAM_DECODERS)
def test_kept_encoder_outputs_give_the_words_of_the_recording(
    recognizers: dict[str, Recognizer], voice: np.ndarray, name: str
) -> None:
    recognizer = recognizers[name]
    piece = encode_samples(recognizer, voice)
    (text,) = decode(recognizer, [piece], recognizer.decoding)
    assert text == recognizer.recognize(voice).text
    (greedy,) = decode(recognizer, [piece], Decoding(name.removesuffix("-beam"), pause_seconds=None))
    assert greedy != text


@pytest.mark.parametrize("name", BEAM_DECODERS)
def test_weight_0_is_the_beam_without_a_language_model(
    recognizers: dict[str, Recognizer], voice: np.ndarray, name: str
) -> None:
    recognizer = recognizers[name]
    fusion = recognizer.decoding.fusion
    assert fusion is not None
    piece = encode_samples(recognizer, voice)
    with_model, without = (
        list(decode(recognizer, [piece], replace(recognizer.decoding, fusion=Fusion(model, 0.0, 4.0))))
        for model in (fusion.model, None)
    )
    assert with_model == without != [""]


@pytest.mark.parametrize("name", BEAM_DECODERS)
def test_an_n_best_list_is_sorted_and_holds_each_text_once(
    recognizers: dict[str, Recognizer], voice: np.ndarray, tmp_path: Path, name: str
) -> None:
    audio.write(tmp_path / "a.wav", voice[:32_000])
    segment = Segment(str(tmp_path / "a.wav"), 0.0, 2.0, (), "", "")
    for rescore in (False, True):
        found = recognize_n_best(recognizers[name], segment, 5, rescore=rescore)
        scores, texts = [one.score for one in found.n_best], [one.text for one in found.n_best]
        assert len(texts) == len(set(texts)) == 5
        assert scores == sorted(scores, reverse=True)
        assert found.text == texts[0]


def test_greedy_decoders_refuse_lists_and_language_models(small_bundle: Path, tmp_path: Path) -> None:
    recognizer = quran_asr.load(small_bundle, decoder="transducer")
    with pytest.raises(QuranAsrError, match="the decoder transducer has no n-best list"):
        recognize_n_best(recognizer, Segment(str(tmp_path), 0.0, 1.0, (), "", ""), 2)
    bundle = read_bundle(small_bundle)
    with pytest.raises(QuranAsrError, match="weight without a language model"):
        load_fusion(bundle, "ctc", lm_weight=1.0)
    with pytest.raises(QuranAsrError, match="both a language model and a passage"):
        load_fusion(bundle, "ctc", lm="quran", passage="112")


def test_files_of_a_language_model_are_read_and_checked(small_bundle: Path, tmp_path: Path) -> None:
    bundle = read_bundle(small_bundle)
    model = build_passage_model(bundle.vocabulary, bundle.spelling, "112")
    model.write(tmp_path / "a.npz")
    write_arpa(model, tmp_path / "a.arpa")
    for name in ("a.npz", "a.arpa"):
        fusion = load_fusion(bundle, "ctc", lm=tmp_path / name)
        assert fusion is not None and fusion.model is not None and fusion.model.sizes == model.sizes
    other = Vocabulary(tuple(reversed(bundle.vocabulary.pieces)), bundle.vocabulary.scores)
    build_passage_model(other, bundle.spelling, "112").write(tmp_path / "other.npz")
    with pytest.raises(QuranAsrError, match="built for another tokenizer"):
        load_fusion(bundle, "ctc", lm=tmp_path / "other.npz")


def test_tuned_weights_are_the_defaults_of_their_decoder(small_bundle: Path, tmp_path: Path) -> None:
    bundle = read_bundle(Path(shutil.copytree(small_bundle, tmp_path / "bundle")))
    write_tuned(bundle, "ctc-beam", {"lm_weight": 0.9, "token_bonus": 2.5, "wer": 0.1})
    write_tuned(bundle, "transducer-beam", {"lm_weight": 0.4, "token_bonus": 0.5, "wer": 0.2})
    for decoder, weights in (("ctc", (0.9, 2.5)), ("transducer", (0.4, 0.5)), ("ctc-beam", (0.9, 2.5))):
        fusion = load_fusion(bundle, decoder, passage="112")
        assert fusion is not None and (fusion.lm_weight, fusion.token_bonus) == weights
    fusion = load_fusion(bundle, "ctc", passage="112", lm_weight=0.1)
    assert fusion is not None and (fusion.lm_weight, fusion.token_bonus) == (0.1, 2.5)
    (bundle.folder / "fusion.json").write_text(json.dumps({"ctc-beam": {"lm_weight": "x"}}))
    with pytest.raises(QuranAsrError, match="does not hold tuned weights"):
        read_tuned(bundle)
