"""Subword tokens: SentencePiece BPE made from all verses of the Quran, whatever the corpus.

The identity rule is essential: SentencePiece's default normalisation (`nmt_nfkc`) rewrites 2,044 of
the 6,236 verses in Uthmani spelling. A tokenizer that loses a verse or lacks a character is never written.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import sentencepiece

from quran_asr.errors import QuranAsrError
from quran_asr.files import full_disk_named, sweep, unfinished_path, write_atomically
from quran_asr.text.quran import load_quran

UNKNOWN = 0
"""Id of `<unk>`; no verse ever needs it."""


class Tokenizer:
    """Text to token ids and back, in one spelling."""

    def __init__(self, folder: Path) -> None:
        """Read a folder that holds `tokenizer.model` (and `tokenizer.json` if this program made it).

        Raises:
            QuranAsrError: no tokenizer there, or not a SentencePiece model.
        """
        self.folder = folder
        model = folder / "tokenizer.model"
        if not model.is_file():
            raise QuranAsrError(
                "no `tokenizer.model` in the folder",
                where=str(folder),
                remedy="make one with `quran-asr tokenizer --to FOLDER`, and name it in model.tokenizer.dir",
            )
        try:
            self.processor = sentencepiece.SentencePieceProcessor(model_file=str(model))
        except (RuntimeError, OSError) as error:
            raise QuranAsrError(
                "not a SentencePiece model",
                where=str(model),
                remedy="copy it again, or make another with `quran-asr tokenizer --to FOLDER`",
            ) from error

    @property
    def size(self) -> int:
        """Tokens without the blank."""
        return int(self.processor.get_piece_size())

    @property
    def pieces(self) -> tuple[str, ...]:
        return tuple(self.processor.id_to_piece(i) for i in range(self.size))

    @property
    def unknown(self) -> int:
        """Id of the token for what it does not know; -1 if it has none."""
        return int(self.processor.unk_id())

    def encode(self, text: str) -> list[int]:
        return list(self.processor.encode(text))

    def decode(self, tokens: Sequence[int]) -> str:
        return str(self.processor.decode(list(tokens)))


def train_tokenizer(spelling: str, vocabulary_size: int, folder: Path) -> Tokenizer:
    """Make `tokenizer.model`, `tokenizer.vocab`, `vocab.txt` and `tokenizer.json` in `folder`.

    Raises:
        QuranAsrError: the vocabulary is too small for the alphabet or too large for the text, a verse
            does not survive encoding and decoding, or `folder` holds another tokenizer; nothing is written
            then.
    """
    _refuse_other(folder, spelling, vocabulary_size)
    verses = [load_quran(spelling).verse(ref) for ref in load_quran(spelling).refs]
    alphabet = len({letter for verse in verses for letter in verse if letter != " "})
    smallest = alphabet + 2  # the word boundary and <unk>
    if vocabulary_size < smallest:
        raise QuranAsrError(
            f"{vocabulary_size} tokens are too few: spelling `{spelling}` has {alphabet} characters",
            where="quran.vocabulary_size",
            remedy=f"use at least {smallest}",
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    sweep(folder.parent)
    made = unfinished_path(folder.parent)
    made.mkdir()
    try:
        with full_disk_named(folder):
            _train_in(made, spelling, vocabulary_size, verses)
        folder.mkdir(exist_ok=True)
        # the model comes last: where it is, the tokenizer is whole
        for file in sorted(made.iterdir(), key=lambda file: file.name == "tokenizer.model"):
            file.replace(folder / file.name)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return Tokenizer(folder)


def _refuse_other(folder: Path, spelling: str, vocabulary_size: int) -> None:
    """Recipes and runs name a tokenizer by its folder: another one in its place would be theirs."""
    if not (folder / "tokenizer.model").exists():
        return
    try:
        about = json.loads((folder / "tokenizer.json").read_bytes())
        same = (about["spelling"], about["vocabulary_size"]) == (spelling, vocabulary_size)
    except (OSError, ValueError, KeyError, TypeError):
        same = False
    if not same:
        raise QuranAsrError("holds another tokenizer", where=str(folder), remedy="name another folder")


def _train_in(made: Path, spelling: str, vocabulary_size: int, verses: Sequence[str]) -> None:
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(verses),
            model_prefix=str(made / "tokenizer"),
            model_type="bpe",
            vocab_size=vocabulary_size,
            character_coverage=1.0,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            split_by_unicode_script=False,
            max_sentence_length=100_000,
            unk_id=UNKNOWN,
            bos_id=-1,
            eos_id=-1,
            pad_id=-1,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise QuranAsrError(
            f"no tokenizer of {vocabulary_size} tokens can be made from spelling `{spelling}`",
            where="quran.vocabulary_size",
            remedy="use fewer tokens",
        ) from error
    tokenizer = Tokenizer(made)
    _refuse_losses(tokenizer, verses)
    pieces = [piece for i, piece in enumerate(tokenizer.pieces) if i != UNKNOWN]
    vocabulary = [p[1:] if p.startswith("▁") and len(p) > 1 else f"##{p}" for p in pieces]
    (made / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    about = {"spelling": spelling, "vocabulary_size": vocabulary_size, "verses": len(verses)}
    (made / "tokenizer.json").write_text(json.dumps(about) + "\n", encoding="utf-8")


def make_tokenizer(folder: Path, spelling: str, vocabulary_size: int, source: str | None = None) -> Tokenizer:
    """Write a tokenizer into a folder: a copy of the folder `source`, or one trained on the Quran."""
    if source is not None:
        return copy_tokenizer(Path(source), folder)
    return train_tokenizer(spelling, vocabulary_size, folder)


def copy_tokenizer(source: Path, target: Path) -> Tokenizer:
    """Bring a given tokenizer into a run folder, so that the run stays whole when the source goes."""
    tokenizer = Tokenizer(source)
    target.mkdir(parents=True, exist_ok=True)
    for name in ("tokenizer.model", "tokenizer.vocab", "vocab.txt", "tokenizer.json"):
        if (source / name).is_file():
            write_atomically(target / name, (source / name).read_bytes())
    if not (target / "vocab.txt").is_file():  # NeMo registers both files in its archives
        pieces = [piece for i, piece in enumerate(tokenizer.pieces) if i != UNKNOWN]
        write_atomically(target / "vocab.txt", ("\n".join(pieces) + "\n").encode())
    return Tokenizer(target)


def unknown_tokens(tokenizer: Tokenizer, texts: Sequence[str]) -> list[str]:
    """The texts that need `<unk>`: they hold a character that the tokenizer has never seen."""
    return [text for text in texts if tokenizer.unknown in tokenizer.encode(text)]


def _refuse_losses(tokenizer: Tokenizer, verses: Sequence[str]) -> None:
    unknown = unknown_tokens(tokenizer, verses)
    if unknown:
        raise QuranAsrError(
            f"{len(unknown)} verses need an unknown token, the first: {unknown[0]}",
            remedy="report it with quran.spelling, quran.vocabulary_size and the version of sentencepiece",
        )
    lost = [verse for verse in verses if tokenizer.decode(tokenizer.encode(verse)) != verse]
    if lost:
        raise QuranAsrError(
            f"{len(lost)} verses are not reproduced by encoding and decoding, the first: {lost[0]}",
            remedy="report it with quran.spelling, quran.vocabulary_size and the version of sentencepiece",
        )
