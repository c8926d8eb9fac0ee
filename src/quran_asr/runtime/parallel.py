"""Several recordings at once, each in its own process; results are in the order of the recordings."""

from __future__ import annotations

import multiprocessing
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import TYPE_CHECKING, Any, Protocol

from quran_asr.errors import QuranAsrError

if TYPE_CHECKING:
    from quran_asr.records import Segment, Transcript

    Answer = Transcript | QuranAsrError

_REPORT_SECONDS = 0.2


class Recognizer(Protocol):
    """The method of a recognizer that a process needs."""

    def recognize_clips(
        self,
        segments: Sequence[Segment],
        on_progress: Callable[[int, int], None] | None = None,
        on_seconds: Callable[[float], None] | None = None,
    ) -> Iterator[Answer]:
        """As `runtime.recognizer.Recognizer.recognize_clips`."""
        ...


class _StoppedError(Exception):
    """The parent needs no more results."""


def recognize_in_processes(
    load: Callable[[], Recognizer],
    segments: Sequence[Segment],
    workers: int,
    on_seconds: Callable[[float], None] | None = None,
) -> Iterator[Answer]:
    """The results of `Recognizer.recognize_clips`, from processes that each take the next recording.

    Closing the iterator, as Ctrl-C does, stops the processes within a minute of audio.

    Args:
        load: makes the recognizer of a process; a function of a module, or a `partial` of one. It should use
            one thread: the processes share the cores.
        segments: what to recognize.
        workers: processes.
        on_seconds: called with the seconds of audio that were recognized since the last call.

    Raises:
        QuranAsrError: a process died.
    """
    # fork: a caller's script needs no `if __name__` guard, and nothing is imported twice
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else None)
    recognized, stop = context.Value("d", 0.0), context.Event()
    pool = ProcessPoolExecutor(workers, context, initializer=_begin, initargs=(load, recognized, stop))
    try:
        answers = [pool.submit(_recognize, segment) for segment in segments]
        reported = 0.0
        for i, answer in enumerate(answers):
            done = False
            while not done:
                done = bool(wait([answer], _REPORT_SECONDS).done)
                if on_seconds is not None and (total := recognized.value) > reported:
                    on_seconds(total - reported)
                    reported = total
            answers[i] = Future()  # results that were yielded need not be kept
            yield answer.result()
    except BrokenProcessPool as error:
        raise QuranAsrError(
            "a process that recognized recordings died (out of memory?)", remedy="try again with --workers 1"
        ) from error
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)


_process: Any = None
"""Of a worker: its recognizer, the seconds that all workers have recognized, and whether to stop."""


def _begin(load: Callable[[], Recognizer], recognized: Any, stop: Any) -> None:
    global _process
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes, and the parent handles it
    _process = load(), recognized, stop


def _recognize(segment: Segment) -> Answer:
    recognizer, recognized, stop = _process

    def count(seconds: float) -> None:
        with recognized.get_lock():
            recognized.value += seconds
        if stop.is_set():
            raise _StoppedError

    answer: Answer
    (answer,) = recognizer.recognize_clips([segment], on_seconds=count)
    return answer
