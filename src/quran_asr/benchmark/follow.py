"""How well the server follows a reciter: lag, words, wrong highlights, false marks, recovery.

The audio of a session is made of one recording: its verses in order, with a pause after a sixth, two verses
recited again after a third, and a jump forward after two thirds. A short recording is used unchanged. When
each word ends follows from forced alignment of the recording with its known verses by the same model, so the
tables do not show errors that both share.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import time
import wave
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from quran_asr import audio
from quran_asr.errors import QuranAsrError
from quran_asr.records import SAMPLE_RATE, Segment
from quran_asr.runtime.alignment import AlignedRecording, align_scores, in_spelling, search_graph
from quran_asr.runtime.recognizer import Recognizer

if TYPE_CHECKING:
    from quran_asr.records import Samples

CHUNK_SECONDS = 0.1
REPEATED_VERSES = 2
LEAST_VERSES = 9
"""Verses needed for a pause, a repeat and a jump."""
PAUSE_SECONDS = 5.0
LATE_SECONDS = 2.0
"""Seconds after its end within which a word must be highlighted to count as followed."""
EARLY_SECONDS = 1.0
"""Seconds before its start from which a highlight of a word is correct."""
APART_SECONDS = 1.0
"""Between the beginnings of sessions at once: people do not begin in the same moment."""
MARGIN_SECONDS = 0.15
"""Seconds before the first word at which verses are cut."""


@dataclass(frozen=True, slots=True)
class RecitedWord:
    """A word of the audio of a session."""

    word: str
    """In the notation of the protocol, `2:255:4`."""
    start: float
    """Seconds in the audio."""
    end: float
    repeat: bool = False
    """Of the planted repeat."""
    planted: str = ""
    """`pause`, `repeat` or `jump` at the first word after it."""


@dataclass(frozen=True, slots=True)
class Recitation:
    """The audio of a session, and the words recited in it."""

    name: str
    samples: Samples
    words: tuple[RecitedWord, ...]


@dataclass(frozen=True, slots=True)
class Lit:
    """A word became the current one, or was marked as recited."""

    seconds: float
    """Since the audio began."""
    word: str


@dataclass(frozen=True, slots=True)
class Followed:
    """The messages of a session."""

    lit: tuple[Lit, ...]
    """Words as they became the current one."""
    marked: tuple[Lit, ...]
    """Words as they were marked as recited, the current one included."""
    final: tuple[dict[str, Any], ...]
    """Final words, as the server sent them, with `shown`: seconds since the audio began."""
    flag_below: float


def recitation(recognizer: Recognizer, segment: Segment) -> Recitation:
    """A recording of known verses, with a pause, a repeat and a jump if it has `LEAST_VERSES`.

    Raises:
        QuranAsrError: it cannot be read, or does not fit its verses.
    """
    samples = audio.read(segment.audio, segment.offset, segment.duration or None)
    graph = search_graph(recognizer, segment.verses)
    seconds = len(samples) / SAMPLE_RATE
    frame_seconds = recognizer.bundle.frame_seconds
    found = align_scores(graph, recognizer.scores([samples]), frame_seconds, follow_place=False)
    aligned = AlignedRecording(
        segment.audio, "", recognizer.spelling, seconds, found.segments, found.unaligned
    )
    verses = [one for one in in_spelling(aligned, "uthmani").segments if one.kind == "verse"]
    if [one.verses[0] for one in verses] != list(segment.verses):
        raise QuranAsrError(
            f"{len(verses)} whole verses are aligned in it, of {len(segment.verses)} in order",
            where=segment.place,
            remedy="use a recording of these verses alone, in order, or correct `verses` in the manifest",
        )
    starts = [max(0.0, verse.start - MARGIN_SECONDS) for verse in verses]
    edges = [*starts, seconds]
    third = len(verses) // 3
    planting = len(verses) >= LEAST_VERSES
    order = list(range(len(verses)))
    if planting:
        order[2 * third : len(verses) - (third - 1)] = []
        order[third + 1 : third + 1] = order[third + 1 - REPEATED_VERSES : third + 1]
    silence = np.zeros(round(PAUSE_SECONDS * SAMPLE_RATE), np.float32)
    parts, words, at = [samples[: round(SAMPLE_RATE * starts[0])]], [], starts[0]
    for number, verse in enumerate(order):
        begin, end = edges[verse], edges[verse + 1]
        planted = ""
        if planting and number == third // 2:
            planted = "pause"
            parts.append(silence)
            at += PAUSE_SECONDS
        elif number and verse <= order[number - 1]:
            planted = "repeat"
        elif number and verse - order[number - 1] > 1:
            planted = "jump"
        for place, word in enumerate(verses[verse].words):
            ref = f"{verses[verse].verses[0]}:{word.index}"
            again = planting and third < number <= third + REPEATED_VERSES
            first = planted if place == 0 else ""
            words.append(RecitedWord(ref, word.start - begin + at, word.end - begin + at, again, first))
        parts.append(samples[round(SAMPLE_RATE * begin) : round(SAMPLE_RATE * end)])
        at += end - begin
    return Recitation(Path(segment.audio).stem, np.concatenate(parts), tuple(words))


def with_noise(recited: Recitation, decibels: float) -> Recitation:
    """The same in white noise at a signal-to-noise ratio over the whole recording."""
    random = np.random.default_rng(0)
    power = float(np.mean(np.square(recited.samples, dtype=np.float64)))
    noise = random.normal(0, np.sqrt(power / 10 ** (decibels / 10)), len(recited.samples))
    noisy = np.clip(recited.samples + noise, -1, 1).astype(np.float32)
    return Recitation(f"{recited.name} {decibels:g} dB", noisy, recited.words)


@dataclass(frozen=True, slots=True)
class Server:
    """A running server."""

    address: str
    process: int
    """Its number."""

    @property
    def processor_seconds(self) -> float:
        """Processor time that it has taken so far, of all its threads.

        Raises:
            QuranAsrError: the system has no `/proc`.
        """
        try:
            status = Path(f"/proc/{self.process}/stat").read_text(encoding="utf-8")
        except OSError as error:
            raise QuranAsrError(
                "the processor time of another process is read from /proc, as Linux has it",
                remedy="leave --sessions out",
            ) from error
        user, system = status.rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def serving(bundle: Path, sessions: int = 20) -> Iterator[Server]:
    """A server in a process of its own, for so many sessions at once."""
    words = [sys.executable, "-m", "quran_asr", "serve", "--model", str(bundle), "--port", "0"]
    words += ["--sessions", str(sessions)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None and server.stderr is not None
            address = server.stdout.readline().strip()
            if not address:
                reported, _, hint = server.stderr.read().strip().partition("\nhint: ")
                raise QuranAsrError(
                    f"the server did not start: {reported[:300]}",
                    remedy=hint.partition("\n")[0]
                    or "run `quran-asr serve --model MODEL` to see all that it reports",
                )
            yield Server(address, server.pid)
        finally:
            server.terminate()


def follow_by_websocket(address: str, recited: Recitation, *, fast: bool = False) -> Followed:
    """Send a recitation through a websocket.

    Args:
        address: of the server.
        recited: to be sent.
        fast: as fast as the server accepts it; times are positions in the audio that each reply needed,
            without computing time. Otherwise in real time by the clock.
    """
    return asyncio.run(_session(address, recited, fast))


@dataclass(frozen=True, slots=True)
class Load:
    """Sessions of one recitation at once."""

    sessions: tuple[Followed, ...]
    processor_share: float
    """Seconds of the server's processor time for a second of audio of one session."""


