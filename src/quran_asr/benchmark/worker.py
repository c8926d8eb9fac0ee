"""A worker of a benchmark: an object in a process of its own, whose methods are called from here.

Each competitor gets such a process, so that its memory, threads and libraries are its own. The process is
new, imports only what its loader imports, and handles one call at a time.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from importlib import import_module
from multiprocessing.connection import Connection
from typing import Any

from quran_asr.errors import QuranAsrError

LAST_SECONDS = 60.0
"""Seconds after its last call at which a worker that has not ended is terminated."""


class Worker:
    """The benchmark's end of a connection to a worker; calls one of its methods at a time."""

    def __init__(self, name: str, connection: Connection) -> None:
        self.name = name
        self.cpu_seconds = 0.0
        """CPU time that the process had used at its last answer."""
        self._connection = connection
        self._receive("start")

    def __call__(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Call a method and wait for its result.

        Raises:
            QuranAsrError: the method failed, or the process ended.
        """
        with contextlib.suppress(BrokenPipeError):  # it ended: receiving reports that
            self._connection.send((method, args, kwargs))
        return self._receive(method)

    def _receive(self, method: str) -> Any:
        try:
            error, value, self.cpu_seconds = self._connection.recv()
        except (EOFError, ConnectionResetError):
            error, value = "its process ended", None
        if error is not None:
            what, _, hint = str(error).partition("\nhint: ")
            raise QuranAsrError(
                f"{self.name} failed in `{method}`: {what}",
                remedy=hint
                or "if memory ran out, use a smaller --preset or model; otherwise report this line",
            )
        return value


@contextlib.contextmanager
def started(name: str, loader: str, setup: object, threads: int) -> Iterator[Worker]:
    """Start a worker and wait until it is loaded.

    Args:
        name: for messages.
        loader: `module:function`; the function takes the setup and returns a context manager of the object.
            It is named, not passed, so that this process does not import the worker's packages.
        setup: anything that can be pickled.
        threads: of OpenMP in the worker.

    Raises:
        QuranAsrError: it cannot be loaded, or later a call fails.
    """
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    process = spawn.Process(target=serve, args=(loader, setup, theirs), daemon=False)
    with _environment(threads):
        process.start()
    theirs.close()
    try:
        yield Worker(name, ours)
        with contextlib.suppress(BrokenPipeError):
            ours.send(None)
        process.join(timeout=LAST_SECONDS)
    finally:
        ours.close()
        if process.is_alive():
            process.terminate()
        process.join()


def serve(loader: str, setup: object, connection: Connection) -> None:
    """In the worker's process: handle calls until None arrives.

    A call is (method, args, kwargs), an answer (error or None, result, CPU seconds of the process so far).
    """
    os.dup2(2, 1)  # stdout belongs to the command; output of libraries goes to stderr
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the command, which ends this process
    module, _, function = loader.partition(":")
    load: Callable[[object], AbstractContextManager[object]]
    try:
        load = getattr(import_module(module), function)
        with load(setup) as worker:
            connection.send((None, None, time.process_time()))
            while (call := connection.recv()) is not None:
                method, args, kwargs = call
                result = getattr(worker, method)(*args, **kwargs)
                connection.send((None, result, time.process_time()))
    except (EOFError, BrokenPipeError):
        return
    except Exception as error:  # reported by the command
        connection.send((f"{type(error).__name__}: {error}", None, time.process_time()))


@contextlib.contextmanager
def _environment(threads: int) -> Iterator[None]:
    """Environment of the worker: its threads, before any library has counted the cores."""
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = str(threads)
    try:
        yield
    finally:
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before
