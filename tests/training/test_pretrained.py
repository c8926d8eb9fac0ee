"""Pretrained models by name, path and run, against a local hub that misbehaves as real ones do.

The hub speaks the real one's paths and headers: a listing under /api/models, and files under /resolve, which
redirects to a second server, as the real one does to its content network.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import re
import shutil
import signal
import ssl
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import constants

from quran_asr.errors import QuranAsrError
from quran_asr.training import pretrained
from quran_asr.training.pretrained import SHORT_NAMES, Pretrained, find_pretrained

NAME = "stt_en_fastconformer_transducer_large"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
MIB = 1 << 20


def archive(seed: int, size: int = 300_000) -> bytes:
    """A tar as NeMo writes them, with pseudo-random weights."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:") as tar:
        for name, content in {
            "./model_config.yaml": b"target: x\n",
            "./model_weights.ckpt": hashlib.shake_256(bytes([seed])).digest(size),
        }.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return stream.getvalue()


WHOLE, OTHER = archive(1), archive(2)
SHA256 = hashlib.sha256(WHOLE).hexdigest()

Misdeed = Callable[["Handler"], bool]
"""Does something else than what is asked; True when that was the answer."""


@dataclass
class Hub:
    """What the local hub holds and what it was asked."""

    files: dict[str, bytes] = field(default_factory=lambda: {f"{NAME}.nemo": WHOLE})
    repository: str = f"nvidia/{NAME}"
    commit: str | None = COMMIT
    tells_sha256: bool = True
    location: str | None = None
    """Where files are redirected to, instead of to the content server."""
    listed: dict[str, Any] = field(default_factory=dict)
    """Of the listing, what differs from the truth: `size`, `sha256`."""
    for_listing: list[Misdeed] = field(default_factory=list)
    for_file: list[Misdeed] = field(default_factory=list)
    """One for each request, first to last; then all goes well."""
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    url: str = ""
    content_url: str = ""

    def file_requests(self) -> list[dict[str, str]]:
        """Headers of the requests that reached the content server."""
        return [headers for path, headers in self.asked if path.startswith("/content/")]

    def listing(self) -> dict[str, Any]:
        rows = [{"rfilename": "README.md", "size": 3}]
        for name, content in self.files.items():
            row: dict[str, Any] = {"rfilename": name, "size": self.listed.get("size", len(content))}
            if self.tells_sha256:
                sha256 = self.listed.get("sha256", hashlib.sha256(content).hexdigest())
                row["lfs"] = {"sha256": sha256, "size": row["size"], "pointerSize": 134}
            rows.append(row)
        return {"id": self.repository, "modelId": self.repository, "sha": self.commit, "siblings": rows}


class Handler(BaseHTTPRequestHandler):
    hub: Hub

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        hub = self.hub
        path = self.path.split("?")[0]
        hub.asked.append((self.path, {key.lower(): value for key, value in self.headers.items()}))
        misdeeds = hub.for_file if path.startswith("/content/") else hub.for_listing
        if (path.startswith(("/content/", "/api/"))) and misdeeds and misdeeds.pop(0)(self):
            return
        resolve = f"/{hub.repository}/resolve/{hub.commit or 'main'}/"
        if path in {f"/api/models/{hub.repository}", f"/api/models/{hub.repository}/revision/v2"}:
            self.answer(200, json.dumps(hub.listing()).encode(), {"Content-Type": "application/json"})
        elif path.startswith(resolve) and (name := path.removeprefix(resolve)) in hub.files:
            content = hub.files[name]
            linked = {"X-Repo-Commit": str(hub.commit), "X-Linked-Size": str(len(content))}
            if hub.tells_sha256:
                linked["X-Linked-Etag"] = f'"{hashlib.sha256(content).hexdigest()}"'
            content_url = f"{hub.content_url}/content/{name}?signature=x"
            location = content_url if hub.location is None else hub.location
            self.answer(302, b"", {**linked, "Location": location})
        elif path.startswith("/content/"):
            self.send_file(hub.files[path.removeprefix("/content/")])
        else:
            self.answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})

    do_HEAD = do_GET  # noqa: N815 - named by http.server

    def send_file(
        self, content: bytes, stop_after: int | None = None, heeds_if_range: bool = True, length: int = 0
    ) -> None:
        """The file, or the range of it that was asked for."""
        etag = f'"{hashlib.md5(content).hexdigest()}"'
        headers = {"ETag": etag}
        begin, wanted = 0, re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if wanted and (not heeds_if_range or self.headers.get("If-Range", etag) == etag):
            begin = int(wanted.group(1))
            if begin >= len(content):
                return self.answer(416, b"", {"Content-Range": f"bytes */{len(content)}"})
            headers["Content-Range"] = f"bytes {begin}-{len(content) - 1}/{len(content)}"
        body = content[begin:]
        self.send_response(206 if begin else 200)
        for key, value in {
            "Content-Type": "application/octet-stream",
            "Content-Length": str(length or len(body)),
            **headers,
        }.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body[:stop_after])
        return None

    def answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def status(number: int, **headers: str) -> Misdeed:
    def misdeed(handler: Handler) -> bool:
        handler.answer(number, b"no", {key.replace("_", "-"): value for key, value in headers.items()})
        return True

    return misdeed


