"""N-gram models against their definition, against KenLM and NLTK where they are installed, and as files."""

from __future__ import annotations

import gzip
import math
import os
import shutil
import subprocess
import tracemalloc
from collections import Counter, defaultdict
from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quran_asr.decoding.arpa import nemo_symbols, read_arpa, write_arpa
from quran_asr.decoding.language_model import LanguageModel, read_language_model
from quran_asr.decoding.ngram_estimation import Text, estimate
from quran_asr.errors import QuranAsrError

V = 6
END, BEGIN = -2, -1
"""In the references of this file."""

sentences = st.lists(st.integers(0, V - 2), min_size=1, max_size=8)
corpora = st.lists(st.lists(sentences, min_size=1, max_size=4), min_size=1, max_size=6)
"""Texts of sentences; token V - 1 is in none."""


def zipf_corpus(seed: int, vocabulary: int, lines: int) -> list[Text]:
    """Single sentences in which common tokens follow each other often, so that all discounts exist."""
    random = np.random.default_rng(seed)
    shares = 1 / np.arange(1, vocabulary + 1) ** 1.1
    drawn = random.choice(vocabulary, p=shares / shares.sum(), size=(lines, 14))
    corpus = []
    for line in drawn.tolist():
        text = line[:1]
        for token in line[1 : random.integers(1, 14)]:
            follows = random.random() < 0.6
            text.append(int((text[-1] * 7 + random.integers(0, 3)) % vocabulary) if follows else token)
        corpus.append([text])
    return corpus


def kneser_ney(corpus: list[Text], order: int) -> dict[tuple[int, ...], float]:
    """Probabilities of all n-grams of single sentences by Chen and Goodman's formulas, in plain dicts."""
    raw: list[Counter[tuple[int, ...]]] = [Counter() for _ in range(order + 1)]
    left: list[dict[tuple[int, ...], set[int]]] = [defaultdict(set) for _ in range(order + 1)]
    for (sentence,) in corpus:
        padded = [BEGIN, *sentence, END]
        for n in range(1, order + 1):
            for at in range(len(padded) - n + 1):
                gram = tuple(padded[at : at + n])
                raw[n][gram] += 1
                if at:
                    left[n][gram].add(padded[at - 1])
    probability: dict[tuple[int, ...], float] = {}
    for n in range(1, order + 1):
        counts = {
            gram: raw[n][gram] if n == order or gram[0] == BEGIN else len(left[n][gram]) for gram in raw[n]
        }
        if n == 1:
            del counts[(BEGIN,)]
        times = Counter(counts.values())
        y = times[1] / (times[1] + 2 * times[2])
        discount = {k: k - (k + 1) * y * times[k + 1] / times[k] for k in (1, 2, 3)}
        totals: Counter[tuple[int, ...]] = Counter()
        left_over: dict[tuple[int, ...], float] = defaultdict(float)
        for gram, count in counts.items():
            totals[gram[:-1]] += count
            left_over[gram[:-1]] += discount[min(count, 3)]
        for gram, count in counts.items():
            lower = probability[gram[1:]] if n > 1 else 1 / (len(counts) + 1)
            context = gram[:-1]
            share = (count - discount[min(count, 3)]) / totals[context]
            probability[gram] = share + left_over[context] / totals[context] * lower
    return probability


def score_by_arpa(path: Path, text: list[int]) -> list[float]:
    """Natural log of each token's probability after the beginning of a sentence, by the back-off rule."""
    names = {name: token for token, name in enumerate(nemo_symbols(V))} | {"</s>": END, "<s>": BEGIN}
    entries: dict[tuple[int, ...], tuple[float, float]] = {}
    for line in path.read_text(encoding="utf-8").split("\n"):
        fields = line.split("\t")
        if len(fields) > 1 and "<unk>" not in fields[1]:
            gram = tuple(names[name] for name in fields[1].split(" "))
            entries[gram] = float(fields[0]), float(fields[2]) if len(fields) > 2 else 0.0

    def score(context: tuple[int, ...], token: int) -> float:
        if (*context, token) in entries:
            return entries[*context, token][0]
        return entries.get(context, (0.0, 0.0))[1] + score(context[1:], token)

    order = max(map(len, entries))
    history, found = [BEGIN], []
    for token in text:
        context = tuple(history[max(0, len(history) - order + 1) :])
        found.append(score(context, token) * math.log(10))
        history.append(token)
    return found


