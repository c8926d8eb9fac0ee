"""`quran-asr serve`: a page that follows the reciter, word by word."""

from __future__ import annotations

import ipaddress
import socket
import ssl
import tempfile
from contextlib import ExitStack, closing
from pathlib import Path

import click

from quran_asr.cli.models import as_bundle, model_option, named_or_default
from quran_asr.cli.options import FiniteRange, need
from quran_asr.cli.output import echo
from quran_asr.errors import QuranAsrError

EVERY_ADDRESS = ("0.0.0.0", "::")


@click.command(epilog="Example: quran-asr serve --port 8000")
@model_option
@click.option(
    "--host", default="127.0.0.1", show_default=True, metavar="ADDRESS", help="Address to listen on."
)
@click.option(
    "--port",
    type=click.IntRange(0, 65_535),
    default=8765,
    show_default=True,
    metavar="N",
    help="Port to listen on; 0 takes a free one.",
)
@click.option(
    "--look-ahead",
    "look_ahead_ms",
    type=click.IntRange(min=0),
    metavar="MS",
    help="Look-ahead of the encoder in milliseconds. Default: the widest of the model up to 500.",
)
@click.option(
    "--allow-network", is_flag=True, help="Serve other machines too; needs --tls, or --certificate and --key."
)
@click.option("--tls", is_flag=True, help="Make a self-signed certificate with openssl, valid for 30 days.")
@click.option(
    "--certificate",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="TLS certificate, PEM.",
)
@click.option(
    "--key", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="Key of the certificate, PEM."
)
@click.option(
    "--sessions",
    type=click.IntRange(1, 1000),
    default=20,
    show_default=True,
    metavar="N",
    help="Maximum number of simultaneous sessions.",
)
@click.option(
    "--hours",
    type=FiniteRange(min=0.01, max=24),
    default=4.0,
    show_default=True,
    metavar="HOURS",
    help="Maximum length of a session.",
)
@click.option(
    "--flag-below",
    type=FiniteRange(min=0, max=1),
    default=0.01,
    show_default=True,
    metavar="CONFIDENCE",
    help="Mark a word as recognized differently below this confidence; 0: none.",
)
def serve(
    model: Path | None,
    host: str,
    port: int,
    look_ahead_ms: int | None,
    allow_network: bool,
    tls: bool,
    certificate: Path | None,
    key: Path | None,
    sessions: int,
    hours: float,
    flag_below: float,
) -> int:
    """Serve a page that follows a reciter in the Quran, from a microphone or a recording.

    Prints the address to open. Audio goes to this server only and is not stored. Ctrl-C ends it.
    """
    if (certificate is None) != (key is None):
        raise QuranAsrError("`--certificate` and `--key` belong together", remedy="give both, or --tls")
    if tls and certificate is not None:
        raise QuranAsrError("`--tls` makes a certificate", remedy="leave it out, or --certificate and --key")
    if certificate is not None and key is not None:
        _require_certificate(certificate, key)
    beyond = not _is_loopback(host)
    if beyond and not allow_network:
        raise QuranAsrError(
            f"{host} can be reached from other machines",
            remedy="add --allow-network and --tls, or leave --host out",
        )
    if beyond and certificate is None and not tls:
        raise QuranAsrError(
            "browsers give the microphone to pages over TLS only, and the audio could be read on the way",
            remedy="add --tls, or --certificate and --key",
        )
    need("serve")
    with ExitStack() as stack:
        bundle = stack.enter_context(as_bundle(named_or_default(model)))
        listener = stack.enter_context(closing(_listening(host, port)))
        import secrets

        from quran_asr.runtime.following import load_for_following, text_of
        from quran_asr.server.certificate import network_address, self_signed
        from quran_asr.server.run import run
        from quran_asr.server.service import Service
        from quran_asr.server.session import Limits

        name = network_address() if host in EVERY_ADDRESS else host
        if tls:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="quran-asr-serve-"))
            certificate, key = self_signed(Path(folder), (name, socket.gethostname(), "localhost"))
        recognizer = load_for_following(bundle, look_ahead_ms, threads=1)
        text_of(recognizer)  # now, not in the first session
        limits = Limits(sessions=sessions, seconds=3600 * hours, flag_below=flag_below)
        service = Service(recognizer, limits, token=secrets.token_urlsafe(16) if beyond else "")
        name = f"[{name}]" if ":" in name else name
        address = f"http{'s' if certificate else ''}://{name}:{listener.getsockname()[1]}/"
        echo(f"{address}#{service.token}" if service.token else address)
        echo("Ctrl-C ends it", err=True)
        run(service, listener, certificate, key)
    return 0


def _require_certificate(certificate: Path, key: Path) -> None:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key)
    except (OSError, ValueError):  # SSLError is an OSError
        raise QuranAsrError(
            f"this is not a certificate of the key in {key}",
            where=str(certificate),
            remedy="give PEM files that belong together, without a password",
        ) from None


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _listening(host: str, port: int) -> socket.socket:
    """Bound before the model is loaded, so that a port in use is reported at once."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family)
    except (OSError, UnicodeError) as error:
        what = error.strerror if isinstance(error, OSError) else None
        raise QuranAsrError(
            f"cannot listen on port {port}: {what or error}",
            where=host,
            remedy="choose another --port (0 takes a free one) or --host",
        ) from error
