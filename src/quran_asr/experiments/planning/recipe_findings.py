"""Faults of a recipe for its data and device, each with its remedy.

A remedy begins with the words to add to the command; what else could be done comes after them.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from quran_asr.config.schema import Model, Quran, Recipe, SpecAugment, TrainData, Trainer
from quran_asr.errors import Finding, Severity
from quran_asr.experiments.diagnostics.rules import unknown_codes
from quran_asr.experiments.planning.cost import Batch, step_memory
from quran_asr.experiments.planning.starting_point import BIG
from quran_asr.experiments.planning.timing import Target
from quran_asr.experiments.planning.workload import Workload, tokens_a_word

HIGHEST_RATE = 2e-3
"""Peak learning rate above which this encoder under AdamW has been seen to diverge (2.21e-3)."""
HIGHEST_FROM_PRETRAINED = 1.5e-3
"""The guide's highest for a pretrained start is 1.25e-3 (Noam 2.0, warm-up 5,000)."""
LOWEST_FROM_PRETRAINED, LOWEST_FROM_RANDOM = 2e-5, 1e-4
"""NeMo's advice for fine-tuning begins at 1e-4 and ends at 5e-6: a peak near its end moves nothing."""
GOOD_RATE = 1.2e-3
"""The guide's peak, 1.21e-3."""
LEAST_BATCH, GOOD_BATCH = 64, 128
"""Clips behind an optimizer step: under the first a big model's gradient is noisy (the guide's 32 was)."""
LONGEST_WARMUP, LONGEST_WARMUP_OF_SHORT = 0.1, 0.25
"""Share of all steps; the second for small models, whose warm-up counts in steps (240 of 2,000)."""
RESERVE = 1.5e9
"""Bytes of a GPU that are not ours: a CUDA context, workspaces, fragmentation. Not measured here."""


def stop_findings(stop_on: Sequence[str]) -> list[Finding]:
    """Codes in `quran.stop_on` that no diagnostic has."""
    return [
        Finding("error", "unknown-diagnostic", "quran.stop_on", error.what, error.remedy)
        for error in unknown_codes(stop_on)
    ]


def rate_findings(
    model: Model, pretrained: bool, peak_rate: float | None, steps: int | None
) -> list[Finding]:
    """A peak learning rate that destroys, or one that moves nothing."""
    if peak_rate is None:
        return []
    optim = model.optim
    noam = optim.sched.name == "NoamAnnealing"
    highest = HIGHEST_FROM_PRETRAINED if pretrained else HIGHEST_RATE
    lowest = LOWEST_FROM_PRETRAINED if pretrained else LOWEST_FROM_RANDOM
    if lowest <= peak_rate <= highest:
        return []
    high = peak_rate > highest
    if not high and steps is not None and steps <= optim.sched.warmup_steps:
        return []  # the training ends within its warm-up, which has a finding of its own
    where_from = "a pretrained start" if pretrained else "a random start"
    why = "too high for this encoder"
    if high and pretrained:
        why = "too high for a pretrained start: it destroys what was learned"
    elif not high:
        why = f"too low for {where_from}: the weights will hardly change"
    return [
        Finding(
            "warning",
            "high-learning-rate" if high else "low-learning-rate",
            "model.optim.lr",
            f"the learning rate peaks at {peak_rate:.2e}"
            + (f" (Noam's {optim.lr:g} is a multiplier)" if noam else "")
            + f": {why}",
            _rate_remedy(model, pretrained, high),
        )
    ]


def _rate_remedy(model: Model, pretrained: bool, high: bool) -> str:
    optim, width = model.optim, model.encoder.d_model
    if optim.sched.name != "NoamAnnealing":
        rate = 1e-4 if pretrained and not high else 1e-3
        return f"model.optim.lr={rate:.1e} peaks there"
    if high and width == 512:
        return "model.optim.lr=1.5 model.optim.sched.warmup_steps=3000 peaks at 1.21e-03, as in the guide"
    rate = noam_multiplier(GOOD_RATE, width, optim.sched.warmup_steps)
    return f"model.optim.lr={rate:.3g} peaks at {GOOD_RATE:.2e}"


def noam_multiplier(peak: float, width: int, warmup: int) -> float:
    """Noam's `lr` for a peak: peak = lr * d_model^-0.5 * warmup^-0.5 (arXiv:1706.03762, section 5.3)."""
    return peak * math.sqrt(width * max(1, warmup))


