"""Memory of a training step: process memory, the heaviest batch, and the largest batch that fits.

On a GPU it is done for real. On a CPU too if that takes seconds; else smaller batches are measured, and the
rest is computed. The audio is noise: memory depends on lengths alone.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import math
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from quran_asr.config.schema import Augment, Recipe, TrainData
from quran_asr.errors import Finding, QuranAsrError
from quran_asr.experiments.checks.machine import available_memory, format_bytes
from quran_asr.experiments.checks.outcome import Outcome, failure, passed, warning
from quran_asr.experiments.training_clips import with_windows
from quran_asr.records import SAMPLE_RATE, Segment
from quran_asr.training.cpu import choose_threads
from quran_asr.training.data.batches import Batch, Clip, ClipSet
from quran_asr.training.distributed import Ranks
from quran_asr.training.model import build_model
from quran_asr.training.module import TrainingModule
from quran_asr.training.out_of_memory import batch_overrides, budgets
from quran_asr.training.tokenizer import Tokenizer

# glibc's malloc keeps what is freed, in pieces that a later tensor may fit into or not: what a process holds
# at its height then depends on all that it did before, and differs by a fifth from run to run. While memory
# is counted, every large block is a mapping of its own, which goes back when it is freed, and the kernel
# keeps the height itself: nothing falls between two looks at it.

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
"""Parameters of glibc's `mallopt` (man 3 mallopt)."""
_LARGE = 64 * 1024
"""Bytes from which a block is a mapping of its own while memory is counted."""
_USUAL = 32 * 1024 * 1024
"""Where glibc's own threshold ends once blocks of this size have been freed."""


class Peak:
    """The most bytes that this process has held since a point in time, above what it held then."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Count from now on."""
        release_free_memory()
        with contextlib.suppress(OSError):  # not allowed: an earlier, greater height counts, too
            _RESET.write_text("5", encoding="ascii")
        self.began = _bytes("VmRSS")

    def __call__(self) -> int:
        """Bytes; 0 where it cannot be measured."""
        return max(0, _bytes("VmHWM") - self.began)


@contextlib.contextmanager
def counted() -> Iterator[Peak]:
    """Memory is counted from here on, and exactly so; malloc is slower meanwhile, and as usual afterwards."""
    _set_malloc({_MMAP_MAX: 1_000_000, _MMAP_THRESHOLD: _LARGE, _TRIM_THRESHOLD: _LARGE})
    try:
        yield Peak()
    finally:
        _set_malloc({_MMAP_MAX: 65_536, _MMAP_THRESHOLD: _USUAL, _TRIM_THRESHOLD: 2 * _USUAL})


def countable() -> bool:
    """Whether this system reports what a process holds, and can reset that peak."""
    try:
        _RESET.write_text("5", encoding="ascii")
    except OSError:
        return False
    return _bytes("VmHWM") > 0


def release_free_memory() -> None:
    """Return to the system what earlier work has freed: it would be taken again, and not be counted."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # glibc's; others keep little
        ctypes.CDLL(None).malloc_trim(0)


def _set_malloc(settings: dict[int, int]) -> None:
    with contextlib.suppress(OSError, AttributeError):  # musl and macOS have none
        mallopt = ctypes.CDLL(None).mallopt
        for parameter, value in settings.items():
            mallopt(parameter, value)


def _bytes(name: str) -> int:
    try:
        lines = _STATUS.read_text(encoding="ascii").splitlines()
    except OSError:  # no Linux
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:")), 0)


CPU_SECONDS = 10.0
"""For the batches that a CPU is measured by."""
COMFORT = 0.9
"""Share of the memory up to which a batch fits for sure: what is free breaks into pieces."""
HEAP = 2.0
"""Bytes that a training on a CPU holds for each byte of a step's tensors: malloc keeps what is freed, in
pieces that the next batch's lengths do not all fit, and oneDNN what it made for each length."""


