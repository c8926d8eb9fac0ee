"""Where the jobs of a corpus run: processes of this machine, or a cluster."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager

from quran_asr.errors import QuranAsrError


@contextmanager
def executor(jobs: int | None = None, cluster: str | None = None) -> Iterator[Executor]:
    """An executor that is shut down when the block ends; what has not begun by then is cancelled.

    Args:
        jobs: processes of this machine; None for one for each core. A cluster has its own number.
        cluster: address of a dask.distributed scheduler such as `tcp://node1:8786`. Its workers need this
            package and the same paths.

    Raises:
        QuranAsrError: no scheduler answers at that address, or a worker died with its job.
    """
    if cluster is None:
        # fork: a caller's script needs no `if __name__` guard, and nothing is imported twice
        context = multiprocessing.get_context("fork" if sys.platform == "linux" else None)
        pool = ProcessPoolExecutor(jobs or os.cpu_count() or 1, context, initializer=_without_chatter)
        try:
            yield pool
        finally:
            pool.shutdown(cancel_futures=True)
        return
    from distributed import Client, KilledWorker  # of the extra `cluster`

    try:
        client = Client(cluster, timeout=30)
    except (OSError, ValueError) as error:
        raise QuranAsrError(
            f"no scheduler of dask.distributed answers ({_first_line(error)})",
            where=cluster,
            remedy="start one with `dask scheduler` and workers with `dask worker ADDRESS`",
        ) from None
    with client:
        try:
            yield client.get_executor(pure=False)
        except KilledWorker as error:
            raise QuranAsrError(
                f"a worker of the cluster died ({_first_line(error)})",
                where=cluster,
                remedy="see the logs of the workers; most often their memory is too small",
            ) from None


def _without_chatter() -> None:
    """Silence what decoders print about damaged files; the caller reports them."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]
