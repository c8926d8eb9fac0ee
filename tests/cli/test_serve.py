"""`quran-asr serve`: what it refuses before a model is loaded."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from quran_asr.cli.main import main


@pytest.fixture(autouse=True)
def packages(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the extra were installed: none of its packages is needed for a refusal."""
    monkeypatch.setattr("quran_asr.cli.serve.need", lambda *extras: None)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    (tmp_path / "bundle.json").touch()
    return tmp_path


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--host", "0.0.0.0"], "0.0.0.0 can be reached from other machines"),
        (["--host", "::"], ":: can be reached from other machines"),
        (["--host", "example.org"], "example.org can be reached from other machines"),
        (["--host", "0.0.0.0", "--allow-network"], "over TLS only"),
        (["--certificate", __file__], "`--certificate` and `--key` belong together"),
        (["--tls", "--certificate", __file__, "--key", __file__], "`--tls` makes a certificate"),
        (["--certificate", __file__, "--key", __file__], "this is not a certificate of the key in"),
        (["--port", "70000"], "70000 is not in the range"),
        (["--hours", "nan"], "nan"),
    ],
)
def test_it_refuses(words: list[str], message: str, bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["serve", "--model", str(bundle), *words])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_a_port_in_use_is_reported_at_once(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SystemExit) as ended:
            main(["serve", "--model", str(bundle), "--port", str(port)])
    assert ended.value.code == 2
    assert f"cannot listen on port {port}" in capsys.readouterr().err


def test_a_certificate_names_the_addresses(tmp_path: Path) -> None:
    import shutil
    import ssl

    from quran_asr.server.certificate import self_signed

    if shutil.which("openssl") is None:
        pytest.skip("needs openssl")
    certificate, key = self_signed(tmp_path, ("192.168.1.5", "::1", "localhost"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    trusting = ssl.create_default_context(cafile=str(certificate))
    (known,) = trusting.get_ca_certs()
    names = known["subjectAltName"]
    assert ("IP Address", "192.168.1.5") in names
    assert ("DNS", "localhost") in names
    assert key.stat().st_mode & 0o077 == 0


def test_without_openssl_a_certificate_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from quran_asr.errors import QuranAsrError
    from quran_asr.server.certificate import self_signed

    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(QuranAsrError, match="needs the program openssl"):
        self_signed(tmp_path, ("localhost",))