def follow_together(server: Server, recited: Recitation, sessions: int) -> Load:
    """Send a recitation in real time through several websockets at once, each begun `APART_SECONDS` later.

    Raises:
        QuranAsrError: as `Server.processor_seconds`, or the server ended a session.
    """

    async def later(number: int) -> Followed:
        await asyncio.sleep(number * APART_SECONDS)
        return await _session(server.address, recited, fast=False)

    async def everyone() -> list[Followed]:
        return await asyncio.gather(*(later(number) for number in range(sessions)))

    before = server.processor_seconds
    followed = asyncio.run(everyone())
    taken = server.processor_seconds - before
    return Load(tuple(followed), taken * SAMPLE_RATE / (len(recited.samples) * sessions))


async def _session(address: str, recited: Recitation, fast: bool) -> Followed:
    import websockets

    pcm = (np.clip(recited.samples, -1, 1) * 32_767).astype("<i2")
    step = round(SAMPLE_RATE * CHUNK_SECONDS)
    lit: list[Lit] = []
    marked: list[Lit] = []
    final: list[dict[str, Any]] = []
    place = address.replace("http", "ws", 1) + "session"
    async with websockets.connect(place, ping_interval=None, max_size=None) as socket:
        await socket.send(json.dumps({"type": "start"}))
        ready = json.loads(await socket.recv())
        begun = time.monotonic()

        async def send() -> None:
            for begin in range(0, len(pcm), step):
                if not fast:  # a chunk is available once it has been recited
                    due = begun + min(len(pcm), begin + step) / SAMPLE_RATE
                    await asyncio.sleep(max(0.0, due - time.monotonic()))
                await socket.send(pcm[begin : begin + step].tobytes())
            await socket.send('{"type": "stop"}')

        sending = asyncio.create_task(send())
        now, current, pending = 0.0, None, frozenset[str]()
        async for text in socket:
            message = json.loads(text)
            if not fast:
                now = time.monotonic() - begun
            elif message["type"] in ("position", "words"):
                now = message["time"] + CHUNK_SECONDS
            if message["type"] == "position":
                marked += [Lit(now, word) for word in message["pending"] if word not in pending]
                if message["word"] not in (current, None):
                    lit.append(Lit(now, message["word"]))
                current, pending = message["word"], frozenset(message["pending"])
            elif message["type"] == "words":
                final += [{**word, "shown": now} for word in message["words"]]
            elif message["type"] == "error":
                raise QuranAsrError(
                    f"the server ended the session: {message['what']}",
                    remedy=message["remedy"]
                    or "try again while the machine is idle, or with fewer --sessions",
                )
        await sending
    return Followed(tuple(lit), tuple(marked), tuple(final), float(ready["flag_below"]))


