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
from quran_asr.decoding.language_model import LanguageModel
from quran_asr.decoding.options import Decoding
from quran_asr.decoding.quran_language_model import build_passage_model
from quran_asr.decoding.vocabulary import Vocabulary
from quran_asr.errors import QuranAsrError
from quran_asr.records import Segment
from quran_asr.runtime.bundle import Bundle, default_model, read_bundle
from quran_asr.runtime.n_best import decode, encode_samples, recognize_n_best
from quran_asr.runtime.recognizer import Recognizer
from quran_asr.runtime.shallow_fusion import (
    LM_WEIGHT,
    TOKEN_BONUS,
    described,
    load_fusion,
    read_model,
    read_tuned,
    write_tuned,
)

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


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    """A copy of the one in the package, with its language model of the Quran."""
    return read_bundle(Path(shutil.copytree(default_model(), tmp_path / "bundle")))


def weights(bundle: Bundle, **language: str | Path | LanguageModel) -> tuple[float, float]:
    """With which a language model is used."""
    fusion = load_fusion(bundle, "transducer", **language)
    assert fusion is not None
    return fusion.lm_weight, fusion.token_bonus


def tune(bundle: Bundle, lm: str | Path, lm_weight: float, token_bonus: float) -> None:
    """As `lm tune` stores what it has found."""
    values = {"lm_weight": lm_weight, "token_bonus": token_bonus, "wer": 0.1}
    values |= described(bundle, lm, read_model(bundle, lm))
    write_tuned(bundle, "transducer-beam", values)


def passage_model(bundle: Bundle, passage: str, path: Path) -> Path:
    build_passage_model(bundle.vocabulary, bundle.spelling, passage).write(path)
    return path


DEFAULTS = LM_WEIGHT, TOKEN_BONUS


@pytest.mark.slow
def test_the_weights_of_the_bundle_in_the_package_are_those_of_the_quran(
    bundle: Bundle, tmp_path: Path
) -> None:
    """Its file names the language model, not its content; the file of that model is the model."""
    stored = json.loads((bundle.folder / "fusion.json").read_text())["transducer-beam"]
    shipped = stored["lm_weight"], stored["token_bonus"]
    assert stored["lm"] == "quran" and shipped != DEFAULTS
    assert weights(bundle, lm="quran") == weights(bundle, passage="112") == shipped
    copied = shutil.copy(bundle.folder / "quran-lm.npz", tmp_path / "mine.npz")
    assert weights(bundle, lm=copied) == weights(bundle, lm=read_model(bundle, "quran")) == shipped
    assert weights(bundle, lm=passage_model(bundle, "112", tmp_path / "other.npz")) == DEFAULTS


@pytest.mark.slow
def test_weights_are_used_for_the_language_model_that_they_were_tuned_with_alone(
    bundle: Bundle, tmp_path: Path
) -> None:
    of_quran = weights(bundle, lm="quran")
    one, two = (passage_model(bundle, f"{n}", tmp_path / f"{n}.npz") for n in (112, 113))
    tune(bundle, one, 0.0, 3.0)
    assert weights(bundle, lm="quran") == weights(bundle, passage="112") == of_quran
    assert weights(bundle, lm=one) == weights(bundle, lm=read_model(bundle, one)) == (0.0, 3.0)
    assert weights(bundle, lm=two) == DEFAULTS
    tune(bundle, two, 0.2, 1.0)
    tune(bundle, "quran", 0.4, 0.25)
    tune(bundle, one, 0.1, 2.0)
    expected = {"quran": (0.4, 0.25), one: (0.1, 2.0), two: (0.2, 1.0)}
    assert {lm: weights(bundle, lm=lm) for lm in expected} == expected
    (fusion,) = (load_fusion(bundle, "ctc", lm=one),)
    assert fusion is not None and (fusion.lm_weight, fusion.token_bonus) == DEFAULTS, "of another decoder"
    assert {decoder: len(some) for decoder, some in read_tuned(bundle).items()} == {"transducer-beam": 3}

    moved = one.rename(tmp_path / "moved.npz")
    assert weights(bundle, lm=moved) == (0.1, 2.0), "the same model in another place"
    passage_model(bundle, "114", one)
    assert weights(bundle, lm=one) == DEFAULTS, "another model in its place"


def test_weights_tuned_with_the_file_of_the_quran_are_those_of_the_quran(bundle: Bundle) -> None:
    tune(bundle, bundle.folder / "quran-lm.npz", 0.9, 0.75)
    assert weights(bundle, lm="quran") == weights(bundle, passage="112") == (0.9, 0.75)
    assert {decoder: len(some) for decoder, some in read_tuned(bundle).items()} == {"transducer-beam": 1}


def test_an_arpa_has_the_weights_that_it_was_tuned_with(bundle: Bundle, tmp_path: Path) -> None:
    write_arpa(build_passage_model(bundle.vocabulary, bundle.spelling, "112"), tmp_path / "a.arpa")
    tune(bundle, tmp_path / "a.arpa", 0.3, 0.6)
    assert weights(bundle, lm=tmp_path / "a.arpa") == (0.3, 0.6)


@pytest.mark.slow
def test_weights_of_an_older_version_are_found_by_the_name_of_the_file(
    bundle: Bundle, tmp_path: Path
) -> None:
    """It stored no content; the file may have been named from another folder."""
    one, two = (passage_model(bundle, f"{n}", tmp_path / f"{n}.npz") for n in (112, 113))
    older = {"lm_weight": 0.3, "token_bonus": 0.1, "lm": "models/112.npz"}
    (bundle.folder / "fusion.json").write_text(json.dumps({"transducer-beam": older}))
    assert weights(bundle, lm=one) == (0.3, 0.1)
    assert weights(bundle, lm="quran") == weights(bundle, lm=two) == DEFAULTS
    tune(bundle, one, 0.6, 0.2)
    assert weights(bundle, lm=one) == (0.6, 0.2)
    assert len(read_tuned(bundle)["transducer-beam"]) == 1, "those of the older version are replaced"


@pytest.mark.parametrize(
    "more", [5, [5], [{"lm_weight": 0.5}], [{"lm_weight": 0.5, "token_bonus": 1, "lm": 5}], {"lm": "quran"}]
)
def test_a_damaged_file_of_weights_is_named_and_kept(bundle: Bundle, more: object) -> None:
    path = bundle.folder / "fusion.json"
    path.write_text(json.dumps({"transducer-beam": {"lm_weight": 0.5, "token_bonus": 1, "more": more}}))
    before = path.read_bytes()
    for use in (read_tuned, lambda one: tune(one, "quran", 1, 1), lambda one: weights(one, lm="quran")):
        with pytest.raises(QuranAsrError, match="does not hold tuned weights"):
            use(bundle)
    assert path.read_bytes() == before