@dataclass(frozen=True, slots=True)
class Shape:
    """The lengths of a batch, which decide its memory."""

    seconds: tuple[float, ...]
    tokens: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.seconds)

    @property
    def padded_seconds(self) -> float:
        return max(self.seconds) * len(self)

    @property
    def lattice(self) -> float:
        """Proportional to the cells of the transducer's lattices."""
        return sum(seconds * tokens for seconds, tokens in zip(self.seconds, self.tokens, strict=True))

    def first(self, clips: int) -> Shape:
        return Shape(self.seconds[:clips], self.tokens[:clips])

    def shortened(self, seconds: float) -> Shape:
        """The same clips cut to a length, with as many tokens a second."""
        return Shape(
            tuple(min(length, seconds) for length in self.seconds),
            tuple(
                max(1, round(tokens * min(1.0, seconds / length)))
                for length, tokens in zip(self.seconds, self.tokens, strict=True)
            ),
        )

    def __str__(self) -> str:
        clips = "1 clip" if len(self) == 1 else f"{len(self)} clips"
        return f"{clips} of up to {max(self.seconds):.1f} s and {max(self.tokens)} tokens"


def heaviest(
    data: TrainData, augment: Augment | None, seconds: Sequence[float], tokens: Sequence[int]
) -> list[Shape]:
    """The batch with the longest clips that an epoch can have, and the one with the most tokens.

    Args:
        data: its `batch_size` and `batch_duration` fill batches.
        augment: it may slow clips down.
        seconds: of each training clip.
        tokens: of each training clip.
    """
    slowest = min(augment.speed) * min(augment.tempo) if augment is not None else 1.0
    stretched = [length / slowest for length in seconds]
    by_length = _fill(data, stretched, tokens, sorted(range(len(tokens)), key=lambda i: -stretched[i]))
    richest = max(range(len(tokens)), key=lambda i: tokens[i])
    near = [i for i, length in enumerate(stretched) if 0.8 <= length / stretched[richest] <= 1.25]
    by_tokens = _fill(data, stretched, tokens, sorted(near, key=lambda i: -tokens[i]))
    return [by_length, by_tokens] if by_tokens.lattice > 1.05 * by_length.lattice else [by_length]


def check_memory(
    recipe: Recipe, tokenizer: Tokenizer, training: Sequence[Segment], device: torch.device
) -> Outcome:
    """Forward and backward of the heaviest batch on a device, and what would fit if it does not."""
    training = with_windows(training, recipe.quran, recipe.model.train_ds.max_duration)
    clips = [Clip(segment, tuple(tokenizer.encode(segment.text))) for segment in training]
    seconds, tokens = [s.duration for s in training], [len(clip.tokens) for clip in clips]
    shapes = heaviest(recipe.model.train_ds, recipe.quran.augment, seconds, tokens)
    trial = Trial(recipe, tokenizer, clips[:1], device)
    tried = [(shape, *trial.needs(shape)) for shape in shapes]
    shape, needed, how = max(tried, key=lambda one: one[1])
    free = trial.free
    if free is None:
        return passed(
            f"the heaviest batch ({shape}) takes {format_bytes(needed)} ({how}); how much is free is unknown"
        )
    sizes = f"{format_bytes(needed)} of {format_bytes(free)} that are free"
    message = f"the heaviest batch ({shape}) takes {sizes} ({how})"
    if needed <= COMFORT * free:
        return passed(message)
    accumulation = recipe.trainer.accumulate_grad_batches
    remedy = _what_fits(recipe.model.train_ds, accumulation, shape, trial.always, needed, free)
    return (failure if needed > free else warning)(message, remedy)


