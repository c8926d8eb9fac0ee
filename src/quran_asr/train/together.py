"""How several processes come to one gradient: Lightning's DDP, but after the backward pass, not during it."""

from __future__ import annotations

from typing import Any

from lightning.pytorch.strategies import DDPStrategy
from torch.nn.parallel import DistributedDataParallel


class AfterBackwardDDP(DDPStrategy):
    """DDP whose gradients stay in each process until all have come through their backward passes.

    A process that runs out of memory in the middle of DDP's own exchange leaves the others waiting for the
    rest of it, and cannot tell them. `TrainingModule.backward` averages what is there when all are well.
    The price is that exchange and backward pass do not overlap.
    """

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        assert isinstance(self.model, DistributedDataParallel)
        with self.model.no_sync():  # decided in the forward pass for the backward pass that follows
            output = super().training_step(*args, **kwargs)
        self.model.require_forward_param_sync = True  # buffers are still the first process's
        return output
