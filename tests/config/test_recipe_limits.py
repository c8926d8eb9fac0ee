"""A stranger's recipe ends in one line, whatever it holds, and in seconds."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from quran_asr.config.overrides import parse_override
from quran_asr.config.recipe import load_recipe
from quran_asr.config.yaml_document import MOST_CHARACTERS, Leaf, Section, parse
from quran_asr.errors import QuranAsrError

MOST_SECONDS = 5.0
"""Of the processor; the slowest of these took minutes, or all memory, before there were limits."""


@pytest.fixture(autouse=True)
def in_seconds() -> Iterator[None]:
    began = time.process_time()
    yield
    assert time.process_time() - began < MOST_SECONDS


def refused(tmp_path: Path, text: str) -> str:
    """All that is reported of a recipe; every line of it is short."""
    recipe = tmp_path / "stranger.yaml"
    recipe.write_text(text, encoding="utf-8")
    with pytest.raises(QuranAsrError) as error:
        load_recipe(recipe)
    message = str(error.value)
    assert max(map(len, message.splitlines())) < 1_000
    return message


def chain(levels: int, times: int, mark: str = '"{}"') -> str:
    """Values of which each is made of `times` references to the one before."""
    lines = ["base: small", "a0: xxxxxxxxxx"]
    for level in range(1, levels + 1):
        lines.append(f"a{level}: " + mark.format(f"${{a{level - 1}}}" * times))
    return "\n".join([*lines, f'name: "${{a{levels}}}"'])


def test_references_to_references_do_not_multiply(tmp_path: Path) -> None:
    text = chain(8, 10)
    assert len(text) < 1_000
    assert "grows beyond" in refused(tmp_path, text)


def test_lists_of_references_do_not_multiply(tmp_path: Path) -> None:
    lines = ["base: small", "a0: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]"]
    lines += [f"a{i}: [" + ", ".join([f'"${{a{i - 1}}}"'] * 10) + "]" for i in range(1, 12)]
    assert "grows beyond" in refused(tmp_path, "\n".join(lines))


def test_a_long_chain_of_references_is_refused_and_a_short_one_works(tmp_path: Path) -> None:
    assert "more than 16 references" in refused(tmp_path, "base: small\n" + "".join(
        f'a{i}: "${{a{i + 1}}}"\n' for i in range(400)
    ))  # fmt: skip
    recipe = tmp_path / "fine.yaml"
    recipe.write_text("base: small\nname: a-${model.optim.name}\n")
    assert load_recipe(recipe).name == f"a-{load_recipe('small').model.optim.name}"


@pytest.mark.slow
def test_manifests_by_the_thousand_are_not_an_attack(tmp_path: Path) -> None:
    recipe = tmp_path / "many.yaml"
    paths = [f"/data/recitations/some-reciter-{number:04}/train.jsonl" for number in range(2_000)]
    recipe.write_text(f"base: small\nmodel:\n  train_ds:\n    manifest_filepath: [{', '.join(paths)}]\n")
    assert load_recipe(recipe).model.train_ds.manifests == tuple(paths)


@pytest.mark.parametrize("digit", ["1", "1_", "1.", "._", "1e", "0", "٣"])
def test_what_looks_like_a_number_for_long_is_refused_at_once(tmp_path: Path, digit: str) -> None:
    for ending in ("", "x", "_", ".", "e", "e+", "._"):
        refused(tmp_path, f"base: small\nname: [{digit * 20_000}{ending}]\n")


@pytest.mark.parametrize("text", ["1_", "1._", "1__0", "_1", "1e", "+", ".", "-.", "1_.5", "٣", "0x", "1.5_"])
def test_what_is_almost_a_number_is_text(text: str) -> None:
    leaf = parse(f"a: {text}")
    assert isinstance(leaf, Section)
    value = leaf.items["a"]
    assert isinstance(value, Leaf)
    assert value.value == text


@pytest.mark.parametrize("text", ["1" * 5_000, "-" + "9" * 5_000, "1" * 400 + ".5", "1e999", "-1e400"])
def test_numbers_beyond_all_use_are_refused(tmp_path: Path, text: str) -> None:
    for key in ("trainer: {max_steps: %s}", "model: {optim: {lr: %s}}", "name: %s"):
        message = refused(tmp_path, f"base: small\n{key % text}\n")
        assert "is a number of" in message or "is too large" in message
    with pytest.raises(QuranAsrError):
        parse_override(f"trainer.max_steps={text}")


@given(st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(10**90), 10**90))
@example(1e-5)
@example(1e22)
def test_numbers_as_python_writes_them_are_read(number: float) -> None:
    leaf = parse(f"a: {number!r}")
    assert isinstance(leaf, Section)
    value = leaf.items["a"]
    assert isinstance(value, Leaf)
    assert value.value == number
    assert type(value.value) is type(number)


@given(st.text("0123456789_.eE+-", max_size=12))
def test_text_of_the_letters_of_numbers_ends_in_no_traceback(text: str) -> None:
    with contextlib.suppress(QuranAsrError):
        parse(f"a: {text}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: " + "[" * 50_000, "nested too deeply"),
        ("a: " + "[" * 17 + "]" * 17, "nested too deeply"),
        ("a: " + "{a: " * 30 + "1" + "}" * 30, "nested too deeply"),
        ("\n".join(" " * i + "a:" for i in range(300)), "nested too deeply"),
        ("base: small\n" + "".join(f"key{i}: 1\n" for i in range(15_000)), "more than"),
        ("base: small\n" + "".join(f"key{i}: 1\n" for i in range(600)), "more than 500 keys"),
        ("base: small\n" + "a." * 400 + "b: 1\n", "no key is so long"),
        ("base: small\n? " + "a" * 100_000 + "\n: 1\n", "line 2"),
        ("#" * (MOST_CHARACTERS + 1), "this is not a recipe"),
        ("name: " + "x" * MOST_CHARACTERS, "this is not a recipe"),
        ("base: small\nname: '${" + "a" * 100_000 + "'", "is not a reference"),
        ("base: small\nname: '${" + "a" * 100_000 + "}'", "refers to nothing"),
        ("base: small\nname: '" + "${" * 50_000 + "'", "is not a reference"),
        ("base: small\nname: '" + "${name}" * 20_000 + "'", "refers to itself"),
        ("base: '" + "b" * 100_000 + "'", "no recipe"),
        ('base: "a\\0b"', "no recipe"),
        ('base: "a\\uD800b"', "no recipe"),
        ("base: small\nname: " + "b" * 100_000, "cannot name files"),
        ("base: small\ntrainer: '" + "b" * 100_000 + "'", "is a section"),
        ("base: small\nquran: {spelling: '" + "b" * 100_000 + "'}", "must be"),
        (
            "base: small\nname: '\\ud800'\nmodel: !!python/object/apply:os.system ['id']",
            "is not used in recipes",
        ),
    ],
)
def test_recipes_without_measure_are_refused(tmp_path: Path, text: str, message: str) -> None:
    assert message in refused(tmp_path, text)


def test_a_chain_of_bases_has_an_end(tmp_path: Path) -> None:
    for number in range(40):
        (tmp_path / f"r{number}.yaml").write_text(f"base: r{number + 1}.yaml\n")
    with pytest.raises(QuranAsrError, match="more than 16 bases"):
        load_recipe(tmp_path / "r0.yaml")


def test_five_hundred_unknown_keys_are_all_named_in_seconds(tmp_path: Path) -> None:
    message = refused(tmp_path, "base: small\n" + "".join(f"modle{i}: 1\n" for i in range(490)))
    assert message.count("unknown key") == 490


@pytest.mark.parametrize(
    "word", ["a." * 50_000 + "b=1", "a=" + "[" * 5_000, "name=" + "1_" * 50_000, "a={" + "a:" * 9_000]
)
def test_overrides_have_the_same_limits(word: str) -> None:
    with pytest.raises(QuranAsrError):
        load_recipe("small", [word])
