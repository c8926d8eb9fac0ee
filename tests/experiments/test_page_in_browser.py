"""The page in a real browser: on a phone's width, right to left, playing, and without the network.

Skipped where no Chromium or Chrome is installed.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quran_asr import audio
from quran_asr.config.recipe import load_recipe
from quran_asr.experiments.curve_files import read_curves
from quran_asr.experiments.plots.report import render_report
from quran_asr.experiments.run_folder import create_run

pytest.importorskip("matplotlib", reason="needs the extra plot")

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None
)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.alone,  # a browser gives up on a machine that does much else
    pytest.mark.skipif(BROWSER is None, reason="needs Chromium or Chrome: none is installed"),
]

PHONE = """<!DOCTYPE html><meta charset="utf-8"><iframe src="/report.html" width="360" height="740"></iframe>
<script>
const rest = ms => new Promise(done => setTimeout(done, ms));
onload = async () => {
  const frame = document.querySelector("iframe").contentWindow, page = frame.document;
  const sounds = [...page.querySelectorAll("audio")];
  for (let n = 0; n < 100 && sounds.some(s => !(s.duration > 0) && !s.error); n++) await rest(50);
  const box = e => e.getBoundingClientRect(), style = e => frame.getComputedStyle(e);
  const pairs = [...page.querySelectorAll(".alignment .pair")];
  const outside = [...page.querySelectorAll("main *")].filter(e => box(e).right > 361 && !e.closest(".wide"));
  await fetch("/result", {method: "POST", body: JSON.stringify({
    width: [page.documentElement.scrollWidth, page.documentElement.clientWidth],
    outside: outside.map(e => e.outerHTML.slice(0, 80)),
    sounds: sounds.map(s => s.duration),
    pictures: [...page.images].map(i => [i.naturalWidth, i.currentSrc === i.src]),
    first: pairs.slice(0, 2).map(e => box(e).right),
    rows: pairs.slice(0, 1).map(e => [box(e.children[0]).bottom, box(e.lastElementChild).top])[0],
    struck: style(page.querySelector(".alignment .deletion .reference")).textDecorationLine,
    underlined: style(page.querySelector(".alignment .substitution mark")).textDecorationLine,
    plus: frame.getComputedStyle(page.querySelector(".alignment .insertion .hypothesis"), "::before").content,
    stops: [...page.querySelectorAll("a[href], audio[controls], [tabindex='0']")].length,
    requests: frame.performance.getEntriesByType("resource").map(e => e.name.slice(0, 80))
      .filter(name => !name.startsWith("data:")),
  })});
};
</script>"""

HOSTILE = """<img src="{away}/leak-img"><img src="{away}/leak-set" srcset="{away}/leak-srcset 2x">
<link rel="stylesheet" href="{away}/leak-css"><script src="{away}/leak-js"></script>
<script>new Image().src = "{away}/leak-inline"</script>
<img src="data:," onerror="fetch('{away}/leak-handler')">
<audio src="{away}/leak-audio" preload="auto"></audio><iframe src="{away}/leak-frame"></iframe>
<object data="{away}/leak-object"></object><div style="background: url({away}/leak-style)">x</div>
<link rel="prefetch" href="{away}/leak-prefetch"><link rel="icon" href="{away}/leak-icon"></body>"""


@contextmanager
def served(pages: dict[str, bytes]) -> Iterator[tuple[str, list[str], list[Any]]]:
    """A server on this machine: its address, the paths asked for, and what was posted."""
    asked: list[str] = []
    posted: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            page = pages.get(self.path)
            self.send_response(200 if page is not None else 404)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.end_headers()
            self.wfile.write(page or b"")

        def do_POST(self) -> None:
            posted.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked, posted
    finally:
        server.shutdown()
        server.server_close()


def browse(address: str, profile: Path) -> str:
    """The page as the browser has it when all is loaded."""
    done = subprocess.run(
        [
            *(str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--mute-audio", "--no-first-run"),
            *(f"--user-data-dir={profile}", "--window-size=800,800", "--timeout=8000", "--dump-dom", address),
        ],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The page of a run with diagnoses, and with clips of every kind of error and one second of audio."""
    folder = tmp_path_factory.mktemp("report")
    run = create_run(folder, "transfer", datetime(2026, 11, 23, 12))
    run.write_recipe(load_recipe("transfer"))
    for step in range(1, 41):
        place = {"step": step, "epoch": step // 10, "time": float(step)}
        run.append_metrics({**place, "split": "train", "loss": None if step > 30 else 40 / step})
        run.append_metrics({**place, "split": "validation", "wer": 1 / step, "ctc_wer": 1.2 / step})
    audio.write(run.path / "clip.flac", np.sin(np.arange(16_000) / 6).astype(np.float32))
    reference = "قُلْ هُوَ اللَّهُ أَحَدٌ اللَّهُ الصَّمَدُ لَمْ يَلِدْ وَلَمْ يُولَدْ"
    hypothesis = "قُلْ يَا هُوَ اللَّهُ أَحَبُّ اللَّهُ لَمْ يَلِدْ وَلَمْ يُولَدْ"
    clip = {"audio_filepath": str(run.path / "clip.flac"), "duration": 1.0, "reference": reference}
    clips = [clip | {"hypothesis": hypothesis}, clip | {"hypothesis": "ب" * 3000}]
    run.transcripts.write_text("\n".join(json.dumps(clip) for clip in clips), encoding="utf-8")
    return render_report([read_curves(run.path)], folder / "out").page.read_bytes()


def test_on_a_phone_it_reads_from_right_to_left_and_plays(report: bytes, tmp_path: Path) -> None:
    with served({"/report.html": report, "/phone": PHONE.encode()}) as (address, _, posted):
        browse(f"{address}/phone", tmp_path)
        (seen,) = posted
    assert seen["width"][0] <= seen["width"][1] <= 360, "nothing to scroll sideways"
    assert seen["outside"] == []
    assert seen["sounds"] == [pytest.approx(1.0, abs=0.2)] * 2, "the browser can play what is embedded"
    assert all(width > 0 and not wide for width, wide in seen["pictures"]), "the pictures for phones"
    assert len(seen["pictures"]) == 3
    right, next_right = seen["first"]
    assert next_right < right, "the first word stands rightmost"
    assert seen["rows"][0] <= seen["rows"][1] + 1, "the hypothesis stands under the reference"
    assert (seen["struck"], seen["underlined"], seen["plus"]) == ("line-through", "underline", '"+"')
    assert seen["stops"] >= 5 + 2 + 1, "links, players and tables are reached by keyboard"
    assert seen["requests"] == []


def test_whatever_stands_in_it_nothing_leaves_for_the_network(report: bytes, tmp_path: Path) -> None:
    pages: dict[str, bytes] = {}
    with served({}) as (away, asked_away, _), served(pages) as (address, asked, _):
        hostile = report.replace(b"</body>", HOSTILE.replace("{away}", away).encode())
        unguarded = hostile.replace(b'http-equiv="Content-Security-Policy"', b'name="nothing"')
        assert hostile != report and unguarded != hostile
        pages |= {"/hostile": hostile, "/unguarded": unguarded}
        browse(f"{address}/hostile", tmp_path / "a")
        assert asked_away == []
        browse(f"{address}/unguarded", tmp_path / "b")
        assert {"/hostile", "/unguarded"} <= set(asked)
        assert len(set(asked_away)) >= 8, "without the policy these requests are made: the check can fail"