class Trial:
    """Steps of a training on synthetic audio."""

    def __init__(
        self, recipe: Recipe, tokenizer: Tokenizer, clips: Sequence[Clip], device: torch.device
    ) -> None:
        """`clips`: at least one of the training, since a training module needs some."""
        few = ClipSet(clips, cache_bytes=0)
        model = build_model(recipe, tokenizer.folder)
        choose_threads(model)
        module = TrainingModule(model, recipe, few, few, lambda finding: None)
        self.module: TrainingModule = module.to(device).train()
        self.device = device
        self.half = recipe.trainer.precision == "bf16-mixed" and device.type == "cuda"
        parameters = 4 * sum(p.numel() for p in module.parameters())
        buckets = parameters if recipe.trainer.devices * recipe.trainer.num_nodes > 1 else 0
        kept = parameters if recipe.trainer.accumulate_grad_batches > 1 else 0
        self.beside = buckets + kept
        """Bytes that no trial takes: DDP's buckets, and gradients kept while they accumulate."""
        if device.type == "cuda":
            self.optimizer = torch.optim.AdamW(module.parameters(), lr=1e-9)
            self.free: int | None = torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
            self.always = 4 * parameters + self.beside
            """Bytes that are taken whatever the batch: weights, gradients, AdamW's two moment tensors."""
        else:
            self.beside += 2 * parameters  # AdamW's moments: a trial on a CPU takes no optimizer step
            self.free = available_memory()
            self.always = parameters + self.beside  # the weights are there already

    def needs(self, shape: Shape) -> tuple[int, str]:
        """Bytes that a step with a batch takes, and how that is known."""
        return (_on_gpu if self.device.type == "cuda" else _on_cpu)(self, shape)

    def losses(self, shape: Shape) -> None:
        """Forward and backward."""
        batch = _noise(shape, int(self.module.model.tokenizer.vocab_size)).to(self.device)
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.half):
            transducer, ctc, consistency = self.module.losses(batch)
            assert transducer is not None
            loss: torch.Tensor = transducer.mean() + ctc.mean()
            if consistency is not None:
                loss = loss + consistency.mean()
            loss.backward()  # type: ignore[no-untyped-call]


def _on_gpu(trial: Trial, shape: Shape) -> tuple[int, str]:
    """Bytes that the batch takes with an optimizer step; of one that does not fit, estimated by its half."""
    clips = len(shape)
    peaks: dict[int, int] = {}
    while clips and len(peaks) < (1 if clips == len(shape) else 2):
        with contextlib.suppress(torch.OutOfMemoryError):
            peaks[clips] = _gpu_peak(trial, shape.first(clips)) + trial.beside
        trial.module.zero_grad()
        torch.cuda.empty_cache()
        clips //= 2
    if len(shape) in peaks:
        return peaks[len(shape)], "measured"
    assert trial.free is not None
    if not peaks:
        return max(2 * trial.free, trial.always), "out of memory already with one clip"
    least = trial.free + 1  # it was tried, and did not fit
    if len(peaks) == 1:
        return max(least, 2 * max(peaks.values())), "out of memory"
    (more, much), (fewer, little) = sorted(peaks.items(), reverse=True)
    estimated = much + (len(shape) - more) * (much - little) / (more - fewer)
    return max(least, round(estimated)), f"out of memory; estimated from {more} clips"


def _gpu_peak(trial: Trial, shape: Shape) -> int:
    for _ in range(2):  # AdamW's moments are made in the first step
        torch.cuda.reset_peak_memory_stats(trial.device)
        trial.losses(shape)
        trial.optimizer.step()
        trial.optimizer.zero_grad()
    return torch.cuda.max_memory_reserved(trial.device)


