"""The processes of one training: single, several on this machine, torchrun or SLURM.

`torchrun` and `srun` start every process themselves and set environment variables; without them the first
process starts the others. Gradients are averaged by Lightning's DDP; what is decided here is small (may we
stop, how good was it) and goes over gloo on the CPU, so that no GPU waits for it.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import IO, Any

import torch
import torch.distributed as distributed
from lightning.fabric.plugins.environments import (
    ClusterEnvironment,
    LightningEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
)

from quran_asr.errors import QuranAsrError, printable

PATIENCE = timedelta(hours=2)
"""How long processes wait for each other: the first may download and check while the others stand by."""

EXCHANGED = 6_000_000
"""Numbers that processes exchange at a time, 24 MB: as in DDP's own buckets."""

_groups: list[distributed.ProcessGroup] = []
"""A group of our own, so that what we exchange never meets what DDP exchanges."""


def training_device(accelerator: str) -> torch.device:
    """Where `trainer.accelerator` (auto, cpu or gpu) trains on this machine: its GPU where there is one."""
    gpu = torch.cuda.is_available() and accelerator != "cpu"
    return torch.device("cuda", torch.cuda.current_device()) if gpu else torch.device("cpu")


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process among those of a training."""

    rank: int = 0
    """0 is the first: it alone writes and reports."""
    size: int = 1

    def total(self, numbers: Sequence[float]) -> list[float]:
        """Each number, summed over the processes."""
        if self.size == 1:
            return list(numbers)
        summed = torch.tensor(numbers, dtype=torch.float64)
        distributed.all_reduce(summed, group=_control())
        return [float(number) for number in summed]

    def any(self, flag: bool) -> bool:
        """Whether it holds in any process; all get the same answer."""
        return self.total([float(flag)])[0] > 0

    def gather(self, value: Any) -> list[Any]:
        """The value of every process, in the order of their ranks, in all of them."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        distributed.all_gather_object(values, value, group=_control())
        return values

    def from_first(self, value: Any) -> Any:
        """The first process's value, in all of them."""
        if self.size == 1:
            return value
        held = [value]
        distributed.broadcast_object_list(held, src=0, group=_control())
        return held[0]

    def average(self, tensors: Sequence[torch.Tensor]) -> None:
        """Put the mean over the processes into each tensor, many tensors in one exchange."""
        waiting = list(tensors) if self.size > 1 else []
        while waiting:
            together = [waiting.pop()]
            numbers = together[0].numel()
            while (
                waiting
                and numbers + waiting[-1].numel() <= EXCHANGED
                and waiting[-1].dtype == together[0].dtype
            ):
                together.append(waiting.pop())
                numbers += together[-1].numel()
            flat = torch.cat([tensor.reshape(-1) for tensor in together])
            distributed.all_reduce(flat)
            flat.div_(self.size)
            means = torch.split(flat, [tensor.numel() for tensor in together])
            for tensor, mean in zip(together, means, strict=True):
                tensor.copy_(mean.view_as(tensor))

    def collect(self, tensors: Sequence[torch.Tensor], owners: Sequence[int]) -> None:
        """Put into each tensor what it holds in the process that owns it.

        Args:
            tensors: the same shapes and dtype in all processes.
            owners: rank of the process that owns each.
        """
        for rank in range(self.size if self.size > 1 else 0):
            owned = [tensor for tensor, owner in zip(tensors, owners, strict=True) if owner == rank]
            if owned:
                flat = torch.cat([tensor.reshape(-1) for tensor in owned])
                distributed.broadcast(flat, src=rank)
                parts = torch.split(flat, [tensor.numel() for tensor in owned])
                for tensor, part in zip(owned, parts, strict=True):
                    tensor.copy_(part.view_as(tensor))

    def environment(self) -> ClusterEnvironment:
        """For Lightning: all processes have been started."""
        return LightningEnvironment() if self.size == 1 else TorchElasticEnvironment()


def started_by_others() -> bool:
    """Whether torchrun or SLURM started this process as one of several."""
    return _from_torchrun() or _from_slurm()