def cut(after: int) -> Misdeed:
    def misdeed(handler: Handler) -> bool:
        handler.send_file(handler.hub.files[f"{NAME}.nemo"], stop_after=after)
        return True

    return misdeed


def page(handler: Handler) -> bool:
    handler.answer(200, b"<html>log in</html>", {"Content-Type": "text/html; charset=utf-8"})
    return True


@pytest.fixture(scope="module")
def servers() -> Iterator[tuple[ThreadingHTTPServer, ThreadingHTTPServer]]:
    made = [ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {})) for _ in range(2)]
    for server in made:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield made[0], made[1]
    for server in made:
        server.shutdown()
        server.server_close()


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that the hub's client made, in seconds; none takes time. It writes small chunks."""
    made: list[float] = []
    for module in ("huggingface_hub.file_download", "huggingface_hub.utils._http"):
        monkeypatch.setattr(f"{module}.time", SimpleNamespace(sleep=made.append))
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 10_000)
    return made


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Our cache. Hugging Face's is empty, and nobody is logged in."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("QURAN_ASR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # closed, until a test opens a hub
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "huggingface"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    huggingface_hub.close_session()  # made anew under this environment
    return tmp_path / "cache"


@pytest.fixture
def hub(
    servers: tuple[ThreadingHTTPServer, ThreadingHTTPServer],
    cache: Path,
    waits: list[float],
    monkeypatch: pytest.MonkeyPatch,
) -> Hub:
    hub = Hub()
    hub.url, hub.content_url = (f"http://127.0.0.1:{server.server_address[1]}" for server in servers)
    for server in servers:
        server.RequestHandlerClass.hub = hub  # type: ignore[attr-defined]
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    return hub


@pytest.fixture
def place(cache: Path) -> Path:
    """Where the model belongs in the cache."""
    return cache / "pretrained" / "nvidia" / NAME / "main" / f"{NAME}.nemo"


def complaint(name: str) -> QuranAsrError:
    with pytest.raises(QuranAsrError) as caught:
        find_pretrained(name)
    assert "\n" not in caught.value.what
    assert "\n" not in caught.value.remedy
    return caught.value


def left(place: Path) -> set[str]:
    """Names of what lies in the model's folder, but for the lock."""
    return {path.name for path in place.parent.glob("*")} - {".lock"} if place.parent.is_dir() else set()


def part_of(place: Path, content: bytes = WHOLE) -> Path:
    """Where a download of this content stands until it is whole."""
    return place.with_name(f"{place.name}.{hashlib.sha256(content).hexdigest()[:12]}.part")


def put(place: Path, content: bytes) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(content)


# A whole download


@pytest.mark.parametrize("name", SHORT_NAMES)
def test_a_short_name_is_downloaded_recorded_and_used_again_without_the_hub(
    hub: Hub, cache: Path, name: str
) -> None:
    hub.repository, hub.files = f"nvidia/{name}", {f"{name}.nemo": WHOLE}
    progress: list[tuple[int, int]] = []
    found = find_pretrained(name, lambda done, total: progress.append((done, total)))
    path = cache / "pretrained" / "nvidia" / name / "main" / f"{name}.nemo"
    url = f"{hub.url}/nvidia/{name}/resolve/{COMMIT}/{name}.nemo"
    assert found == Pretrained(name, path, SHA256, url)
    assert path.read_bytes() == WHOLE
    assert left(path) == {f"{name}.nemo", f"{name}.nemo.json"}
    record = json.loads(path.with_name(f"{name}.nemo.json").read_text())
    recorded = [record[key] for key in ("url", "revision", "bytes", "sha256")]
    assert recorded == [url, COMMIT, len(WHOLE), SHA256]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", record["date"])
    assert progress[0] == (0, len(WHOLE))
    assert progress[-1] == (len(WHOLE), len(WHOLE))
    assert progress == sorted(progress)

    hub.asked.clear()
    assert find_pretrained(name) == found
    assert hub.asked == []


def test_a_hub_without_sha256_and_commit_is_downloaded_all_the_same(hub: Hub, place: Path) -> None:
    hub.tells_sha256, hub.commit = False, None
    assert find_pretrained(NAME).source == f"{hub.url}/nvidia/{NAME}/resolve/main/{NAME}.nemo"
    assert json.loads(place.with_name(f"{place.name}.json").read_text())["sha256"] == SHA256


