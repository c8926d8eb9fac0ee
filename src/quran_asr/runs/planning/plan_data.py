"""What is amiss with a recipe for these data: limits, masks, vocabulary, and hours for new decoders."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable

from quran_asr.findings import Finding, Severity
from quran_asr.runs.planning.plan_start import BIG
from quran_asr.runs.planning.workload import Workload, expected_tokens, tokens_a_word
from quran_asr.runs.schema import Recipe

SHORT_CLIP, FEW_MASKS = 10.0, 2
"""Seconds under which NeMo's ten time masks have been seen to hurt, and the masks to take then."""
LEFT_OUT = 0.1
"""Share of the hours above which leaving them out is no detail."""
TOKEN_EXAMPLES = 100
"""Times that an average token should be heard: 256 tokens fit ten hours, 1,024 some fifty."""
HOURS_FOR_FRESH = 25.0
"""Hours that were too few for 1,024 new tokens on a pretrained encoder: WER 0.93 after 90 epochs (NeMo's
issues 15819 and 15830)."""
FRESH_TOKENS = 1024
SMALLEST_VOCABULARY = 64
"""The smallest that every spelling can be written with."""
LONGEST_LIMIT = 60.0
"""Seconds up to which raising `max_duration` is worth its memory; longer recordings are cut better."""


def data_findings(recipe: Recipe, work: Workload | None, parameters: int) -> list[Finding]:
    """All that the clips, their hours and their text make doubtful."""
    if work is None:
        return []
    return [
        *_left_out(recipe, work),
        *_masks(recipe, work),
        *_characters(recipe, work),
        *_vocabulary(recipe, work),
        *_fresh_decoders(recipe, work, parameters),
    ]


def _left_out(recipe: Recipe, work: Workload) -> list[Finding]:
    if not work.left_out_clips:
        return []
    data = recipe.model.train_ds
    share = work.left_out_hours / (work.hours + work.left_out_hours)
    mend = "cut long recordings at verses"
    if work.longest is not None and data.max_duration < min(work.longest, LONGEST_LIMIT):
        limit = min(math.ceil(work.longest), round(LONGEST_LIMIT))
        keeps = "keeps them" if work.longest <= LONGEST_LIMIT else "keeps more"
        mend = f"model.train_ds.max_duration={limit} {keeps} and costs memory; or {mend}"
    severity: Severity = "warning" if share > LEFT_OUT else "note"
    return [
        Finding(
            severity if work.clips else "error",
            "left-out-clips",
            "model.train_ds.max_duration",
            f"{work.left_out_clips:,} clips with {work.left_out_hours:.2f} h, {share:.0%} of the hours, are "
            f"left out: longer than {data.max_duration:g} s or shorter than {data.min_duration:g} s",
            mend,
        )
    ]


def _masks(recipe: Recipe, work: Workload) -> list[Finding]:
    masks, width = recipe.model.spec_augment.time_masks, recipe.model.spec_augment.time_width
    if masks <= FEW_MASKS or not width or not work.clips:
        return []
    middle = statistics.median(work.durations) if work.durations else work.mean_seconds
    if middle >= SHORT_CLIP:
        return []
    hidden = 1 - (1 - width / 2) ** masks
    half = "half of the clips are shorter than" if work.durations else "clips have on average"
    return [
        Finding(
            "note",
            "short-clips-masked",
            "model.spec_augment.time_masks",
            f"{half} {middle:.1f} s, and each gets {masks} time masks, which hide {hidden:.0%} of it: whole "
            "words of a short clip",
            f"model.spec_augment.time_masks={FEW_MASKS}",
        )
    ]


def _characters(recipe: Recipe, work: Workload) -> list[Finding]:
    if not work.unknown_characters:
        return []
    names = " ".join(f"U+{ord(sign):04X}" for sign in work.unknown_characters[:8])
    return [
        Finding(
            "error",
            "unknown-characters",
            "quran.spelling",
            f"the clips' text has signs that the Quran in the spelling `{recipe.quran.spelling}` has not, so "
            f"no token stands for them: {names}",
            "quran.spelling=letters; or name `verses` in the manifest, whose text is then the edition's",
        )
    ]


def _vocabulary(recipe: Recipe, work: Workload) -> list[Finding]:
    """Tokens that are heard too seldom to be learned."""
    size = recipe.quran.vocabulary_size
    if not work.words or recipe.model.tokenizer.dir is not None:
        return []
    heard = expected_tokens(recipe, work.words) / size
    fitting = _largest_that(lambda tokens: _heard(recipe, work.words or 0, tokens) >= TOKEN_EXAMPLES, size)
    enough = _heard(recipe, work.words, fitting) >= TOKEN_EXAMPLES
    if heard >= TOKEN_EXAMPLES or fitting >= size:
        return []
    return [
        Finding(
            "warning",
            "large-vocabulary",
            "quran.vocabulary_size",
            f"{size:,} tokens for {work.words:,} words of text: an average one is heard {heard:.0f} times, "
            f"and {TOKEN_EXAMPLES} are wanted",
            f"quran.vocabulary_size={fitting}" + ("" if enough else "; and more clips"),
        )
    ]


def _heard(recipe: Recipe, words: int, tokens: int) -> float:
    return words * tokens_a_word(recipe.quran.spelling, tokens) / tokens


def _fresh_decoders(recipe: Recipe, work: Workload, parameters: int) -> list[Finding]:
    """New tokens on a pretrained encoder: its decoders start fresh, and hours must teach them."""
    size = recipe.quran.vocabulary_size
    fresh = recipe.init_from_pretrained_model is not None and recipe.model.tokenizer.dir is None
    if not fresh or parameters < BIG or not work.clips:
        return []
    fitting = _largest_that(lambda tokens: work.hours > HOURS_FOR_FRESH * tokens / FRESH_TOKENS, size)
    if work.hours > HOURS_FOR_FRESH * size / FRESH_TOKENS or fitting >= size:
        return []
    return [
        Finding(
            "warning",
            "few-hours-for-fresh-decoders",
            "quran.vocabulary_size",
            f"the start knows none of our {size:,} tokens, so both decoders begin fresh, and "
            f"{work.hours:.1f} h teach them little: elsewhere {HOURS_FOR_FRESH:g} h were too few for "
            f"{FRESH_TOKENS:,}",
            f"quran.vocabulary_size={fitting}; better still, more recitations",
        )
    ]


def _largest_that(fits: Callable[[int], bool], below: int) -> int:
    """The largest power of two under a size that fits, or the smallest vocabulary."""
    sizes = [2**power for power in range(12, 5, -1) if 2**power < below]
    return next((size for size in sizes if fits(size)), min(SMALLEST_VOCABULARY, below))
