"""How much memory a piece of work takes at its height: torch's own allocations, on any device."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

_SMALLEST = 1024
"""Bytes under which a tensor is not counted on a CPU: stock NeMo's loss makes millions of single numbers."""


def peak_allocated(work: Callable[[], object], device: torch.device) -> int:
    """Bytes newly allocated at the height of `work`, beside what was there when it began.

    On a GPU torch keeps count itself. On a CPU every operation is looked at for tensors that are new; what an
    operation takes and gives back within itself is not seen, nor what is not torch's.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        torch.cuda.synchronize(device)
        return int(torch.cuda.max_memory_allocated(device) - before)
    with _NewTensors() as seen:
        work()
    return int(seen.peak)


def _gone(storage: StorageWeakRef) -> bool:
    return bool(storage.expired())  # type: ignore[no-untyped-call]


class _NewTensors(TorchDispatchMode):
    """Keeps count of the storages that operations make, as long as these live."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = 0
        self._live: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        outputs = (made,) if isinstance(made, Tensor) else tree_iter(made)
        large = [
            one for one in outputs if isinstance(one, Tensor) and one.untyped_storage().nbytes() >= _SMALLEST
        ]
        if large:
            self._count(
                large,
                {
                    one.untyped_storage()._cdata
                    for one in tree_iter((args, kwargs))
                    if isinstance(one, Tensor)
                },
            )
        return made

    def _count(self, outputs: Sequence[Tensor], inputs: set[int]) -> None:
        """Views and results written into given tensors lie in storages that were there."""
        for one in outputs:
            storage = one.untyped_storage()
            if storage._cdata in inputs:
                continue
            self._live[storage._cdata] = StorageWeakRef(storage), storage.nbytes()  # type: ignore[no-untyped-call]
            self._live = {key: kept for key, kept in self._live.items() if not _gone(kept[0])}
            self.peak = max(self.peak, sum(size for _, size in self._live.values()))