def same_model(first: LanguageModel, second: LanguageModel, tolerance: float) -> None:
    for name in ("tokens", "first", "backoff_states", "targets"):
        assert (getattr(first, name) == getattr(second, name)).all(), name
    known = np.isfinite(first.log_probs)
    assert (known == np.isfinite(second.log_probs)).all()
    np.testing.assert_allclose(first.log_probs[known], second.log_probs[known], atol=tolerance)
    np.testing.assert_allclose(first.backoffs, second.backoffs, atol=tolerance)


@given(corpora, st.integers(1, 5), st.sampled_from(["kneser-ney", "witten-bell"]))
def test_probabilities_sum_to_one_in_every_context(corpus: list[Text], order: int, smoothing: str) -> None:
    model = estimate(corpus, V, order=order, smoothing=smoothing)
    states = np.arange(len(model.first) - 1)
    log_probs, _ = model.scores(states)
    total = np.exp(log_probs.astype(np.float64)).sum(axis=1) + np.exp(model.end_scores(states))
    np.testing.assert_allclose(total + np.exp(model.unknown), 1, atol=1e-5)


@pytest.mark.parametrize("order", [2, 4])
def test_kneser_ney_in_every_context_of_a_text_with_discounts(order: int) -> None:
    corpus = zipf_corpus(0, 1000, 500)
    model = estimate(corpus, 1000, order=order)
    states = np.arange(len(model.first) - 1)
    log_probs, _ = model.scores(states)
    total = np.exp(log_probs.astype(np.float64)).sum(axis=1) + np.exp(model.end_scores(states))
    np.testing.assert_allclose(total, 1, atol=1e-5)


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_kneser_ney_is_that_of_chen_and_goodman(order: int) -> None:
    corpus = zipf_corpus(1, 1000, 500)
    model = estimate(corpus, 1000, order=order)
    expected = kneser_ney(corpus, order)
    assert len(expected) == sum(model.sizes) - 1 - (
        1000 - len({token for (text,) in corpus for token in text})
    )
    for begins, ends in product((False, True), repeat=2):
        grams = [g for g in expected if (g[0] == BEGIN) == begins and (g[-1] == END) == ends]
        texts = [[token for token in gram if token >= 0] for gram in grams]
        scores = model.score_sequences(texts, start=model.start if begins else 0, end=ends)
        found = [math.exp(score[-1]) for score in scores]
        np.testing.assert_allclose(found, [expected[gram] for gram in grams], rtol=1e-5)


@pytest.mark.parametrize("order", [2, 3, 5])
def test_the_model_is_that_of_kenlm(order: int, tmp_path: Path) -> None:
    lmplz = os.environ.get("LMPLZ") or shutil.which("lmplz")
    if lmplz is None:
        pytest.skip("needs KenLM's lmplz, in PATH or named by LMPLZ")
    corpus = zipf_corpus(2, 3000, 2000)
    symbols = nemo_symbols(3000)
    lines = [" ".join(symbols[token] for token in text) for (text,) in corpus]
    (tmp_path / "corpus").write_text("\n".join(lines) + "\n", encoding="utf-8")
    command = [lmplz, "-o", order, "-S", "200M", "--text", "corpus", "--arpa", "theirs"]
    subprocess.run(list(map(str, command)), cwd=tmp_path, check=True, capture_output=True)
    same_model(estimate(corpus, 3000, order=order), read_arpa(tmp_path / "theirs", 3000), 3e-6)


