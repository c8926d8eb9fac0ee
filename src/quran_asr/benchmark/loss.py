"""Time and memory of joint and transducer loss, compared with stock NeMo, in one process.

    python -m quran_asr.benchmark.loss

prints one JSON object. Both go through the same `RNNTJoint` of NeMo with the same tensors, forwards and
backwards. Seconds are CPU time on a CPU and time on the clock, after waiting for the device, on CUDA; always
the median of several steps after one that is not counted. Bytes are those newly held at the highest point
between the joint's inputs and their gradients: on CUDA what torch's allocator reports, on a CPU the growth of
the resident memory while nothing that is freed is kept (Linux with glibc; elsewhere it is not measured). That
counts what numba and the matrix library allocate, too.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from quran_asr.training.loss.engine import ENGINES, usable_engine
from quran_asr.training.loss.lattice import lattice_loss
from quran_asr.training.loss.transducer import transducer_loss
from quran_asr.training.memory import countable, counted
from quran_asr.training.model import frame_seconds  # noqa: F401 - silences NeMo before it is imported below

from nemo.collections.asr.losses.rnnt import RNNTLoss  # isort: skip
from nemo.collections.asr.modules.rnnt import RNNTJoint  # isort: skip


@dataclass(frozen=True, slots=True)
class LossCase:
    """A batch and a joint; weights and outputs are random, as at the beginning of a training."""

    frames: tuple[int, ...]
    """Encoder frames of each clip."""
    labels: tuple[int, ...]
    """Tokens of each clip."""
    vocabulary: int = 256
    """Tokens without blank."""
    encoder: int = 128
    """Width of the encoder's output."""
    prediction: int = 128
    joint: int = 256
    dropout: float = 0.0

    @classmethod
    def of_preset(cls, clips: int = 8) -> LossCase:
        """Clips of 5 to 7 seconds for the hybrid of 2.57M parameters: 80 ms a frame, 5.5 tokens a second."""
        seconds = [5 + 2 * clip / max(1, clips - 1) for clip in range(clips)]
        return cls(tuple(round(s / 0.08) for s in seconds), tuple(round(5.5 * s) for s in seconds))

    def step(self, kind: str, device: torch.device, engine: str = "torch") -> Callable[[], object]:
        """One forward and backward pass.

        Args:
            kind: `ours` or `stock`: joint and loss together. `our_lattice` and `stock_lattice`: the loss
                alone, from what each takes: log-probabilities of the arcs, or of all classes.
            device: where.
            engine: of our loss.
        """
        torch.manual_seed(0)
        net = {
            "encoder_hidden": self.encoder,
            "pred_hidden": self.prediction,
            "joint_hidden": self.joint,
            "activation": "relu",
            "dropout": self.dropout,
        }
        joint = RNNTJoint(net, num_classes=self.vocabulary).to(device)
        clips, most_frames, most_labels = len(self.frames), max(self.frames), max(self.labels)
        encoder = torch.randn(clips, most_frames, self.encoder, device=device, requires_grad=True)
        prediction = torch.randn(clips, most_labels + 1, self.prediction, device=device, requires_grad=True)
        targets = torch.randint(0, self.vocabulary, (clips, most_labels), device=device)
        counts = torch.tensor(self.frames, device=device), torch.tensor(self.labels, device=device)
        options = {"fastemit_lambda": 0.0, "clamp": -1.0}
        stock = RNNTLoss(self.vocabulary, reduction=None, loss_name="warprnnt_numba", loss_kwargs=options)

        def ours() -> None:
            loss = transducer_loss(encoder, prediction, joint, targets, *counts, engine=engine)
            loss.mean().backward()  # type: ignore[no-untyped-call]

        def theirs(log_probs: Tensor | None = None) -> None:
            scores = joint.joint(encoder, prediction) if log_probs is None else log_probs
            loss = stock(log_probs=scores, targets=targets, input_lengths=counts[0], target_lengths=counts[1])
            loss.mean().backward()

        if kind in ("ours", "stock"):
            return ours if kind == "ours" else theirs
        with torch.no_grad():
            log_probs = joint.joint(encoder, prediction)
        if kind == "stock_lattice":
            return lambda: theirs(log_probs.requires_grad_())
        blank, label = log_probs[..., -1].clone(), log_probs[:, :, 1:, 0].clone()
        arcs = blank.requires_grad_(), label.requires_grad_()
        sum_paths = ENGINES[engine]().sum_paths
        return lambda: lattice_loss(*arcs, *counts, sum_paths=sum_paths).sum().backward()  # type: ignore[no-untyped-call]


def median_seconds(step: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Seconds of one step."""
    clock = time.process_time
    if device.type == "cuda":

        def clock() -> float:
            torch.cuda.synchronize(device)
            return time.perf_counter()

    step()
    found = []
    for _ in range(repeats):
        began = clock()
        step()
        found.append(clock() - began)
    return statistics.median(found)


def peak_bytes(step: Callable[[], object], device: torch.device) -> int | None:
    """Peak bytes of a step above those held before it; None where that cannot be measured."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        step()
        return torch.cuda.max_memory_allocated(device) - before
    if not countable():
        return None
    with counted() as peak:
        step()
        return peak()


@dataclass(frozen=True, slots=True)
class LossFigures:
    """Our loss compared with stock NeMo's."""

    device: str
    engine: str
    clips: int
    cells: int
    """Of all lattices together."""
    seconds: dict[str, float]
    """For each kind of `LossCase.step` that runs here."""
    bytes: dict[str, int | None]
    """For `ours` and `stock`, as far as they run and can be measured."""
    missing: str
    """Why stock NeMo's loss does not run here; empty where it does. On CUDA it needs numba-cuda."""

    @property
    def ratios(self) -> dict[str, float | None]:
        """Speed-up, and share of the bytes."""
        if self.missing:
            return {}
        ours, stock = self.bytes["ours"], self.bytes["stock"]
        return {
            "joint_and_loss_times": self.seconds["stock"] / self.seconds["ours"],
            "lattice_times": self.seconds["stock_lattice"] / self.seconds["our_lattice"],
            "memory_share": None if ours is None or not stock else ours / stock,
        }


def measure_loss(
    case: LossCase, device: torch.device, repeats: int = 7, stock_repeats: int = 2
) -> LossFigures:
    """Run the case with our loss and with stock NeMo's (which takes seconds a step on a CPU)."""
    engine, _ = usable_engine(device)
    seconds: dict[str, float] = {}
    held: dict[str, int | None] = {}
    missing = ""
    for kind in ("ours", "our_lattice", "stock", "stock_lattice"):
        try:
            step = case.step(kind, device, engine)
            seconds[kind] = median_seconds(step, device, stock_repeats if "stock" in kind else repeats)
            if kind in ("ours", "stock"):
                held[kind] = peak_bytes(step, device)
        except Exception as error:  # numba-cuda and its drivers fail in many ways
            if "stock" not in kind:
                raise
            missing = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    cells = sum(t * (u + 1) for t, u in zip(case.frames, case.labels, strict=True))
    return LossFigures(str(device), engine, len(case.frames), cells, seconds, held, missing)


if __name__ == "__main__":
    torch.set_num_threads(1)
    figures = measure_loss(LossCase.of_preset(), torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    json.dump({**asdict(figures), "ratios": figures.ratios}, sys.stdout, indent=2)
    print()
