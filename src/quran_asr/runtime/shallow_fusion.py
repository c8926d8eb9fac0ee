"""The language model of a recognizer: which one, and with which weights.

The weights that `lm tune` found are kept in `fusion.json` in the bundle's folder and are the defaults then,
for the language model that they were tuned with.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quran_asr import __version__
from quran_asr.decoding.arpa import read_arpa
from quran_asr.decoding.fusion import Fusion
from quran_asr.decoding.language_model import LanguageModel, read_language_model
from quran_asr.decoding.options import BEAMS
from quran_asr.decoding.quran_language_model import build_passage_model, build_quran_model
from quran_asr.errors import QuranAsrError
from quran_asr.files import cache_folder, parse_json, write_atomically

if TYPE_CHECKING:
    from quran_asr.runtime.bundle import Bundle

QURAN = "quran"
"""Name of the language model of the whole Quran, instead of a file's."""
QURAN_MODEL = "quran-lm.npz"
"""File of that model in a bundle's folder, if it ships with the bundle."""
TUNED = "fusion.json"
LM_WEIGHT, TOKEN_BONUS = 0.5, 1.0
"""Defaults without tuning, chosen with a model of 1.8M parameters on 195 validation clips."""


@dataclass(frozen=True, slots=True)
class Tuned:
    """Weights that `lm tune` found with a language model."""

    lm_weight: float
    token_bonus: float
    lm: str = QURAN
    """`quran`, also for a passage, or the file that was named."""
    lm_sha256: str = ""
    """Of the content of the language model; empty where an older version stored none."""

    def fits(self, lm: str, lm_sha256: str) -> bool:
        """Whether they were tuned with a language model; by name where its content was not stored."""
        if QURAN in (self.lm, lm):
            return self.lm == lm
        if self.lm_sha256:
            return self.lm_sha256 == lm_sha256
        return Path(self.lm).name == Path(lm).name


def load_fusion(
    bundle: Bundle,
    decoder: str,
    *,
    lm: str | Path | LanguageModel | None = None,
    passage: str | None = None,
    lm_weight: float | None = None,
    token_bonus: float | None = None,
) -> Fusion | None:
    """The shallow fusion of a beam search over a bundle; None without a language model.

    Args:
        bundle: the acoustic model.
        decoder: whose weights, tuned with this language model, are the defaults.
        lm: `quran`, a file (`.npz`, or `.arpa` or `.arpa.gz` in NeMo's encoding of tokens), or a model.
        passage: instead of `lm`: a model of these verses alone, for example `2:1-141`.
        lm_weight: weight of its log probabilities; None takes the tuned one.
        token_bonus: added for each token; None takes the tuned one.

    Raises:
        QuranAsrError: a weight without a model, both a model and a passage, or a model that cannot be read,
            is not of this vocabulary or cannot be built.
    """
    if lm is None and passage is None:
        if lm_weight is not None or token_bonus is not None:
            raise QuranAsrError("a weight without a language model", remedy="name one with --lm or --passage")
        return None
    if lm is not None and passage is not None:
        raise QuranAsrError("both a language model and a passage", remedy="give --lm or --passage")
    stored = read_tuned(bundle).get(BEAMS.get(decoder, decoder), ())
    model = read_model(bundle, lm) if lm is not None else _of_passage(bundle, str(passage))
    which = described(bundle, QURAN if lm is None else lm, model)
    tuned = next((one for one in stored if one.fits(**which)), Tuned(LM_WEIGHT, TOKEN_BONUS))
    return Fusion(
        model,
        tuned.lm_weight if lm_weight is None else lm_weight,
        tuned.token_bonus if token_bonus is None else token_bonus,
    )


def read_model(bundle: Bundle, lm: str | Path | LanguageModel) -> LanguageModel:
    """A language model by its name or file, made of the tokens of a bundle.

    Raises:
        QuranAsrError: it cannot be read or built, or is made of other tokens.
    """
    vocabulary = bundle.vocabulary
    if isinstance(lm, LanguageModel):
        model = lm
    elif lm == QURAN:
        model = quran_model(bundle)
    elif str(lm).lower().endswith((".arpa", ".arpa.gz")):
        model = read_arpa(Path(lm), len(vocabulary), pieces=vocabulary.pieces)
    else:
        model = read_language_model(Path(lm))
    model.check_vocabulary(vocabulary.pieces)
    return model