SILENCE_SECONDS = 4.0
"""Marker before the recitation, to find its beginning in the audio that the browser sends."""
WATCH = """
(() => {
  const begun = { at: null, loud: null, sent: 0 };
  window.lit = [];
  window.marked = [];
  let pending = new Set();
  const send = WebSocket.prototype.send;
  WebSocket.prototype.send = function (data) {
    if (typeof data !== "string" && begun.loud === null) {
      const samples = new Int16Array(data.buffer ?? data);
      const found = samples.findIndex((value) => Math.abs(value) > THRESHOLD);
      if (found >= 0) begun.loud = performance.now() - (1000 * (samples.length - found)) / 16000;
    }
    return send.call(this, data);
  };
  window.begun = begun;
  new MutationObserver(() => {
    const word = document.querySelector("main .current")?.id.slice(1) ?? null;
    if (word && word !== window.lit.at(-1)?.word) window.lit.push({ ms: performance.now(), word });
    const now = [...document.querySelectorAll("main .pending")].map((one) => one.id.slice(1));
    for (const one of now) if (!pending.has(one)) window.marked.push({ ms: performance.now(), word: one });
    pending = new Set(now);
  }).observe(document, { subtree: true, childList: true, attributes: true, attributeFilter: ["class"] });
})();
"""


def follow_by_browser(address: str, recited: Recitation, chromium: str, folder: Path) -> Followed:
    """Play a recitation into the microphone of a real browser, and record the highlights of its page.

    Args:
        address: of the server.
        recited: to be played.
        chromium: program.
        folder: to write the recording to.
    """
    from playwright.sync_api import sync_playwright

    loudest = float(np.abs(recited.samples).max())
    threshold = 0.1 * loudest
    first = int(np.argmax(np.abs(recited.samples) > threshold)) / SAMPLE_RATE
    file = folder / "microphone.wav"
    silence = np.zeros(round(SILENCE_SECONDS * SAMPLE_RATE), np.float32)
    with wave.open(str(file), "wb") as out:
        out.setparams((1, 2, SAMPLE_RATE, 0, "NONE", ""))
        samples = np.concatenate([silence, recited.samples])
        out.writeframes((np.clip(samples, -1, 1) * 32_767).astype("<i2").tobytes())
    arguments = [
        "--no-sandbox",
        "--use-fake-device-for-media-stream",
        "--use-fake-ui-for-media-stream",
        f"--use-file-for-fake-audio-capture={file}%noloop",
    ]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=arguments)
        page = browser.new_page()
        page.add_init_script(WATCH.replace("THRESHOLD", str(round(32_767 * threshold))))
        page.goto(address)
        page.wait_for_selector("main .word")  # a function to wait for would be against the page's own policy
        page.click("#microphone")
        page.wait_for_timeout(1000 * (SILENCE_SECONDS + len(recited.samples) / SAMPLE_RATE + 2))
        page.click("#microphone")
        page.wait_for_selector("#summary:not([hidden])", timeout=60_000)
        lit, marked, loud = page.evaluate("[window.lit, window.marked, window.begun.loud]")
        final = page.evaluate("window.recitation()")
        browser.close()
    if loud is None:
        raise QuranAsrError(
            "the browser sent no audio of the recording",
            where=recited.name,
            remedy="name a Chromium with --browser, and check that the recording is not silent",
        )
    lit, marked = (
        tuple(Lit((one["ms"] - loud) / 1000 + first, one["word"]) for one in shown) for shown in (lit, marked)
    )
    return Followed(lit, marked, tuple(final["words"]), float(final["flag_below"]))


