"""The page in a real browser. What the server says is played by the test, so that no model is needed."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("uvicorn", reason="needs the extra `serve`")
pytest.importorskip("playwright", reason="needs playwright")

from playwright.sync_api import sync_playwright

from quran_asr import audio
from quran_asr.server.service import Service

sys.path.insert(0, str(Path(__file__).parent))
from conftest import running

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.alone,  # a browser gives up on a machine that does much else
    pytest.mark.skipif(CHROMIUM is None, reason="needs chromium: none is on the PATH, CHROMIUM is not set"),
]

READY = {
    "type": "ready",
    "version": 1,
    "model": "test",
    "look_ahead_ms": 480,
    "max_seconds": 3600,
    "max_message_bytes": 65_536,
    "flag_below": 0.1,
}
PHONE, DESKTOP = {"width": 390, "height": 844}, {"width": 1280, "height": 900}


def final(word: str, start: float, **values: Any) -> dict[str, Any]:
    usual = {"text": "x", "end": start + 0.5, "confidence": 0.9, "kind": "verse", "entry": "next"}
    return {"word": word, "start": start, "skipped": [], **usual, **values}


WORDS = [
    final("112:1:0", 0.0),
    final("112:1:1", 0.5, confidence=0.01),
    final("112:1:3", 1.0, skipped=["112:1:2"], entry="skip"),
    final("112:1:3", 1.5, kind="repeat", entry="back"),
]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with running(Service(recognizer=None)) as port:  # type: ignore[arg-type]
        yield f"http://127.0.0.1:{port}/"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    arguments = [
        "--no-sandbox",
        "--use-fake-device-for-media-stream",
        "--use-fake-ui-for-media-stream",
    ]
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def recording(tmp_path: Path, voice: np.ndarray) -> Path:
    audio.write(tmp_path / "recording.wav", voice[:48_000])
    return tmp_path / "recording.wav"


class Server:
    """Plays the server of a page's sessions."""

    def __init__(self) -> None:
        self.starts: list[dict[str, Any]] = []
        self.bytes = 0
        self.socket: Any = None
        self.on_stop: Callable[[Any], None] = lambda socket: None

    def route(self, page: Any) -> None:
        page.route_web_socket("**/session", self._open)

    def _open(self, socket: Any) -> None:
        self.socket = socket

        def answer(message: str | bytes) -> None:
            if isinstance(message, bytes):
                self.bytes += len(message)
                return
            request = json.loads(message)
            if request["type"] == "start":
                self.starts.append(request)
                socket.send(json.dumps(READY))
            else:
                self.on_stop(socket)

        socket.on_message(answer)

    def say(self, **message: Any) -> None:
        self.socket.send(json.dumps(message))


def wait_until(page: Any, reached: Callable[[], bool], seconds: int = 60) -> None:
    for _ in range(20 * seconds):
        if reached():
            return
        page.wait_for_timeout(50)
    pytest.fail(f"waited for {seconds} s")


def opened(browser: Any, address: str, server: Server, **settings: Any) -> Any:
    page = browser.new_page(**{"viewport": DESKTOP, "locale": "en", **settings})
    page.set_default_timeout(120_000)  # thirty seconds pass when the machine does much else
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.errors = errors
    server.route(page)
    page.goto(address)
    page.wait_for_selector("main .word")
    return page


def end(socket: Any) -> None:
    position = {"type": "position", "time": 1.0, "word": "112:1:0", "pending": ["112:1:0"]}
    socket.send(json.dumps(position))
    socket.send(json.dumps({"type": "words", "words": WORDS}))
    socket.send(json.dumps({"type": "end", "seconds": 3.0, "reason": "stop"}))


def test_a_recording_is_followed_marked_summed_up_and_exported(
    browser: Any, address: str, recording: Path
) -> None:
    server = Server()
    server.on_stop = end
    page = opened(browser, address, server)
    page.set_input_files("#file", recording)
    page.wait_for_selector("#summary:not([hidden])")
    assert server.bytes == 2 * 48_000

    def marks(word: str) -> set[str]:
        return set(page.locator(f'[id="w{word}"]').get_attribute("class").split())

    assert {"final", "playable"} <= marks("112:1:0") and "differs" not in marks("112:1:0")
    assert "differs" in marks("112:1:1")
    assert "skipped" in marks("112:1:2") and "final" not in marks("112:1:2")
    assert "repeated" in marks("112:1:3")
    again = page.locator("#look-again button")
    assert again.count() == 3
    assert "recognized differently" in again.first.get_attribute("aria-label")

    page.locator('[id="w112:1:1"]').click()
    page.wait_for_function("!document.getElementById('player').paused")
    assert page.evaluate("document.getElementById('player').currentTime") >= 0.5

    for name, beginning in (
        ("json", "{"),
        ("srt", "1\n00:00:00,000 --> "),
        ("vtt", "WEBVTT"),
        ("TextGrid", "File type"),
    ):
        with page.expect_download() as download:
            page.click(f'[data-format="{name}"]')
        assert Path(download.value.path()).read_text("utf-8").startswith(beginning)
    page.reload()
    page.wait_for_selector("#earlier:not([hidden])")
    assert not page.errors


def test_a_file_that_is_not_a_recording_leaves_the_session_before(
    browser: Any, address: str, recording: Path, tmp_path: Path
) -> None:
    server = Server()
    server.on_stop = end
    page = opened(browser, address, server, locale="ar")
    page.set_input_files("#file", recording)
    page.wait_for_selector("#summary:not([hidden])")
    (tmp_path / "text.mp3").write_text("not a recording")
    page.set_input_files("#file", tmp_path / "text.mp3")
    page.wait_for_selector("#status.failed")
    assert not set("abcdefghijklmnopqrstuvwxyz") & set(page.inner_text("#status").lower())
    assert page.is_visible("#summary") and page.locator("main .final").count() == 3
    assert page.is_hidden("#progress") and not page.errors
    page.locator('[id="w112:1:1"]').click()
    page.wait_for_function("!document.getElementById('player').paused")