def quran_model(bundle: Bundle) -> LanguageModel:
    """The model of the whole Quran: that of the bundle, else one that is built once and kept in the cache."""
    shipped = bundle.folder / QURAN_MODEL
    if shipped.is_file():
        return read_language_model(shipped)
    vocabulary = bundle.vocabulary
    made_from = json.dumps([__version__, bundle.spelling, vocabulary.pieces, vocabulary.scores])
    digest = hashlib.sha256(made_from.encode()).hexdigest()[:16]
    cached = cache_folder() / "language-models" / f"quran-{digest}.npz"
    with suppress(QuranAsrError):
        return read_language_model(cached)
    model = build_quran_model(vocabulary, bundle.spelling)
    with suppress(OSError):  # if the folder cannot be written to, the model is built again next time
        cached.parent.mkdir(parents=True, exist_ok=True)
        model.write(cached)
    return model


def _of_passage(bundle: Bundle, passage: str) -> LanguageModel:
    return build_passage_model(bundle.vocabulary, bundle.spelling, passage)


def described(bundle: Bundle, lm: str | Path | LanguageModel, model: LanguageModel) -> dict[str, str]:
    """Which language model it is: `lm` and `lm_sha256` of `Tuned`.

    Args:
        bundle: the acoustic model.
        lm: as `read_model` takes it. A file with the bundle's model of the Quran is `quran` as well.
        model: what was read.
    """
    digest = _digest(model)
    name = "" if isinstance(lm, LanguageModel) else str(lm)
    if name != QURAN and (bundle.folder / QURAN_MODEL).is_file():
        with suppress(QuranAsrError):  # a damaged one is another model
            if _digest(read_language_model(bundle.folder / QURAN_MODEL)) == digest:
                name = QURAN
    return {"lm": name, "lm_sha256": digest}


def _digest(model: LanguageModel) -> str:
    """Of its n-grams and their scores."""
    digest = hashlib.sha256(f"{model.order} {model.vocabulary_size} {model.unknown}".encode())
    for array in (model.tokens, model.log_probs, model.first, model.backoffs):
        digest.update(array.tobytes())
    return digest.hexdigest()


def read_tuned(bundle: Bundle) -> dict[str, tuple[Tuned, ...]]:
    """Decoder -> weights, as `lm tune` found them with each language model; empty where nothing was tuned.

    Raises:
        QuranAsrError: the file is damaged.
    """
    return {
        decoder: tuple(tuned for _, tuned in entries) for decoder, entries in _entries(bundle.folder).items()
    }


def write_tuned(bundle: Bundle, decoder: str, values: Mapping[str, Any]) -> Path:
    """Store tuned weights in the bundle's folder; those of other decoders and language models stay.

    Args:
        bundle: the acoustic model.
        decoder: a beam search.
        values: `lm_weight` and `token_bonus`, the language model as `described`, and how they were found.

    Raises:
        QuranAsrError: the file is damaged; it is not replaced.
    """
    new = _parsed(values)
    stored = {
        name: [entry for entry, tuned in entries if name != decoder or not tuned.fits(new.lm, new.lm_sha256)]
        for name, entries in _entries(bundle.folder).items()
    }
    stored[decoder] = [dict(values), *stored.get(decoder, [])]
    document = {
        name: {**latest, **({"more": more} if more else {})} for name, (latest, *more) in stored.items()
    }
    path = bundle.folder / TUNED
    text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)
    write_atomically(path, (text + "\n").encode())
    return path


def _entries(folder: Path) -> dict[str, list[tuple[dict[str, Any], Tuned]]]:
    """Decoder -> what is stored of each language model, as it is written and as it is used.

    The latest stands at the top, those of other language models under `more`.
    """
    path = folder / TUNED
    if not path.is_file():
        return {}
    entries = {}
    try:
        for decoder, stored in parse_json(path.read_text(encoding="utf-8")).items():
            latest = {name: value for name, value in stored.items() if name != "more"}
            entries[decoder] = [(one, _parsed(one)) for one in (latest, *stored.get("more", []))]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise QuranAsrError(
            "does not hold tuned weights", where=str(path), remedy="remove it, or run `quran-asr lm tune`"
        ) from error
    return entries


def _parsed(values: Mapping[str, Any]) -> Tuned:
    lm, digest = values.get("lm", QURAN), values.get("lm_sha256", "")
    if not isinstance(lm, str) or not isinstance(digest, str):
        raise TypeError("the language model is not named by text")
    return Tuned(float(values["lm_weight"]), float(values["token_bonus"]), lm, digest)