def processes_per_node(devices: int, accelerator: str) -> int:
    """How many processes train on this machine: the GPUs that are wanted and there; on a CPU one.

    A CPU gets several only where `trainer.accelerator=cpu` asks for the CPU by name.
    """
    if _from_torchrun():
        return int(os.environ["LOCAL_WORLD_SIZE"])
    if _from_slurm():
        return max(1, int(os.environ["SLURM_NTASKS"]) // int(os.environ.get("SLURM_NNODES", "1")))
    if accelerator == "cpu":
        return devices
    return max(1, min(devices, torch.cuda.device_count()))


@contextlib.contextmanager
def joined(devices: int, nodes: int, accelerator: str) -> Iterator[Ranks]:
    """Within this, all processes of the training are there and know each other.

    Args:
        devices: `trainer.devices`, per machine.
        nodes: `trainer.num_nodes`.
        accelerator: `trainer.accelerator`.

    Raises:
        QuranAsrError: several machines without torchrun or SLURM, or other numbers than those were given.
    """
    local = processes_per_node(devices, accelerator)
    if not started_by_others():
        if nodes > 1:
            raise QuranAsrError(
                f"{nodes} machines need a launcher that starts a process on each",
                where="trainer.num_nodes",
                remedy="start it with torchrun or srun (docs/guides/train.md has both), or set it to 1",
            )
        if local == 1:
            yield Ranks()
            return
        with _followers(local):
            yield _join()
            _leave()
        return
    if _from_slurm():
        _as_torchrun()
    size = int(os.environ["WORLD_SIZE"])
    if size != local * nodes:
        raise QuranAsrError(
            f"the launcher started {size} processes, {local} on each machine, and the recipe has "
            f"trainer.num_nodes={nodes}",
            where="trainer.num_nodes",
            remedy=f"trainer.num_nodes={size // max(1, local)}",
        )
    yield _join()
    _leave()


def _join() -> Ranks:
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    distributed.init_process_group(backend, rank=rank, world_size=size, timeout=PATIENCE)
    _groups.append(distributed.new_group(backend="gloo", timeout=PATIENCE))
    return Ranks(rank, size)


def _leave() -> None:
    """Not reached after an error: a process that waits for one that died would wait for hours."""
    _groups.clear()
    distributed.destroy_process_group()


def _control() -> distributed.ProcessGroup:
    return _groups[-1]


@contextlib.contextmanager
def _followers(local: int) -> Iterator[None]:
    """Start the other processes of this machine, end them with this one, and end this one with them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(local),
        "LOCAL_WORLD_SIZE": str(local),
        "GROUP_RANK": "0",
        "TORCHELASTIC_RUN_ID": "none",
    }
    before = dict(os.environ)
    command = [sys.executable, "-m", "quran_asr", *sys.argv[1:]]
    output: IO[bytes]
    started: list[tuple[subprocess.Popen[bytes], IO[bytes]]] = []
    ended = threading.Event()
    try:
        for rank in range(1, local):
            output = tempfile.TemporaryFile()  # noqa: SIM115 - read when its process ends
            ranks = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            environment = before | common | ranks
            started.append((subprocess.Popen(command, env=environment, stdout=output, stderr=output), output))
        os.environ.update(common | {"RANK": "0", "LOCAL_RANK": "0"})
        for follower, output in started:
            threading.Thread(target=_end_with, args=(follower, output, ended), daemon=True).start()
        yield
    finally:
        ended.set()
        for name in [*common, "RANK", "LOCAL_RANK"]:
            os.environ.pop(name, None)
        os.environ.update({name: before[name] for name in common if name in before})
        for follower, _ in started:
            with contextlib.suppress(subprocess.TimeoutExpired):
                follower.wait(timeout=5)
            follower.kill()


def _end_with(follower: subprocess.Popen[bytes], output: IO[bytes], ended: threading.Event) -> None:
    """A process that dies leaves this one waiting in the next exchange for hours: report why, and end."""
    if follower.wait() in (0, 130) or ended.wait(timeout=2):
        return
    output.seek(0)
    last = output.read().decode(errors="replace").strip().splitlines()[-3:]
    last_error_lines = "\n".join(["error: another process of this training ended", *last])
    print(printable(last_error_lines), file=sys.stderr, flush=True)
    os._exit(1)


def _from_torchrun() -> bool:
    return {"RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR"}.issubset(os.environ)


def _from_slurm() -> bool:
    """An allocation without `srun` has a task count too, but no process of its own to be."""
    return SLURMEnvironment.detect() and int(os.environ.get("SLURM_NTASKS", "1")) > 1


def _as_torchrun() -> None:
    """Translate SLURM's variables into torchrun's, which torch itself understands."""
    slurm = SLURMEnvironment(auto_requeue=False)
    size = slurm.world_size()
    os.environ.update(
        {
            "MASTER_ADDR": slurm.main_address,
            "MASTER_PORT": str(slurm.main_port),
            "RANK": str(slurm.global_rank()),
            "LOCAL_RANK": str(slurm.local_rank()),
            "WORLD_SIZE": str(size),
            "LOCAL_WORLD_SIZE": str(max(1, size // int(os.environ.get("SLURM_NNODES", "1")))),
            "GROUP_RANK": str(slurm.node_rank()),
        }
    )