def test_witten_bell_is_that_of_nltk() -> None:
    lm = pytest.importorskip("nltk.lm", reason="needs nltk")
    corpus = zipf_corpus(3, 40, 60)
    padded = [["<s>", *map(str, text), "</s>"] for (text,) in corpus]
    theirs = lm.WittenBellInterpolated(3)
    grams = [
        [tuple(text[at : at + n]) for n in (1, 2, 3) for at in range(len(text) - n + 1)] for text in padded
    ]
    theirs.fit(grams, vocabulary_text=[word for text in padded for word in text])
    ours = estimate(corpus, 40, order=3, smoothing="witten-bell")
    unigrams = Counter(word for text in padded for word in text[1:])
    kinds, total = len(unigrams), sum(unigrams.values())

    def expected(context: tuple[str, ...], word: str) -> float:
        """NLTK's recursion over our distribution of single tokens: its own gives the beginning a share."""
        if not context:
            return (unigrams[word] + kinds / (kinds + 1)) / (total + kinds)
        alpha, gamma = theirs.estimator.alpha_gamma(word, context)
        return alpha + gamma * expected(context[1:], word)

    for (text,) in corpus[:20]:
        words = ["<s>", *map(str, text), "</s>"]
        (scores,) = ours.score_sequences([text])
        for at, score in enumerate(scores.tolist(), start=1):
            context = tuple(words[max(0, at - 2) : at])
            assert math.exp(score) == pytest.approx(expected(context, words[at]), rel=1e-5)


@given(corpora, st.integers(1, 4), st.lists(st.integers(0, V - 1), max_size=10))
def test_all_ways_to_a_score_agree(corpus: list[Text], order: int, text: list[int]) -> None:
    """Many states at once, sequences, and the back-off rule over the written ARPA file."""
    model = estimate(corpus, V, order=order)
    (scores,) = model.score_sequences([text], end=False)
    state, stepped = np.array([model.start]), []
    for token in text:
        log_probs, following = model.scores(state)
        stepped.append(log_probs[0, token])
        state = following[:, token]
    np.testing.assert_allclose(scores, stepped, atol=1e-5)


@settings(max_examples=20)
@given(corpora, st.integers(1, 4), st.lists(st.integers(0, V - 1), max_size=10))
def test_files_hold_the_model(
    tmp_path_factory: pytest.TempPathFactory, corpus: list[Text], order: int, text: list[int]
) -> None:
    folder = tmp_path_factory.mktemp("model")
    model = estimate(corpus, V, order=order, pieces=tuple("abcdef"))
    model.write(folder / "model.npz")
    write_arpa(model, folder / "model.arpa")
    stored, arpa = read_language_model(folder / "model.npz"), read_arpa(folder / "model.arpa", V)
    same_model(model, stored, 0)
    same_model(model, arpa, 1e-5)
    assert stored.pieces == tuple("abcdef") and stored.unknown == model.unknown
    assert arpa.unknown == pytest.approx(model.unknown, rel=1e-5)
    (scores,) = model.score_sequences([text], end=False)
    np.testing.assert_allclose(scores, score_by_arpa(folder / "model.arpa", text), atol=1e-4)