def warmup_findings(
    model: Model, pretrained: bool, steps: int | None, steps_per_epoch: int | None, parameters: int
) -> list[Finding]:
    """A warm-up that takes much of the training, or ends before every clip was seen once."""
    if not steps:
        return []
    warmup, big = model.optim.sched.warmup_steps, parameters >= BIG
    longest = LONGEST_WARMUP if big else LONGEST_WARMUP_OF_SHORT
    where = "model.optim.sched.warmup_steps"
    if warmup > longest * steps:
        share = warmup / steps
        what = (
            "is longer than the training: the rate never reaches its peak"
            if share > 1
            else f"takes {share:.0%} of the training, and the rate is near its peak for little of it"
        )
        better = 3000 if big and steps >= 30_000 else max(1, steps // 10)
        if better != 3000 and big:
            better = min(better, max(steps // 20, steps_per_epoch or 0, 1))
        message = f"a warm-up of {warmup:,} of {steps:,} optimizer steps {what}"
        remedy = f"{_warmup_remedy(model, pretrained, better)}; or train longer"
        return [Finding("warning", "long-warmup", where, message, remedy)]
    if big and steps_per_epoch and warmup < steps_per_epoch <= LONGEST_WARMUP * steps:
        message = (
            f"a warm-up of {warmup:,} optimizer steps ends within the first epoch of {steps_per_epoch:,}: "
            "the rate is at its peak before every clip was seen once"
        )
        remedy = _warmup_remedy(model, pretrained, steps_per_epoch)
        return [Finding("note", "short-warmup", where, message, remedy)]
    return []


def _warmup_remedy(model: Model, pretrained: bool, warmup: int) -> str:
    """Another warm-up; with Noam the multiplier too, since the peak depends on both."""
    remedy = f"model.optim.sched.warmup_steps={warmup}"
    optim, width = model.optim, model.encoder.d_model
    if optim.sched.name != "NoamAnnealing" or warmup == optim.sched.warmup_steps:
        return remedy
    highest = HIGHEST_FROM_PRETRAINED if pretrained else HIGHEST_RATE
    # the peak of a training that is long enough to reach it
    meant = optim.lr / noam_multiplier(1.0, width, max(1, optim.sched.warmup_steps))
    wanted = meant if LOWEST_FROM_RANDOM <= meant <= highest else GOOD_RATE
    rate = noam_multiplier(wanted, width, warmup)
    return f"{remedy} model.optim.lr={rate:.3g} (peaks at {wanted:.2e})"


def batch_findings(
    data: TrainData, trainer: Trainer, effective: int, parameters: int, devices: int
) -> list[Finding]:
    """Too few clips behind an optimizer step of a big model."""
    if parameters < BIG or effective >= LEAST_BATCH:
        return []
    workers = devices * trainer.num_nodes
    if data.batch_duration is None:
        clips = max(32, data.batch_size)
        accumulation = math.ceil(GOOD_BATCH / (clips * workers))
        remedy = f"trainer.accumulate_grad_batches={accumulation}"
        if clips != data.batch_size:
            remedy = f"model.train_ds.batch_size={clips} {remedy}"
            fitting = math.ceil(GOOD_BATCH / (data.batch_size * workers))
            remedy += f"; where memory is short, trainer.accumulate_grad_batches={fitting} alone"
    else:
        accumulation = math.ceil(trainer.accumulate_grad_batches * GOOD_BATCH / effective)
        remedy = f"trainer.accumulate_grad_batches={accumulation}"
    return [
        Finding(
            "warning",
            "small-batch",
            "model.train_ds.batch_size",
            f"an effective batch of {effective} clips gives noisy gradients: {GOOD_BATCH} are the guide's",
            remedy,
        )
    ]


def precision_findings(trainer: Trainer, parameters: int, target: Target | None) -> list[Finding]:
    """float32 where bf16 is fast, or bf16 where the device has none."""
    device = target.row if target is not None else None
    cpu = trainer.accelerator == "cpu" or (target is not None and target.is_cpu)
    if cpu:
        return []
    if trainer.precision == 32 and parameters >= BIG and (device is None or device.bf16):
        return [
            Finding(
                "warning",
                "full-precision",
                "trainer.precision",
                "float32 is two to three times slower than bf16-mixed, which loses no accuracy"
                + ("" if device is None else f", and {device.name} has bf16"),
                "trainer.precision=bf16-mixed",
            )
        ]
    if trainer.precision == "bf16-mixed" and device is not None and not device.bf16:
        return [
            Finding(
                "warning",
                "no-bf16",
                "trainer.precision",
                f"{device.name} has no bf16: torch emulates it, slower than float32",
                "trainer.precision=32",
            )
        ]
    return []


def memory_findings(
    recipe: Recipe, batch: Batch, which: str, target: Target | None, devices: int
) -> list[Finding]:
    """A step that by the estimate does not fit the device, and the same effective batch in parts that do."""
    room = target.row.memory_bytes if target is not None and target.row is not None else None
    if room is None:
        return []
    needed = step_memory(recipe, batch, devices=devices).total + RESERVE
    if needed <= room:
        return []
    assert target is not None
    remedy = "take a device with more memory, or a smaller model such as the recipe `small`"
    for change, smaller, fewer in _in_parts(recipe, batch):
        if step_memory(smaller, fewer, devices=devices).total + RESERVE <= room:
            remedy = f"{change} has the same effective batch"
            if change == _LOW_MEMORY:
                remedy += ", as the recipe `low-memory`"
            break
    return [
        Finding(
            "warning",
            "does-not-fit",
            "model.train_ds.batch_size",
            f"a step takes about {needed / 2**30:.1f} GiB, and {target.name} has {room / 2**30:.0f} "
            f"(an estimate for {which})",
            remedy,
        )
    ]


_LOW_MEMORY = "model.train_ds.batch_size=16 trainer.accumulate_grad_batches=4 model.joint.fused_batch_size=4"


def _in_parts(recipe: Recipe, batch: Batch) -> Iterator[tuple[str, Recipe, Batch]]:
    """The same effective batch in ever smaller parts: the overrides, the recipe, its largest batch."""
    data, trainer, fused = recipe.model.train_ds, recipe.trainer, recipe.model.joint.fused_batch_size
    tile = min(fused or data.batch_size, data.batch_size)
    for power in range(1, 8):
        parts = 2**power
        if data.batch_size < parts:
            return
        clips, accumulation = data.batch_size // parts, trainer.accumulate_grad_batches * parts
        joined = max(1, tile // parts)
        fewer = math.ceil(batch.clips / parts)
        change = f"model.train_ds.batch_size={clips} trainer.accumulate_grad_batches={accumulation}"
        seconds = data.batch_duration
        if seconds is not None:
            seconds = max(batch.seconds, seconds / parts)
            fewer = max(1, min(clips, math.floor(seconds / batch.seconds)))
            change = f"model.train_ds.batch_duration={seconds:.4g} {change}"
        change += f" model.joint.fused_batch_size={joined}"
        model = replace(
            recipe.model,
            train_ds=replace(data, batch_size=clips, batch_duration=seconds),
            joint=replace(recipe.model.joint, fused_batch_size=joined),
        )
        smaller = replace(recipe, model=model, trainer=replace(trainer, accumulate_grad_batches=accumulation))
        yield change, smaller, replace(batch, clips=fewer)


SHORT_CLIP, FEW_MASKS = 10.0, 2
"""Seconds under which NeMo's ten time masks have been seen to hurt, and the masks to take then."""
LEFT_OUT = 0.1
"""Share of the hours above which leaving them out is more than a detail."""
TOKEN_EXAMPLES = 100
"""Times that an average token should occur: 256 tokens fit ten hours, 1,024 some fifty."""
HOURS_FOR_FRESH = 25.0
"""Hours that were too few for 1,024 new tokens on a pretrained encoder: WER 0.93 after 90 epochs (NeMo's
issues 15819 and 15830)."""
FRESH_TOKENS = 1024
SMALLEST_VOCABULARY = 64
"""The smallest that every spelling can be written with."""
LONGEST_LIMIT = 60.0
"""Seconds up to which raising `max_duration` is worth its memory; longer recordings are cut better."""


def data_findings(
    model: Model, quran: Quran, pretrained: bool, work: Workload | None, parameters: int
) -> list[Finding]:
    """All that the clips, their hours and their text make doubtful."""
    if work is None:
        return []
    findings = [
        *_left_out(model.train_ds, work),
        *_masks(model.spec_augment, work),
        *_characters(quran.spelling, work),
    ]
    if model.tokenizer.dir is None:  # the tokens are ours
        findings += _vocabulary(quran, work)
        if pretrained and parameters >= BIG:
            findings += _fresh_decoders(quran.vocabulary_size, work)
    return findings


def validation_findings(trainer: Trainer, steps: int | None) -> list[Finding]:
    """Of a training that ends before its first validation."""
    every = trainer.val_check_interval
    unit = "of an epoch" if isinstance(every, float) else "batches"
    end = f"after {steps:,} steps, " if steps else ""
    return [
        Finding(
            "warning",
            "no-validation",
            "trainer.val_check_interval",
            f"the training ends {end}before the first validation, due every {every:,} {unit}: no checkpoint "
            "can be chosen",
            "validate more often, or train longer",
        )
    ]


def _left_out(data: TrainData, work: Workload) -> list[Finding]:
    if work.durations is None and work.mean_seconds > data.max_duration:
        return [
            Finding(
                "error",
                "left-out-clips",
                "model.train_ds.max_duration",
                f"clips have on average {work.mean_seconds:,.0f} s, and those over {data.max_duration:g} s "
                "are left out",
                "cut long recordings at verses (`quran-asr corpus align`), or correct the numbers",
            )
        ]
    if not work.left_out_clips:
        return []
    share = work.left_out_hours / (work.hours + work.left_out_hours)
    remedy = "cut long recordings at verses"
    if work.longest is not None and data.max_duration < min(work.longest, LONGEST_LIMIT):
        limit = min(math.ceil(work.longest), round(LONGEST_LIMIT))
        keeps = "keeps them" if work.longest <= LONGEST_LIMIT else "keeps more"
        remedy = f"model.train_ds.max_duration={limit} {keeps} and costs memory; or {remedy}"
    severity: Severity = "warning" if share > LEFT_OUT else "note"
    return [
        Finding(
            severity if work.clips else "error",
            "left-out-clips",
            "model.train_ds.max_duration",
            f"{work.left_out_clips:,} clips with {work.left_out_hours:.2f} h, {share:.0%} of the hours, are "
            f"left out: longer than {data.max_duration:g} s or shorter than {data.min_duration:g} s",
            remedy,
        )
    ]


def _masks(augment: SpecAugment, work: Workload) -> list[Finding]:
    masks, width = augment.time_masks, augment.time_width
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


def _characters(spelling: str, work: Workload) -> list[Finding]:
    if not work.unknown_characters:
        return []
    names = " ".join(f"U+{ord(letter):04X}" for letter in work.unknown_characters[:8])
    return [
        Finding(
            "error",
            "unknown-characters",
            "quran.spelling",
            f"the clips' text has characters that the Quran in the spelling `{spelling}` does not have, so "
            f"the tokenizer has no token for them: {names}",
            "quran.spelling=letters; or name `verses` in the manifest, whose text is then the edition's",
        )
    ]


def _vocabulary(quran: Quran, work: Workload) -> list[Finding]:
    """Tokens that occur too rarely to be learned."""
    size, words = quran.vocabulary_size, work.words
    if not words:
        return []

    def occurrences_with(tokens: int) -> float:
        return words * tokens_a_word(quran.spelling, tokens) / tokens

    occurrences = occurrences_with(size)
    fitting = _largest_that(lambda tokens: occurrences_with(tokens) >= TOKEN_EXAMPLES, size)
    enough = occurrences_with(fitting) >= TOKEN_EXAMPLES
    if occurrences >= TOKEN_EXAMPLES or fitting >= size:
        return []
    return [
        Finding(
            "warning",
            "large-vocabulary",
            "quran.vocabulary_size",
            f"{size:,} tokens for {words:,} words: each occurs {occurrences:.0f} times on average, "
            f"and {TOKEN_EXAMPLES} are wanted",
            f"quran.vocabulary_size={fitting}" + ("" if enough else "; and more clips"),
        )
    ]


def _fresh_decoders(size: int, work: Workload) -> list[Finding]:
    """New tokens on a pretrained encoder: its decoders start fresh, and hours must teach them."""
    if not work.clips:
        return []
    fitting = _largest_that(lambda tokens: work.hours > HOURS_FOR_FRESH * tokens / FRESH_TOKENS, size)
    if work.hours > HOURS_FOR_FRESH * size / FRESH_TOKENS or fitting >= size:
        return []
    return [
        Finding(
            "warning",
            "few-hours-for-fresh-decoders",
            "quran.vocabulary_size",
            f"the pretrained model has none of these {size:,} tokens, so both decoders start from random "
            f"weights, and {work.hours:.1f} h are few: elsewhere {HOURS_FOR_FRESH:g} h were too few for "
            f"{FRESH_TOKENS:,}",
            f"quran.vocabulary_size={fitting}; better still, more recitations",
        )
    ]


def _largest_that(fits: Callable[[int], bool], below: int) -> int:
    """The largest power of two under a size that fits, or the smallest vocabulary."""
    sizes = [2**power for power in range(12, 5, -1) if 2**power < below]
    return next((size for size in sizes if fits(size)), min(SMALLEST_VOCABULARY, below))