def figures(recited: Recitation, followed: Followed) -> dict[str, Any]:
    """The figures of a session: seconds, shares and counts.

    A word counts as followed if between `EARLY_SECONDS` before its start and `LATE_SECONDS` after its end it
    became the current word, was marked as recited, or the word after it became the current one. The lag runs
    from its end to the first of these: negative if that was before it ended.
    """
    following = [*recited.words[1:], None]
    found = [_lag(one, after, followed) for one, after in zip(recited.words, following, strict=True)]
    lags = [lag for lag in found if lag is not None]
    words = len(recited.words)
    recoveries: dict[str, list[float]] = {"pause": [], "repeat": [], "jump": []}
    for number, word in enumerate(recited.words):
        if word.planted:
            recoveries[word.planted].append(_recovery(recited.words[number:], followed))
    flags = [word for word in followed.final if word["word"] and _flagged(word, followed.flag_below)]
    repeats = {word.word for word in recited.words if word.repeat}
    false = [word for word in flags if not (word["kind"] == "repeat" and word["word"] in repeats)]
    final_lags = [word["shown"] - word["end"] for word in followed.final if "shown" in word]
    return {
        "recording": recited.name,
        "seconds": round(len(recited.samples) / SAMPLE_RATE, 1),
        "words": words,
        "followed": len(lags),
        "lag": sorted(round(lag, 3) for lag in lags),
        "wrong_highlights": sum(_is_wrong(one, recited.words) for one in followed.lit),
        "false_marks": len(false),
        "pause_recovery": recoveries["pause"],
        "repeat_recovery": recoveries["repeat"],
        "jump_recovery": recoveries["jump"],
        "final_lag": sorted(round(lag, 3) for lag in final_lags),
    }


def _lag(one: RecitedWord, after: RecitedWord | None, followed: Followed) -> float | None:
    following = [lit for lit in followed.lit if after is not None and lit.word == after.word]
    itself = [lit for lit in (*followed.lit, *followed.marked) if lit.word == one.word]
    shown = [lit.seconds for lit in (*itself, *following)]
    inside = [at for at in shown if one.start - EARLY_SECONDS <= at <= one.end + LATE_SECONDS]
    return min(inside) - one.end if inside else None


def _recovery(words: Sequence[RecitedWord], followed: Followed) -> float:
    """Seconds from the end of the first word after a pause, repeat or jump to the first correct highlight."""
    for lit in followed.lit:
        for word in words:
            if lit.word == word.word and word.start - EARLY_SECONDS <= lit.seconds <= word.end + LATE_SECONDS:
                return max(0.0, round(lit.seconds - words[0].end, 3))
    return float("inf")


def _is_wrong(lit: Lit, words: Sequence[RecitedWord]) -> bool:
    return not any(
        lit.word == word.word and word.start - EARLY_SECONDS <= lit.seconds <= word.end + LATE_SECONDS
        for word in words
    )


def _flagged(word: dict[str, Any], flag_below: float) -> bool:
    return bool(word["skipped"]) or word["kind"] == "repeat" or word["confidence"] < flag_below


def row(measured: Sequence[dict[str, Any]], name: str) -> tuple[str, ...]:
    """One line of the table, over several sessions."""
    words = sum(one["words"] for one in measured)
    lags = [lag for one in measured for lag in one["lag"]]
    final = [lag for one in measured for lag in one["final_lag"]]
    return (
        name,
        str(words),
        f"{sum(one['followed'] for one in measured) / words:.3f}",
        _two(lags),
        _two(final),
        f"{100 * sum(one['wrong_highlights'] for one in measured) / words:.1f}",
        f"{100 * sum(one['false_marks'] for one in measured) / words:.1f}",
        _seconds([value for one in measured for value in one["pause_recovery"]]),
        _seconds([value for one in measured for value in one["repeat_recovery"]]),
        _seconds([value for one in measured for value in one["jump_recovery"]]),
    )


HEADER = (
    "recording",
    "words",
    "followed",
    "lag, median / 95 %",
    "final after, median / 95 %",
    "wrong highlights per 100",
    "false marks per 100",
    "after a pause",
    "after a repeat",
    "after a jump",
)


MOST_ROWS = 10
"""Recordings of one kind that have a row of their own each; more are given together only."""


def _two(values: Sequence[float]) -> str:
    if not values:
        return "—"
    median, most = np.percentile(values, [50, 95])
    return f"{median:.2f} / {most:.2f} s"


def _seconds(values: Sequence[float]) -> str:
    if not values:
        return "—"
    median = float(np.median(values))
    return f"{median:.1f} s" if np.isfinite(median) else "not"