def test_sentences_that_follow_each_other_are_read_on_and_can_stand_alone() -> None:
    joined = estimate([[[0, 1], [2, 3]]], V, order=3, smoothing="witten-bell")
    apart = estimate([[[0, 1]], [[2, 3]]], V, order=3, smoothing="witten-bell")

    def probability(model: LanguageModel, text: list[int], end: bool = False) -> float:
        return float(np.exp(model.score_sequences([text], end=end)[0][-1]))

    assert probability(joined, [0, 1, 2]) > 3 * probability(apart, [0, 1, 2])
    assert probability(joined, [2]) > 0.2  # a sentence can begin with it
    assert probability(joined, [0, 1], end=True) > 0.2


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda arrays: arrays | {"format": np.array(2)}, "of format 2"),
        (lambda arrays: arrays | {"tokens": arrays["tokens"][::-1]}, "not a language model"),
        (lambda arrays: arrays | {"children": arrays["children"][:-1]}, "not a language model"),
        (lambda arrays: arrays | {"log_probs": arrays["log_probs"] * np.nan}, "not a language model"),
        (lambda arrays: arrays | {"sizes": np.array([])}, "not a language model"),
        (lambda arrays: {"format": arrays["format"]}, "not a language model"),
        (lambda arrays: arrays | {"pieces": np.array([None], object)}, "not a language model"),
    ],
)
def test_a_damaged_file_is_refused(change: object, complaint: str, tmp_path: Path) -> None:
    estimate([[[0, 1, 2, 0]]], V, order=3).write(tmp_path / "good.npz")
    with np.load(tmp_path / "good.npz") as stored:
        arrays = change({name: stored[name] for name in stored.files})  # type: ignore[operator]
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(QuranAsrError, match=complaint):
        read_language_model(tmp_path / "bad.npz")


def test_a_torn_or_missing_file_is_refused(tmp_path: Path) -> None:
    estimate([[[0, 1, 2, 0]]], V, order=3).write(tmp_path / "good.npz")
    content = (tmp_path / "good.npz").read_bytes()
    for size in (0, 10, len(content) // 2, len(content) - 1):
        (tmp_path / "torn.npz").write_bytes(content[:size])
        with pytest.raises(QuranAsrError, match="not a language model"):
            read_language_model(tmp_path / "torn.npz")
    with pytest.raises(QuranAsrError, match="no such language model"):
        read_language_model(tmp_path / "missing.npz")


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("\\end\\", "", "ends before"),
        ("\\2-grams:", "\\3-grams:", "where 2-grams should begin"),
        ("d\n", "d e\n", "2 words in a 1-gram"),
        ("-0.", "minus 0.", "not an ARPA file"),
        ("e\t", "\u00ff\t", "stands for no token"),
        ("ngram 2=", "ngram 2=1", "2-grams, but the head of the file names 1"),
        ("ngram 3=", "ngram 4=", "3-grams, but the head of the file names no"),
        ("\nngram 3=", "\nngram 4=5\nngram 3=", "no 4-grams, but the head of the file names 5"),
        ("d e f\n", "d e e\n-0.1\td e e\n", "stands there twice"),
        ("-0.", "0.", "probability above 1"),
        ("-0.", "inf\t", "probability above 1"),
    ],
)
def test_a_damaged_arpa_file_is_refused(old: str, new: str, complaint: str, tmp_path: Path) -> None:
    write_arpa(estimate([[[0, 1, 2, 0]]], V, order=3), tmp_path / "good.arpa")
    text = (tmp_path / "good.arpa").read_text(encoding="utf-8")
    if old == "d\n":
        old, new = "\td\t", "\td e\t"
    if new == "inf\t":
        old, new = "\\2-grams:\n-0.", "\\2-grams:\ninf\td d\t0\n-0."
    assert old in text
    (tmp_path / "bad.arpa").write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(QuranAsrError, match=complaint):
        read_arpa(tmp_path / "bad.arpa", V)


@pytest.mark.parametrize(
    "changed",
    [
        lambda text: text.replace("\n", "\r\n").encode(),
        lambda text: text.encode("utf-8-sig"),
        lambda text: text.replace("\t", "  ").encode(),
        lambda text: text.replace("\n", " \n").replace("\t", "\t ").encode(),
        lambda text: text.replace("<unk>", "<UNK>").encode(),
        lambda text: text.replace("ngram 1=", "ngram  1 = ").encode(),
        lambda text: f"built by another tool\n\n{text}\nand its notes\n".encode(),
        lambda text: gzip.compress(text.encode()),
        lambda text: text.replace("\t0\n", "\n").encode(),
    ],
)
def test_arpa_files_of_other_tools_are_read(changed: Callable[[str], bytes], tmp_path: Path) -> None:
    tokens = 80  # also those whose characters are kinds of white space
    model = estimate(zipf_corpus(4, tokens, 100), tokens, order=3)
    write_arpa(model, tmp_path / "good.arpa")
    text = (tmp_path / "good.arpa").read_text(encoding="utf-8")
    (tmp_path / "other.arpa").write_bytes(changed(text))
    same_model(model, read_arpa(tmp_path / "other.arpa", tokens), 1e-5)