@pytest.fixture
def secure(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The hub over https, with a certificate that is trusted for this test; its content server stays."""
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl for a certificate")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    words = "openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=127.0.0.1"
    subprocess.run(
        [*words.split(), "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate],
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": hub}))
    server.daemon_threads = True
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    hub.url = f"https://127.0.0.1:{server.server_address[1]}"
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    huggingface_hub.close_session()  # made anew with this certificate
    yield hub
    server.shutdown()
    server.server_close()
    huggingface_hub.close_session()


def authorizations(hub: Hub) -> dict[str, str | None]:
    return {path.split("/")[1]: headers.get("authorization") for path, headers in hub.asked}


def test_the_token_goes_to_the_hub_and_not_to_its_content_server(
    secure: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    find_pretrained(NAME)
    sent = authorizations(secure)
    assert sent == {"api": "Bearer hf_secret", "nvidia": "Bearer hf_secret", "content": None}


def test_the_token_is_never_sent_over_plain_http(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    find_pretrained(NAME)
    assert authorizations(hub) == {"api": None, "nvidia": None, "content": None}


def test_over_plain_http_no_token_is_sent_and_the_reason_is_reported(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    hub.for_listing = [status(403, X_Error_Code="GatedRepo")]
    assert "no token is sent over plain http" in complaint(NAME).remedy


@pytest.mark.parametrize("breaks", [False, True])
def test_a_password_in_the_endpoint_reaches_the_hub_and_no_file_and_no_message(
    hub: Hub, cache: Path, breaks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = hub.url.removeprefix("http://")
    monkeypatch.setenv("HF_ENDPOINT", f"http://someone:p%40ss-phrase@{address}/")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    if breaks:
        hub.for_file = [cut(100_000), *[status(503)] * 20]
        error = complaint(NAME)
        shown = f"{error.what} {error.where} {error.remedy}"
    else:
        found = find_pretrained(NAME)
        shown = found.source
    basic = f"Basic {base64.b64encode(b'someone:p@ss-phrase').decode()}"
    assert authorizations(hub) == {"api": basic, "nvidia": basic, "content": None}
    written = {path: path.read_bytes() for path in cache.rglob("*") if path.is_file()}
    assert any(path.suffix == (".part" if breaks else ".json") for path in written)
    for secret in ("p%40ss-phrase", "p@ss-phrase", "someone", "hf_secret", basic.split()[1]):
        assert secret not in shown
        assert not [path for path, content in written.items() if secret.encode() in content]


@pytest.mark.parametrize("endpoint", ["hub.example.org", "file:///etc", "https://", "http://[::1"])
def test_an_endpoint_that_is_not_an_address_is_named_without_its_text(
    endpoint: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    error = complaint(NAME)
    assert (error.where, error.what) == ("HF_ENDPOINT", "is not the address of a hub")


@pytest.mark.parametrize(
    "target",
    [
        "http://example.invalid/model.nemo",
        "http://localhost:1/model.nemo",
        "file:///etc/passwd",
        "http://[:1/",
        "https://[::1%25/",
    ],
)
def test_a_redirect_to_anything_less_safe_or_to_nonsense_is_refused(
    hub: Hub, place: Path, target: str
) -> None:
    hub.location = target
    assert "is not https" in complaint(NAME).what
    assert left(place) == set()


def test_redirects_in_a_circle_end(hub: Hub) -> None:
    hub.for_listing = [status(302, Location=f"/api/models/nvidia/{NAME}")] * 100
    assert "redirects" in complaint(NAME).what
    assert len(hub.asked) < 30


def test_a_renamed_repository_is_followed(hub: Hub, place: Path) -> None:
    hub.for_listing = [status(307, Location=f"/api/models/{hub.repository}?blobs=true")]
    assert find_pretrained(NAME).path == place


# Ids, revisions, files


def test_an_id_takes_the_only_nemo_of_a_revision(hub: Hub, cache: Path) -> None:
    hub.repository, hub.files = "someone/a.model", {"deep/best.nemo": WHOLE}
    found = find_pretrained("someone/a.model@v2")
    assert found.path == cache / "pretrained/someone/a.model/v2/deep/best.nemo"
    assert hub.asked[0][0] == "/api/models/someone/a.model/revision/v2?blobs=true"


def test_of_several_nemo_files_one_must_be_named_even_when_another_is_in_the_cache(hub: Hub) -> None:
    hub.repository, hub.files = "someone/two", {"a.nemo": WHOLE, "b.nemo": OTHER}
    refused = complaint("someone/two")
    assert refused.what == "`someone/two` has several .nemo files: a.nemo, b.nemo"
    assert "`someone/two:a.nemo`" in refused.remedy
    assert find_pretrained("someone/two:b.nemo").path.read_bytes() == OTHER
    assert "several" in complaint("someone/two").what
    refused = complaint("someone/two:c.nemo")
    assert (refused.what, refused.remedy) == ("`someone/two` has no file `c.nemo`", "it has a.nemo, b.nemo")


def test_among_several_a_short_name_means_the_one_of_its_own_name(hub: Hub, place: Path) -> None:
    hub.files["another.nemo"] = OTHER
    assert find_pretrained(NAME).path == place
    hub.asked.clear()
    assert find_pretrained(NAME).sha256 == SHA256
    assert hub.asked == []


def test_a_model_without_nemo_and_one_whose_files_lead_out_of_the_cache(hub: Hub, cache: Path) -> None:
    hub.files = {"../../escaped.nemo": WHOLE}
    assert complaint(NAME).what == f"`nvidia/{NAME}` has no .nemo file"
    hub.files = {}
    assert complaint(NAME).what == f"`nvidia/{NAME}` has no .nemo file"
    assert not cache.exists()


@pytest.mark.parametrize("name", ["a/b@../../x", "a/b:../../x.nemo", "a--b/c", "../b/c", "a/b:x/./y.nemo"])
def test_names_that_lead_out_of_the_cache_are_refused(hub: Hub, name: str) -> None:
    complaint(name)
    assert hub.asked == []


# Cut off and continued


def test_a_body_that_is_cut_is_continued_where_it_broke(hub: Hub, waits: list[float]) -> None:
    hub.for_file = [cut(100_000), cut(50_000)]
    progress: list[int] = []
    assert find_pretrained(NAME, lambda done, total: progress.append(done)).sha256 == SHA256
    assert [headers.get("range") for headers in hub.file_requests()] == [
        None,
        "bytes=100000-",
        "bytes=150000-",
    ]
    assert progress == sorted(progress)
    assert waits == [1, 1]


def test_a_line_that_is_cut_for_ever_is_given_up_and_its_part_continued_at_the_next_call(
    hub: Hub, place: Path, waits: list[float]
) -> None:
    hub.for_file = [cut(60_000)] + [cut(0)] * 6
    refused = complaint(NAME)
    assert "broke off" in refused.what
    assert "continues it" in refused.remedy
    assert 3 < len(hub.file_requests()) < 10
    assert left(place) == {part_of(place).name}
    hub.for_file.clear()
    assert find_pretrained(NAME).sha256 == SHA256
    assert hub.file_requests()[-1]["range"] == "bytes=60000-"


def test_a_slow_line_that_brings_something_between_its_cuts_is_not_given_up(hub: Hub) -> None:
    hub.for_file = [cut(20_000)] * 12
    assert find_pretrained(NAME).sha256 == SHA256


def test_a_silent_server_is_asked_again(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.2)

    def silent(handler: Handler) -> bool:
        time.sleep(0.5)
        return True

    hub.for_file = [silent]
    assert find_pretrained(NAME).sha256 == SHA256
    assert len(hub.file_requests()) == 2


def test_an_interrupt_leaves_the_part_that_the_next_call_continues(hub: Hub, place: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        if done > 100_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        find_pretrained(NAME, interrupt)
    part = part_of(place)
    assert left(place) == {part.name}
    here = part.stat().st_size
    assert 100_000 < here < len(WHOLE)
    assert find_pretrained(NAME).sha256 == SHA256
    assert hub.file_requests()[-1]["range"] == f"bytes={here}-"
    assert left(place) == {f"{NAME}.nemo", f"{NAME}.nemo.json"}


def process(code: str, **environment: str) -> subprocess.Popen[str]:
    script = f"""
from huggingface_hub import constants
from quran_asr.training.pretrained import find_pretrained
constants.DOWNLOAD_CHUNK_SIZE = 10_000
{code}"""
    return subprocess.Popen(
        [sys.executable, "-c", script],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_a_killed_process_leaves_what_came_and_the_next_one_continues(hub: Hub, place: Path) -> None:
    released = threading.Event()

    def half_then_silence(handler: Handler) -> bool:
        cut(150_000)(handler)
        released.wait(30)
        return True

    hub.for_file = [half_then_silence]
    loading = process(f"find_pretrained({NAME!r})")
    part = part_of(place)
    try:
        deadline = time.monotonic() + 300
        while not (part.is_file() and part.stat().st_size == 150_000):
            assert time.monotonic() < deadline
            assert loading.poll() is None, loading.communicate()
            time.sleep(0.02)
        loading.send_signal(signal.SIGKILL)
        loading.communicate()
        assert not place.exists()
        assert find_pretrained(NAME).sha256 == SHA256  # the killed one's lock is no hindrance
    finally:
        loading.kill()
        released.set()
    assert hub.file_requests()[-1]["range"] == "bytes=150000-"
    assert place.read_bytes() == WHOLE


@pytest.mark.slow
def test_of_two_processes_one_downloads_and_the_other_waits_for_it(hub: Hub, place: Path) -> None:
    both_asked = threading.Barrier(2)

    def together(handler: Handler) -> bool:
        both_asked.wait(300)
        return False

    def slowly(handler: Handler) -> bool:
        time.sleep(0.3)
        return False

    hub.for_listing, hub.for_file = [together, together], [slowly]
    two = [process(f"print(find_pretrained({NAME!r}).sha256)") for _ in range(2)]
    outputs = [loading.communicate(timeout=300) for loading in two]
    assert outputs == [(f"{SHA256}\n", "")] * 2
    assert len(hub.file_requests()) == 1
    assert place.read_bytes() == WHOLE


# The hub's file changes between two halves


def begin(hub: Hub, place: Path, content: bytes = WHOLE) -> None:
    """Leave a part of 100,000 bytes of a file."""
    hub.files = {f"{NAME}.nemo": content}
    hub.for_file = [cut(100_000)] + [status(503)] * 6
    with pytest.raises(QuranAsrError):
        find_pretrained(NAME)
    assert [path.stat().st_size for path in place.parent.glob("*.part")] == [100_000]
    hub.for_file.clear()
    hub.asked.clear()


def test_a_part_of_a_file_that_the_hub_replaced_is_thrown_away(hub: Hub, place: Path) -> None:
    begin(hub, place, OTHER)
    hub.files = {f"{NAME}.nemo": WHOLE}
    find_pretrained(NAME)
    assert place.read_bytes() == WHOLE
    assert "range" not in hub.file_requests()[0]


def test_without_a_sha256_a_part_of_an_earlier_call_is_thrown_away(hub: Hub, place: Path) -> None:
    hub.tells_sha256 = False
    begin(hub, place, OTHER)
    hub.files = {f"{NAME}.nemo": WHOLE}
    progress: list[int] = []
    find_pretrained(NAME, lambda done, total: progress.append(done))
    assert place.read_bytes() == WHOLE
    assert "range" not in hub.file_requests()[0]
    assert left(place) == {f"{NAME}.nemo", f"{NAME}.nemo.json"}
    assert progress == sorted(progress)


def test_a_server_that_ignores_the_range_sends_the_file_anew(hub: Hub, place: Path) -> None:
    begin(hub, place)

    def whole(handler: Handler) -> bool:
        handler.answer(200, WHOLE, {"Content-Type": "application/octet-stream"})
        return True

    hub.for_file = [whole]
    progress: list[int] = []
    assert find_pretrained(NAME, lambda done, total: progress.append(done)).sha256 == SHA256
    assert hub.file_requests()[0]["range"] == "bytes=100000-"
    assert progress == sorted(progress)


def test_a_damaged_part_is_found_by_the_sha256_and_all_is_got_anew(hub: Hub, place: Path) -> None:
    begin(hub, place)
    part_of(place).write_bytes(OTHER[:100_000])
    progress: list[int] = []
    assert find_pretrained(NAME, lambda done, total: progress.append(done)).sha256 == SHA256
    assert progress == sorted(progress)
    assert [headers.get("range") for headers in hub.file_requests()] == ["bytes=100000-", None]


def test_a_part_that_is_already_whole_only_takes_its_name(hub: Hub, place: Path) -> None:
    begin(hub, place)
    part_of(place).write_bytes(WHOLE)
    assert find_pretrained(NAME).path.read_bytes() == WHOLE
    assert hub.file_requests() == []


def test_a_part_longer_than_the_file_is_got_anew(hub: Hub, place: Path) -> None:
    begin(hub, place)
    part_of(place).write_bytes(WHOLE + b"more")
    assert find_pretrained(NAME).sha256 == SHA256


# Wrong content


def test_a_file_of_another_length_than_the_hub_lists_is_refused(hub: Hub, place: Path) -> None:
    hub.listed = {"size": len(WHOLE) + 1}
    refused = complaint(NAME)
    assert f"{len(WHOLE) + 1:,} bytes, and {len(WHOLE):,} come" in refused.what
    assert left(place) == set()


def test_a_file_that_is_longer_than_announced_is_refused(hub: Hub, place: Path) -> None:
    """A body without a length of its own, which only the hub's figure ends."""

    def endless(handler: Handler) -> bool:
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.write(WHOLE + b"x" * MIB)
        return True

    hub.for_file = [endless]
    assert "come; nothing was kept" in complaint(NAME).what
    assert left(place) == set()


def test_a_file_with_another_sha256_is_refused(hub: Hub, place: Path) -> None:
    hub.listed = {"sha256": "0" * 64}
    refused = complaint(NAME)
    assert f"sha256 {SHA256[:12]}..., and the server has 000000000000..." in refused.what
    assert left(place) == set()
    assert len(hub.file_requests()) == 1


def test_html_instead_of_a_file_is_reported_and_not_kept(hub: Hub, place: Path) -> None:
    hub.for_file = [page]
    assert "HTML" in complaint(NAME).what
    assert left(place) == set()


def test_html_in_the_middle_does_not_get_into_the_file(hub: Hub, place: Path) -> None:
    begin(hub, place)
    hub.for_file = [page]
    assert "HTML" in complaint(NAME).what
    assert left(place) == set()
    assert find_pretrained(NAME).sha256 == SHA256


@pytest.mark.parametrize("content", [b"version https://git-lfs", b"", bytes(10240)])
def test_content_that_is_not_an_archive_is_reported_and_not_kept(
    hub: Hub, place: Path, content: bytes
) -> None:
    hub.files = {f"{NAME}.nemo": content}
    assert "no .nemo archive" in complaint(NAME).what
    assert left(place) == set()


@pytest.mark.parametrize(
    "listing", [b"<html>", b"[]", b'{"siblings": 3}', b'{"siblings": [{}]}', b"[" * 9999]
)
def test_a_listing_that_is_none_is_an_error_in_one_line(hub: Hub, listing: bytes) -> None:
    def nonsense(handler: Handler) -> bool:
        handler.answer(200, listing, {"Content-Type": "text/html"})
        return True

    hub.for_listing = [nonsense]
    assert complaint(NAME).what.startswith("the hub answers with ")


# The hub says no


def test_404_names_the_nearest_model(hub: Hub, cache: Path) -> None:
    refused = complaint("stt_en_fastconformer_tranducer_large")
    assert refused.what == "the hub has no model `nvidia/stt_en_fastconformer_tranducer_large` (HTTP 404)"
    assert refused.remedy == f"did you mean `{NAME}`?"
    assert len(hub.asked) == 1
    assert not cache.exists()


def test_an_unknown_revision_is_reported(hub: Hub) -> None:
    hub.for_listing = [status(404, X_Error_Code="RevisionNotFound")]
    assert complaint(f"{NAME}@v9").what == f"`nvidia/{NAME}` has no revision `v9`"


@pytest.mark.parametrize(
    ("number", "headers"),
    [(401, {"X_Error_Code": "GatedRepo"}), (403, {"X_Error_Code": "GatedRepo"}), (403, {})],
)
def test_a_gated_model_reports_where_to_accept_and_how_to_log_in(
    hub: Hub, number: int, headers: dict[str, str]
) -> None:
    hub.for_listing = [status(number, **headers)]
    refused = complaint(NAME)
    assert refused.what == f"`nvidia/{NAME}` is given only to those who log in (HTTP {number})"
    assert (
        f"accept the conditions at {hub.url}/nvidia/{NAME} and log in with `hf auth login`" in refused.remedy
    )


def test_401_may_also_mean_that_there_is_not_a_such_model(hub: Hub) -> None:
    """What the real hub answers to those who are not logged in, for private and missing models alike."""
    hub.for_listing = [status(401, X_Error_Code="RepoNotFound")]
    refused = complaint("stt_ar_fastconformer_hybrid_large_pcd")
    assert "has no model" in refused.what
    assert "did you mean `stt_ar_fastconformer_hybrid_large_pcd_v1.0`?" in refused.remedy
    assert "hf auth login" in refused.remedy


def test_429_waits_as_long_as_asked_and_then_continues(hub: Hub, waits: list[float]) -> None:
    hub.for_file = [status(429, Retry_After="7")]
    assert find_pretrained(NAME).sha256 == SHA256
    assert len(waits) == 1
    assert waits[0] >= 7


@pytest.mark.parametrize("for_what", ["for_listing", "for_file"])
def test_429_for_ever_is_given_up(hub: Hub, for_what: str) -> None:
    setattr(hub, for_what, [status(429)] * 100)
    refused = complaint(NAME)
    assert "HTTP 429" in refused.what
    assert "try again later" in refused.remedy


@pytest.mark.parametrize("for_what", ["for_listing", "for_file"])
@pytest.mark.parametrize("number", [500, 502, 503, 504])
def test_a_hub_in_trouble_is_reported_and_may_be_asked_again(hub: Hub, number: int, for_what: str) -> None:
    setattr(hub, for_what, [status(number)])
    refused = complaint(NAME)
    assert f"HTTP {number}" in refused.what
    assert "try again later" in refused.remedy
    assert find_pretrained(NAME).sha256 == SHA256


@pytest.mark.parametrize("number", [400, 410, 418])
def test_other_answers_are_reported_at_once(hub: Hub, waits: list[float], number: int) -> None:
    hub.for_file = [status(number)]
    assert f"answers HTTP {number}" in complaint(NAME).what
    assert waits == []


@pytest.mark.parametrize("number", [204, 304])
def test_an_answer_without_a_file_is_refused(hub: Hub, place: Path, number: int) -> None:
    hub.for_file = [status(number)]
    assert "bytes, and 0 come; nothing was kept" in complaint(NAME).what
    assert left(place) == set()


# Offline


def test_offline_without_a_cache_names_what_to_download_and_where_to_put_it(
    place: Path,
) -> None:
    refused = complaint(NAME)
    assert refused.what.startswith(f"`nvidia/{NAME}` is not in the cache, and the hub cannot be reached (")
    assert refused.remedy == (
        f"download http://127.0.0.1:9/nvidia/{NAME}/resolve/main/{NAME}.nemo and put it at {place}, "
        "or name a file with `init_from_pretrained_model=PATH`"
    )


@pytest.mark.slow
def test_the_variable_for_offline_is_heeded_without_a_question_to_the_hub(hub: Hub, place: Path) -> None:
    code = f"""
from quran_asr.errors import QuranAsrError
try:
    print(find_pretrained({NAME!r}).path)
except QuranAsrError as error:
    print(error.remedy)
"""
    out, err = process(code, HF_HUB_OFFLINE="1").communicate(timeout=300)
    assert (f"put it at {place}," in out, err) == (True, "")
    put(place, WHOLE)
    assert process(code, HF_HUB_OFFLINE="1").communicate(timeout=300) == (f"{place}\n", "")
    assert hub.asked == []


def test_a_file_put_there_by_hand_is_taken_and_recorded(place: Path) -> None:
    put(place, WHOLE)
    assert find_pretrained(NAME) == Pretrained(NAME, place, SHA256, "file")
    record = json.loads(place.with_name(f"{place.name}.json").read_text())
    assert (record["url"], record["sha256"]) == (None, SHA256)
    place.write_bytes(OTHER)
    assert "has changed" in complaint(NAME).what


def test_of_an_id_the_only_file_that_was_put_there_is_taken(cache: Path) -> None:
    put(cache / "pretrained/someone/model/main/whatever.nemo", WHOLE)
    assert find_pretrained("someone/model").sha256 == SHA256


def test_what_is_put_there_must_be_an_archive(place: Path) -> None:
    put(place, b"version https://git-lfs.github.com/spec/v1\n")
    assert "no .nemo archive" in complaint(NAME).what


# Later uses


@pytest.mark.parametrize("changed", [OTHER, WHOLE[:-1], b""])
def test_a_file_that_changes_on_the_disk_is_refused_until_it_is_got_again(
    hub: Hub, place: Path, changed: bytes
) -> None:
    find_pretrained(NAME)
    place.write_bytes(changed)
    refused = complaint(NAME)
    assert refused.where == str(place)
    assert "has changed" in refused.what
    assert refused.remedy == f"delete it and {place}.json, and get it again"
    place.unlink()
    assert find_pretrained(NAME).sha256 == SHA256


def test_a_file_is_read_again_only_when_its_length_or_time_of_change_is_another(
    hub: Hub, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find_pretrained(NAME)
    read: list[Path] = []
    monkeypatch.setattr("quran_asr.training.pretrained.sha256_of", lambda path: read.append(path) or SHA256)
    find_pretrained(NAME)
    assert read == []
    os.utime(place, (1, 1))
    find_pretrained(NAME)
    find_pretrained(NAME)
    assert read == [place]


def test_a_record_that_is_none_is_reported(hub: Hub, place: Path) -> None:
    find_pretrained(NAME)
    place.with_name(f"{place.name}.json").write_text("{}")
    assert "is not the record of a download" in complaint(NAME).what


def hugging_face_cache(content: bytes, sha256: str) -> Path:
    """The model as Hugging Face's own tools keep it. Returns the file's path there."""
    folder = Path(constants.HF_HUB_CACHE) / f"models--nvidia--{NAME}"
    blob = folder / "blobs" / sha256
    put(blob, content)
    put(folder / "refs" / "main", COMMIT.encode())
    pointer = folder / "snapshots" / COMMIT / f"{NAME}.nemo"
    pointer.parent.mkdir(parents=True)
    pointer.symlink_to(blob)
    return pointer


def test_hugging_faces_own_cache_is_used_where_it_lies(place: Path) -> None:
    pointer = hugging_face_cache(WHOLE, SHA256)
    expected = (pointer, SHA256, f"http://127.0.0.1:9/nvidia/{NAME}/resolve/{COMMIT}/{NAME}.nemo")
    for name in (NAME, f"nvidia/{NAME}", NAME):
        found = find_pretrained(name)
        assert (found.path, found.sha256, found.source) == expected
    assert not place.exists()


def test_a_file_in_hugging_faces_cache_that_is_not_its_sha256_is_refused(cache: Path) -> None:
    hugging_face_cache(OTHER, SHA256)
    assert "has changed" in complaint(NAME).what


# The disk


def test_too_little_space_is_reported_before_the_download(
    hub: Hub, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pretrained.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, 1000))
    assert complaint(NAME).what == "0.00 GB are to come, and 0.00 GB are free"
    assert left(place) == set()


def test_a_cache_that_cannot_be_written_is_reported(hub: Hub, cache: Path) -> None:
    cache.write_text("a file")
    assert "cannot be written" in complaint(NAME).what


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_reported_and_not_taken_for_a_broken_line(
    hub: Hub, place: Path, waits: list[float]
) -> None:
    place.parent.mkdir(parents=True)
    part_of(place).symlink_to("/dev/full")
    assert "No space left on device" in complaint(NAME).what
    assert waits == []
    part_of(place).unlink()
    assert find_pretrained(NAME).sha256 == SHA256


# Paths, runs, and names that are neither


def test_the_path_of_a_nemo_is_taken_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "model.nemo", WHOLE)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for name in (str(tmp_path / "model.nemo"), "~/model.nemo", "./model.nemo", "model.nemo"):
        found = find_pretrained(name)
        assert (found.name, found.sha256, found.source) == (name, SHA256, "file")
        assert found.path.samefile(tmp_path / "model.nemo")


