"""Executors for jobs on recordings: local processes, or a Dask cluster."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from typing import Literal

from quran_asr.errors import QuranAsrError

CONNECT_SECONDS = 10
"""Seconds to wait for the scheduler of a cluster."""


def processes(count: int, start: Literal["fork", "spawn"] = "fork") -> Executor:
    """Processes of this machine.

    Args:
        count: number of processes; fewer are started for fewer jobs.
        start: how. After a fork a caller's script needs no `if __name__` guard, and nothing is imported
            twice; only Linux has it. Jobs that start threads, as ONNX Runtime does, are spawned.
    """
    method = start if sys.platform == "linux" else None
    return ProcessPoolExecutor(count, multiprocessing.get_context(method), initializer=_silence_decoders)


def _silence_decoders() -> None:
    """Silence the decoders' messages about damaged files; the results report them."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


@contextmanager
def executor(jobs: int | None = None, address: str | None = None) -> Iterator[Executor]:
    """Processes of this machine, or a Dask cluster; pending jobs are cancelled when the block ends.

    Args:
        jobs: processes; None for one for each core. A cluster has a number of its own.
        address: of the scheduler of a cluster, see `cluster`.
    """
    if address is not None:
        with cluster(address) as pool:
            yield pool
        return
    pool = processes(jobs or os.cpu_count() or 1)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def cluster(address: str) -> Iterator[Executor]:
    """The workers of a Dask cluster. They need this package, and the recordings under the same paths.

    Args:
        address: of the scheduler, for example `tcp://node1:8786`.

    Raises:
        QuranAsrError: no scheduler answers there, or a worker died with its job.
    """
    from distributed import Client, KilledWorker

    try:
        client = Client(address, timeout=CONNECT_SECONDS)
    except (OSError, ValueError) as error:
        raise QuranAsrError(
            "no Dask scheduler answers",
            where=address,
            remedy="start one with `dask scheduler`, and workers with `dask worker ADDRESS`",
        ) from error
    with client:
        try:
            yield client.get_executor(pure=False)
        except KilledWorker as error:
            raise QuranAsrError(
                f"a worker of the cluster died: {error}",
                where=address,
                remedy="look into the logs of the workers; out of memory is likely",
            ) from error