def test_after_a_lost_connection_the_page_goes_on_where_it_was(browser: Any, address: str) -> None:
    server = Server()
    page = opened(browser, address, server)
    page.click("#microphone")
    wait_until(page, lambda: server.bytes > 2 * 32_000)
    server.say(type="words", words=WORDS[:2])  # until 1.0 s
    server.say(type="position", time=1.0, word="112:2:0", pending=["112:2:0"])
    page.wait_for_selector("main .current")
    before = page.locator("main .final").count()
    received = server.bytes
    server.socket.close()
    wait_until(page, lambda: len(server.starts) == 2)
    assert server.starts[1]["at"] == "112:1:1"
    assert page.locator("main .final").count() == before == 2  # final words stay
    wait_until(page, lambda: server.bytes > received + 32_000)  # the second since then comes again
    server.say(type="words", words=[final("112:2:0", 0.2)])
    page.wait_for_function("document.querySelectorAll('main .final').length === 3")
    assert page.evaluate("recitation().words.at(-1).start") == pytest.approx(1.2, abs=0.11)  # times go on
    server.on_stop = end
    page.click("#microphone")
    page.wait_for_selector("#summary:not([hidden])")
    # the microphone can be used again, once the player has read the length of its recording
    page.wait_for_function("document.getElementById('player').duration > 0")
    assert not page.errors


def test_a_session_goes_on_after_the_server_was_started_again(
    browser: Any, small_bundle: Path, voice: np.ndarray, tmp_path: Path
) -> None:
    from quran_asr.runtime.recognizer import load

    recognizer = load(small_bundle, decoder="ctc", look_ahead_ms=480, threads=1)
    # three minutes: a fast machine must not be through with them before the server stops
    audio.write(tmp_path / "recording.wav", np.tile(voice, 30))
    page = browser.new_page(viewport=DESKTOP, locale="en")
    with running(Service(recognizer)) as port:
        page.goto(f"http://127.0.0.1:{port}/")
        page.wait_for_selector("main .word")
        page.set_input_files("#file", tmp_path / "recording.wav")
        wait_until(page, lambda: page.evaluate("document.getElementById('progress').value > 0"), 60)
    wait_until(page, lambda: "connecting again" in page.text_content("#status"))
    with running(Service(recognizer), port):
        page.wait_for_selector("#summary:not([hidden])", timeout=180_000)
    assert "Finished" in page.text_content("#status")
    assert page.evaluate("document.getElementById('figures').textContent.includes('180 s')")
    starts = page.evaluate("recitation().words.map((word) => word.start)")
    assert starts == sorted(starts)


@pytest.mark.parametrize("language", ["en", "ar"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone_in_both_languages(
    browser: Any, address: str, language: str, scheme: str, tmp_path: Path
) -> None:
    page = opened(
        browser, address, Server(), viewport=PHONE, locale=language, color_scheme=scheme, is_mobile=True
    )
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    assert page.evaluate("document.documentElement.lang") == language
    assert page.evaluate("document.documentElement.dir") == ("rtl" if language == "ar" else "ltr")
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (paper == "rgb(22, 24, 26)") == (scheme == "dark")
    wordless = page.evaluate(
        """[...document.querySelectorAll("button, select, input, progress, audio, main")]
             .filter((one) => !one.closest("[hidden]"))
             .filter((one) => !(one.textContent.trim() || one.labels?.length || one.ariaLabel))
             .map((one) => one.id)"""
    )
    assert wordless == []
    assert not page.errors


def test_on_a_phone_the_text_has_the_room_while_somebody_recites(browser: Any, address: str) -> None:
    server = Server()
    server.on_stop = end
    page = opened(browser, address, server, viewport=PHONE, is_mobile=True)
    page.click("#microphone")
    wait_until(page, lambda: server.bytes > 0)
    assert page.evaluate("document.querySelector('header').offsetHeight") < 0.15 * PHONE["height"]
    page.click("#microphone")
    page.wait_for_selector("#summary:not([hidden])")
    page.wait_for_function("document.getElementById('summary').getBoundingClientRect().top < innerHeight")
    assert not page.errors


def test_the_keyboard_is_enough(browser: Any, address: str, recording: Path) -> None:
    server = Server()
    server.on_stop = end
    page = opened(browser, address, server)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "microphone"
    page.keyboard.press("Enter")
    wait_until(page, lambda: server.bytes > 64_000)  # two seconds to listen to again
    assert page.get_attribute("#microphone", "aria-pressed") == "true"
    page.keyboard.press("Enter")
    page.wait_for_selector("#summary:not([hidden])")
    page.focus("#text")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    assert page.locator("main .current").get_attribute("id") == "w112:1:1"
    page.keyboard.press("Enter")
    page.wait_for_function("!document.getElementById('player').paused")
    assert not page.errors


def test_a_session_that_the_server_ends_says_why(browser: Any, address: str) -> None:
    server = Server()
    page = opened(browser, address, server)
    page.click("#microphone")
    wait_until(page, lambda: server.bytes > 0)
    server.say(type="error", what="the token is wrong", remedy="open the address again")
    server.socket.close()
    page.wait_for_function("document.getElementById('status').textContent.includes('the token is wrong')")
    time.sleep(1)
    assert len(server.starts) == 1  # it does not try again