def _on_cpu(trial: Trial, shape: Shape) -> tuple[int, str]:
    """Bytes above what the process has now, the optimizer's moments among them; tensors are counted."""
    longest = max(shape.seconds)
    with counted() as peak:
        tiny = shape.first(1).shortened(1.0)
        trial.losses(tiny)  # what is made once, at the first pass: the slowest
        began = time.process_time()
        trial.losses(tiny)
        speed = (time.process_time() - began) / max(tiny.seconds)
        if speed * shape.padded_seconds <= CPU_SECONDS:
            trial.module.zero_grad()
            trial.losses(shape)
            return round(HEAP * peak()) + trial.beside, "measured"
        length = min(longest, max(1.0, CPU_SECONDS / 3 / speed))
        few = max(1, min(len(shape) // 2, int(CPU_SECONDS / 3 / speed / length)))
        short = shape.shortened(length)
        trial.module.zero_grad()
        trial.losses(short.first(few))
        of_few = peak()
        trial.module.zero_grad()
        trial.losses(short.first(2 * few))
        a_second = max(0, peak() - of_few) / (few * length)
    whole = of_few + a_second * (shape.padded_seconds - few * length) + _attention(trial, shape, length)
    return round(HEAP * whole) + trial.beside, f"estimated from {few} and {2 * few} clips of {length:.1f} s"


def _attention(trial: Trial, shape: Shape, measured: float) -> float:
    """Bytes by which scores of attention grow faster than the clips: three matrices a layer are kept."""
    encoder = trial.module.recipe.model.encoder
    a_second = 1 / (trial.module.recipe.model.preprocessor.window_stride * encoder.subsampling_factor)
    each = 3 * 4 * encoder.n_layers * encoder.n_heads * a_second**2
    longest = max(shape.seconds)
    return len(shape) * each * (longest**2 - measured * longest)


def _noise(shape: Shape, vocabulary: int) -> Batch:
    draw = torch.Generator().manual_seed(0)
    lengths = torch.tensor([max(1, round(SAMPLE_RATE * seconds)) for seconds in shape.seconds])
    tokens = torch.tensor(shape.tokens)
    return Batch(
        0.1 * torch.randn(len(shape), int(lengths.max()), generator=draw),
        lengths,
        torch.randint(1, vocabulary, (len(shape), int(tokens.max())), generator=draw),
        tokens,
        (),  # no clip of the set: no text from which a prefix could be drawn
    )


def _fill(data: TrainData, seconds: Sequence[float], tokens: Sequence[int], order: Sequence[int]) -> Shape:
    """A batch of the first clips of an order, as full as the limits allow."""
    chosen: list[int] = []
    widest = 0.0
    for i in order:
        wider = max(widest, seconds[i])
        if chosen and data.batch_duration is not None and wider * (len(chosen) + 1) > data.batch_duration:
            continue
        chosen.append(i)
        widest = wider
        if len(chosen) == data.batch_size:
            break
    return Shape(tuple(seconds[i] for i in chosen), tuple(tokens[i] for i in chosen))


def _what_fits(
    data: TrainData, accumulation: int, shape: Shape, always: int, needed: float, free: float
) -> str:
    """The overrides with which batches fit and the effective batch stays."""
    a_clip = max(1.0, (needed - always) / len(shape))
    clips = math.floor((COMFORT * free - always) / a_clip)
    if clips < 1:
        return "a smaller model.train_ds.max_duration, or a smaller recipe (`quran-asr recipe list`)"
    parts = math.ceil(len(shape) / clips)
    if data.batch_duration is not None:
        change = f"model.train_ds.batch_duration={data.batch_duration / parts:g}"
    else:
        change = f"model.train_ds.batch_size={max(1, data.batch_size // parts)}"
    return f"{change} trainer.accumulate_grad_batches={accumulation * parts}"


LENGTHS = (1.0, 0.5, 0.25)
"""Shares of the longest clip up to which the worst batch is tried: shorter clips make larger batches."""


@dataclass(frozen=True, slots=True)
class MemoryBudget:
    """A request for the largest batch that fits."""

    bytes: int | None = None
    """Into so many; None: into what is free on the device of the training."""


def fit_memory(
    recipe: Recipe,
    tokenizer: Tokenizer,
    training: Sequence[Segment],
    device: torch.device,
    budget: MemoryBudget,
    on_finding: Callable[[Finding], None],
    ranks: Ranks = Ranks(),  # noqa: B008 - frozen
) -> Recipe:
    """The recipe with the largest batch of which the worst ones fit; all processes come to the same.

    Forward pass, backward pass and optimizer step are made with noise, as the recipe's model makes them. Of
    the batches that divide the effective batch, the largest is taken of which the worst batch of each length
    needs no more than `COMFORT` of the memory. On a CPU long batches are estimated from short ones.

    Args:
        recipe: what is to be trained.
        tokenizer: of the training.
        training: the clips.
        device: where the training takes place.
        budget: the memory.
        on_finding: called with what was tried and chosen.
        ranks: the processes of the training.

    Raises:
        QuranAsrError: a single clip does not fit.
    """
    clips = [Clip(segment, tuple(tokenizer.encode(segment.text))) for segment in training]
    choices = budgets(recipe)
    number, free = _largest_that_fits(recipe, choices, clips, tokenizer, device, budget, ranks, on_finding)
    release_free_memory()  # the model that was tried with
    if device.type == "cuda":
        torch.cuda.empty_cache()
    if free is None:
        on_finding(_note("how much memory is free is unknown here: the batch stays as it is"))
        return recipe
    number = max(ranks.gather(number))
    if number == len(choices):
        longest = max(training, key=lambda segment: segment.duration)
        raise QuranAsrError(
            f"a batch of one clip of {longest.duration:.1f} s does not fit into {format_bytes(free)}",
            where=longest.audio,
            remedy=f"leave long clips out, model.train_ds.max_duration={max(1.0, longest.duration / 2):.1f}; "
            "or take a smaller recipe (`quran-asr recipe list`)",
        )
    fitted: Recipe = choices[number]
    behind = fitted.model.train_ds.batch_size * fitted.trainer.accumulate_grad_batches * ranks.size
    on_finding(
        _note(
            f"{batch_overrides(fitted)} is the largest batch that fits into {COMFORT:.0%} of "
            f"{format_bytes(free)}; the effective batch is {behind} as before"
        )
    )
    return fitted


def _largest_that_fits(
    recipe: Recipe,
    choices: Sequence[Recipe],
    clips: Sequence[Clip],
    tokenizer: Tokenizer,
    device: torch.device,
    budget: MemoryBudget,
    ranks: Ranks,
    on_finding: Callable[[Finding], None],
) -> tuple[int, int | None]:
    """The place of the first choice that fits, their number if none does; and the memory, None if unknown."""
    trial = Trial(recipe, tokenizer, clips[:1], device)
    free = trial.free if budget.bytes is None else budget.bytes
    if free is None:
        return 0, None
    if device.type == "cpu" and budget.bytes is None:
        free //= ranks.size
    seconds, tokens = [clip.segment.duration for clip in clips], [len(clip.tokens) for clip in clips]
    tried: dict[Shape, int] = {}

    def fits(choice: Recipe) -> bool:
        for shape in worst_batches(choice.model.train_ds, choice.quran.augment, seconds, tokens):
            if shape not in tried:
                tried[shape], how = trial.needs(shape)
                on_finding(_note(f"{shape} take {format_bytes(tried[shape])} ({how})"))
            if tried[shape] > COMFORT * free:
                return False
        return True

    return bisect_left(choices, True, key=fits), free


def worst_batches(
    data: TrainData, augment: Augment | None, seconds: Sequence[float], tokens: Sequence[int]
) -> list[Shape]:
    """The batches that can take the most memory: of each length, but none that another surpasses in all.

    Args:
        data: its limits fill the batches.
        augment: it may slow clips down.
        seconds: of each clip.
        tokens: of each clip.
    """
    worst: list[Shape] = []
    for shape in _of_each_length(data, augment, seconds, tokens):
        if not any(
            one.padded_seconds >= shape.padded_seconds
            and one.lattice >= shape.lattice
            and max(one.seconds) >= max(shape.seconds)
            for one in worst
        ):
            worst.append(shape)
    return worst


def _of_each_length(
    data: TrainData, augment: Augment | None, seconds: Sequence[float], tokens: Sequence[int]
) -> Iterator[Shape]:
    for share in LENGTHS:
        chosen = [i for i, length in enumerate(seconds) if length <= share * max(seconds)]
        if chosen:
            yield from heaviest(data, augment, [seconds[i] for i in chosen], [tokens[i] for i in chosen])


def _note(message: str) -> Finding:
    return Finding("note", "fit-memory", "", message, "")
