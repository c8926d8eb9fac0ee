"""The language model of a recognizer: which one, and with which weights.

The weights that `lm tune` found are kept in `fusion.json` in the bundle's folder and are the defaults then.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
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
LM_WEIGHT, TOKEN_BONUS = 0.7, 1.5
"""Defaults without tuning, chosen with a model of 1.8M parameters on validation clips."""


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
        decoder: whose tuned weights are the defaults.
        lm: `quran`, a file (`.npz`, or `.arpa` in NeMo's encoding of tokens), or a model.
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
    model = read_model(bundle, lm) if lm is not None else _of_passage(bundle, str(passage))
    tuned = read_tuned(bundle).get(BEAMS.get(decoder, decoder), {})
    return Fusion(
        model,
        tuned.get("lm_weight", LM_WEIGHT) if lm_weight is None else lm_weight,
        tuned.get("token_bonus", TOKEN_BONUS) if token_bonus is None else token_bonus,
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
    elif Path(lm).suffix == ".arpa":
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


def read_tuned(bundle: Bundle) -> dict[str, dict[str, float]]:
    """Decoder -> `lm_weight` and `token_bonus`, as `lm tune` found them; empty where nothing was tuned.

    Raises:
        QuranAsrError: the file is damaged.
    """
    path = bundle.folder / TUNED
    if not path.is_file():
        return {}
    try:
        stored = parse_json(path.read_text(encoding="utf-8"))
        return {
            decoder: {name: float(values[name]) for name in ("lm_weight", "token_bonus")}
            for decoder, values in stored.items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise QuranAsrError(
            "does not hold tuned weights", where=str(path), remedy="remove it, or run `quran-asr lm tune`"
        ) from error


def write_tuned(bundle: Bundle, decoder: str, values: Mapping[str, Any]) -> Path:
    """Store the tuned weights of a decoder in the bundle's folder; those of other decoders stay.

    Args:
        bundle: the acoustic model.
        decoder: a beam search.
        values: `lm_weight`, `token_bonus`, and how they were found.
    """
    path = bundle.folder / TUNED
    read_tuned(bundle)  # a damaged file is reported, not replaced
    before = parse_json(path.read_text(encoding="utf-8")) if path.is_file() else {}
    text = json.dumps({**before, decoder: dict(values)}, indent=2, ensure_ascii=False, allow_nan=False)
    write_atomically(path, (text + "\n").encode())
    return path