@pytest.mark.parametrize(
    "name",
    ["./missing.nemo", "~/missing", "/missing", "folder/missing.nemo", "missing.nemo", "..", "$X/m.nemo"],
)
def test_a_path_that_is_missing_is_never_taken_for_a_name(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    refused = complaint(name)
    assert refused.what == ("is not the folder of a run" if name == ".." else "no such file")
    assert hub.asked == []


def test_a_file_that_is_not_a_nemo_or_no_archive_is_reported(tmp_path: Path) -> None:
    put(tmp_path / "last.ckpt", b"x")
    put(tmp_path / "empty.nemo", b"")
    assert complaint(str(tmp_path / "last.ckpt")).what == "is not a .nemo file"
    assert "no .nemo archive" in complaint(str(tmp_path / "empty.nemo")).what


def test_a_run_gives_its_best_nemo(tmp_path: Path) -> None:
    run = tmp_path / "name" / "2026-01-01_00-00-00"
    put(run / "recipe.yaml", b"name: x\n")
    assert "no `.nemo`" in complaint(str(run)).what
    put(run / "checkpoints" / "x--val_wer=0.2000.nemo", OTHER)
    put(run / "checkpoints" / "x--val_wer=0.1000.nemo", WHOLE)
    found = find_pretrained(str(run))
    assert (found.path.name, found.sha256) == ("x--val_wer=0.1000.nemo", SHA256)
    assert found.source == f"run {run}"
    assert str(run) in complaint(str(run.parent)).remedy


def test_a_folder_that_is_not_a_run_is_reported_and_its_model_named(tmp_path: Path) -> None:
    put(tmp_path / "clone" / "model.nemo", WHOLE)
    assert str(tmp_path / "clone" / "model.nemo") in complaint(str(tmp_path / "clone")).remedy


def test_a_folder_that_is_called_like_a_model_does_not_stand_in_its_way(
    hub: Hub, tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / NAME).mkdir()
    monkeypatch.chdir(tmp_path)
    assert find_pretrained(NAME).path == place


@pytest.mark.parametrize("name", ["", " "])
def test_an_empty_name_reports_a_variable_that_was_not_set(name: str) -> None:
    refused = complaint(name)
    assert "is empty, as from a shell variable that is not set" in refused.what
    assert "init_from_pretrained_model=null" in refused.remedy


@pytest.mark.parametrize(
    "name", ["last", "fastconformer", "st_en_fastconformer_transducer_large", "a b", "x\0", "é" * 300]
)
def test_a_word_that_is_nothing_names_what_there_is(hub: Hub, name: str) -> None:
    refused = complaint(name)
    assert "there is no pretrained model" in refused.what
    if name.startswith("st_"):
        assert refused.remedy == f"did you mean `{NAME}`?"
    assert ("run's folder" in refused.remedy) != name.startswith("st_")
    assert hub.asked == []