def test_a_file_without_lines_is_refused_before_it_is_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "zeros.arpa.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        for _ in range(64):
            file.write(bytes(1 << 20))
    tracemalloc.start()
    with pytest.raises(QuranAsrError, match="line of more than"):
        read_arpa(path, V)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 << 20


def test_a_damaged_gzip_file_is_refused(tmp_path: Path) -> None:
    write_arpa(estimate([[[0, 1, 2, 0]]], V, order=3), tmp_path / "good.arpa")
    whole = gzip.compress((tmp_path / "good.arpa").read_bytes())
    for torn in (whole[: len(whole) // 2], whole[:2], whole[:30] + b"zzzz" + whole[34:]):
        (tmp_path / "bad.arpa.gz").write_bytes(torn)
        with pytest.raises(QuranAsrError, match="not an ARPA file"):
            read_arpa(tmp_path / "bad.arpa.gz", V)


def test_another_vocabulary_is_refused() -> None:
    model = estimate([[[0, 1]]], V, pieces=tuple("abcdef"))
    model.check_vocabulary("abcdef")
    with pytest.raises(QuranAsrError, match="6 tokens, the acoustic model 5"):
        model.check_vocabulary("abcde")
    with pytest.raises(QuranAsrError, match="another tokenizer"):
        model.check_vocabulary("abcdeg")


@pytest.mark.parametrize(
    ("corpus", "options", "complaint"),
    [
        ([], {}, "is empty"),
        ([[[]]], {}, "is empty"),
        ([[[V]]], {}, "outside the vocabulary"),
        ([[[-1]]], {}, "outside the vocabulary"),
        ([[[0]]], {"order": 0}, "order is 0"),
    ],
)
def test_what_cannot_be_estimated_is_refused(corpus: list[Text], options: dict, complaint: str) -> None:
    with pytest.raises(QuranAsrError, match=complaint):
        estimate(corpus, V, **options)


def test_kenlm_reads_the_file(tmp_path: Path) -> None:
    kenlm = pytest.importorskip("kenlm", reason="needs kenlm")
    model = estimate(zipf_corpus(4, 40, 100), 40, order=4)
    write_arpa(model, tmp_path / "model.arpa")
    theirs = kenlm.Model(str(tmp_path / "model.arpa"))
    text = [3, 21, 0, 39, 5, 1, 1, 7]
    words = " ".join(nemo_symbols(40)[token] for token in text)
    scores = [score * math.log(10) for score, _, _ in theirs.full_scores(words, bos=True, eos=True)]
    np.testing.assert_allclose(model.score_sequences([text])[0], scores, atol=1e-4)


@pytest.mark.slow
def test_nemo_reads_the_file(tmp_path: Path) -> None:
    pytest.importorskip("nemo", reason="needs the training packages")
    import torch
    from nemo.collections.asr.parts.submodules.ngram_lm import NGramGPULanguageModel

    model = estimate(zipf_corpus(4, 40, 100), 40, order=4)
    write_arpa(model, tmp_path / "model.arpa")
    theirs = NGramGPULanguageModel.from_file(tmp_path / "model.arpa", vocab_size=40)
    text = [3, 21, 0, 39, 5, 1, 1, 7]
    with torch.inference_mode():
        scores = theirs.score_sentences(torch.tensor([text]), eos=True)[0].numpy()
    np.testing.assert_allclose(model.score_sequences([text])[0], scores, atol=1e-4)
