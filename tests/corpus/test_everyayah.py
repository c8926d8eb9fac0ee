"""Downloading from a real HTTP server of this machine: whole files, and nothing else under their names."""

from __future__ import annotations

import hashlib
import json
import shutil
import ssl
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from quran_asr import audio
from quran_asr.corpus import everyayah
from quran_asr.corpus.everyayah import Server, download, recitations
from quran_asr.corpus.scan import scan
from quran_asr.errors import QuranAsrError
from quran_asr.text.passages import parse_range

MP3 = audio.as_mp3((0.3 * np.sin(np.arange(40_000) / 10)).astype(np.float32))
IKHLAS = parse_range("112")


class Site(ThreadingHTTPServer):
    """Files in a dict; each request is kept. `faults` are done once each: a code, `cut`, or a web page."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.faults: dict[str, list[object]] = {}
        self.requests: list[tuple[str, str | None]] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/data"


class Handler(BaseHTTPRequestHandler):
    server: Site

    def do_GET(self) -> None:
        path = self.path.removeprefix("/data/")
        wanted = self.headers.get("Range")
        self.server.requests.append((path, wanted))
        faults = self.server.faults.get(path, [])
        fault = faults.pop(0) if faults else None
        content = self.server.files.get(path)
        if isinstance(fault, int) or content is None:
            self.send_response(fault if isinstance(fault, int) else 404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if isinstance(fault, str) and fault.startswith("http"):
            self.send_response(302)
            self.send_header("Location", fault)
            self.end_headers()
            return
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start : len(content) // 2] if fault == "cut" else content[start:])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setattr(everyayah.time, "sleep", lambda seconds: None)
    server = Site()
    server.files = {f"A_64kbps/11200{n}.mp3": MP3 for n in (1, 2, 3, 4)}
    lines = [f"{hashlib.md5(MP3).hexdigest()} *A_64kbps/11200{n}.mp3" for n in (1, 2, 3)]
    server.files["A_64kbps/000_checksum.md5"] = "\r\n".join(lines).encode()
    server.files["recitations.js"] = json.dumps(
        {"ayahCount": [7], "1": {"subfolder": "A_64kbps", "name": "A", "bitrate": "64kbps"}}
    ).encode()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def fetched(site: Site, folder: Path, reciter: str = "A_64kbps") -> everyayah.DownloadReport:
    return download(Server(site.address, 1000), [reciter], IKHLAS, folder)


def test_verses_are_fetched_checked_and_scanned(site: Site, tmp_path: Path) -> None:
    report = fetched(site, tmp_path)
    assert (report.fetched, report.checked, report.present, report.missing) == (4, 3, 0, ())
    assert {path.read_bytes() for path in tmp_path.rglob("*.mp3")} == {MP3}
    assert scan([tmp_path], tmp_path / "all.jsonl").verses == 4
    site.requests.clear()
    again = fetched(site, tmp_path)
    assert (again.fetched, again.present) == (0, 4)
    assert site.requests == []


def test_an_interrupted_file_goes_on_where_it_stopped(site: Site, tmp_path: Path) -> None:
    site.faults["A_64kbps/112001.mp3"] = ["cut"]
    assert fetched(site, tmp_path).fetched == 4
    assert ("A_64kbps/112001.mp3", f"bytes={len(MP3) // 2}-") in site.requests
    assert (tmp_path / "A_64kbps" / "112001.mp3").read_bytes() == MP3


def test_what_a_killed_download_left_is_used(site: Site, tmp_path: Path) -> None:
    part = tmp_path / "A_64kbps" / "112002.mp3.part"
    part.parent.mkdir()
    part.write_bytes(MP3[:1000])
    fetched(site, tmp_path)
    assert ("A_64kbps/112002.mp3", "bytes=1000-") in site.requests
    assert part.with_suffix("").read_bytes() == MP3
    assert not part.exists()


@pytest.mark.parametrize("code", [500, 503, 429, 416])
def test_a_server_that_is_busy_is_asked_again(site: Site, tmp_path: Path, code: int) -> None:
    site.faults["A_64kbps/112003.mp3"] = [code, code]
    assert fetched(site, tmp_path).fetched == 4


def test_missing_files_and_web_pages_are_listed_and_leave_nothing(site: Site, tmp_path: Path) -> None:
    del site.files["A_64kbps/112002.mp3"]
    site.files["A_64kbps/112003.mp3"] = b"\n<!DOCTYPE html><html>Not found</html>"
    site.files["A_64kbps/112004.mp3"] = b"not sound at all"
    report = fetched(site, tmp_path)
    assert [one.reason.split(" (")[0] for one in report.missing] == [
        "the server answers 404",
        "a web page, not a recording",
        "not an audio file that can be read, or damaged",
    ]
    assert [path.name for path in tmp_path.rglob("*.mp3")] == ["112001.mp3"]


def test_a_wrong_checksum_is_refused(site: Site, tmp_path: Path) -> None:
    site.files["A_64kbps/112001.mp3"] = MP3 + MP3
    (missing,) = fetched(site, tmp_path).missing
    assert "checksum" in missing.reason
    assert not list(tmp_path.rglob("112001*"))


def test_a_server_that_gives_nothing_is_left_alone(site: Site, tmp_path: Path) -> None:
    with pytest.raises(QuranAsrError, match="gave up after 5 files"):
        download(Server(site.address, 1000), ["B"], parse_range("2:1-50"), tmp_path)
    assert len([path for path, _ in site.requests if path.endswith("mp3")]) == 5


def test_the_list_of_reciters(site: Site) -> None:
    offered = recitations(Server(site.address))
    assert [one.folder for one in offered] == ["A_64kbps"]
    with pytest.raises(QuranAsrError, match="lists no reciter `A_64`") as refused:
        everyayah.refuse_unknown(["A_64"], offered)
    assert refused.value.remedy == "did you mean A_64kbps?"
    site.files["recitations.js"] = b"<html></html>"
    with pytest.raises(QuranAsrError, match="has no list"):
        recitations(Server(site.address))


def test_requests_keep_their_distance(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    now = [0.0]
    monkeypatch.setattr(everyayah.time, "monotonic", lambda: now[0])

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds

    monkeypatch.setattr(everyayah.time, "sleep", sleep)
    download(Server(site.address, 2.0), ["A_64kbps"], IKHLAS, tmp_path)
    assert slept == pytest.approx([0.5] * 4)  # five requests with the list of checksums


@pytest.mark.parametrize(
    "place", ["file:///etc/passwd", "ftp://example.com/x", "data:text/plain,x", "https://", ""]
)
def test_other_addresses_are_refused(place: str) -> None:
    with pytest.raises(QuranAsrError, match="is not the address of a server"):
        Server(place)


@pytest.mark.parametrize("name", ["../x", "a/../b", "/etc", "a//b", "a b", "", "a/b/c", "..", "a\n"])
def test_names_that_are_no_folder_are_refused(site: Site, tmp_path: Path, name: str) -> None:
    with pytest.raises(QuranAsrError, match="is not the folder of a reciter"):
        fetched(site, tmp_path, name)
    assert site.requests == []


def test_https_and_no_way_down_from_it(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl to make a certificate")
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    options = (
        "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost"
    )
    subprocess.run(
        ["openssl", *options.split(), "-keyout", str(key), "-out", str(certificate)],
        check=True,
        capture_output=True,
    )
    secure = Site()
    secure.files = dict(site.files)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    secure.socket = context.wrap_socket(secure.socket, server_side=True)
    threading.Thread(target=secure.serve_forever, daemon=True).start()
    address = f"https://localhost:{secure.server_address[1]}/data"
    try:
        with pytest.raises(QuranAsrError, match="CERTIFICATE_VERIFY_FAILED"):
            recitations(Server(address, 1000))
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert download(Server(address, 1000), ["A_64kbps"], IKHLAS, tmp_path / "a").fetched == 4
        secure.faults["A_64kbps/112001.mp3"] = [f"{site.address}/A_64kbps/112001.mp3"] * 9
        (missing,) = download(Server(address, 1000), ["A_64kbps"], IKHLAS, tmp_path / "b").missing
        assert missing.reason == (f"redirects to {site.address}/A_64kbps/112001.mp3, which is not https")
    finally:
        secure.shutdown()
        secure.server_close()
