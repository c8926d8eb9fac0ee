"""Where the time of a training step goes: marks at hooks of Lightning and of the model's parts."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import lightning.pytorch as lightning
import torch

from quran_asr.runs.planning.benchmark import PARTS, StepTime
from quran_asr.train.model import EncDecHybridRNNTCTCBPEModel


def now(device: torch.device) -> float:
    """Seconds of the process on a CPU, of the wall on a GPU, all work done."""
    if device.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


@dataclass
class Clock(lightning.Callback):
    """Divides each step into parts: what passes between two marks belongs to the part that the later names.

    On a GPU marks are events in its stream, so that nothing waits for them but the end of a step.
    """

    device: torch.device
    model: EncDecHybridRNNTCTCBPEModel
    steps: list[StepTime] = field(default_factory=list)
    _marks: list[tuple[str, Any]] = field(default_factory=list)

    def mark(self, part: str) -> None:
        self._marks.append((part, self._moment()))

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Marks where the parts of a forward pass begin and end."""
        model = self.model
        begins = ((model.decoder, "loss"), (model.joint, "loss"), (model.loss, "joint"))
        ends = (
            (model.encoder, "encoder"),
            (model.decoder, "prediction"),
            (model.joint, "loss"),
            (model.loss, "loss"),
        )
        hooks = [
            *(
                module.register_forward_pre_hook(lambda *_, part=part: self.mark(part))
                for module, part in begins
            ),
            *(module.register_forward_hook(lambda *_, part=part: self.mark(part)) for module, part in ends),
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def on_train_start(self, trainer: Any, module: Any) -> None:
        self._marks = [("", self._moment())]

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        self.mark("data")

    def on_before_zero_grad(self, trainer: Any, module: Any, optimizer: Any) -> None:
        self.mark("loss")

    def on_before_backward(self, trainer: Any, module: Any, loss: Any) -> None:
        self.mark("optimizer")

    def on_after_backward(self, trainer: Any, module: Any) -> None:
        self.mark("backward")

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        loss = float(outputs["loss"])
        self.mark("optimizer")
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        parts = dict.fromkeys(PARTS, 0.0)
        for (_, before), (part, after) in zip(self._marks, self._marks[1:], strict=False):
            parts[part] += after - before if self.device.type == "cpu" else before.elapsed_time(after) / 1000
        self.steps.append(StepTime(sum(parts.values()), parts, loss))
        self._marks = [("", self._moment())]

    def _moment(self) -> Any:
        if self.device.type == "cpu":
            return time.process_time()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event
