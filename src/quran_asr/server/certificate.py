"""A self-signed certificate, made by the program `openssl`."""

from __future__ import annotations

import ipaddress
import shutil
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path

from quran_asr.errors import QuranAsrError

DAYS = 30


def self_signed(folder: Path, names: Sequence[str]) -> tuple[Path, Path]:
    """Make a certificate and its key.

    Browsers warn about it once, since no authority has signed it. It is valid for 30 days.

    Args:
        folder: to write to.
        names: host names and IP addresses of the server.

    Returns:
        Paths of certificate and key, PEM.

    Raises:
        QuranAsrError: `openssl` is missing or fails.
    """
    program = shutil.which("openssl")
    if program is None:
        raise QuranAsrError(
            "making a certificate needs the program openssl",
            remedy="install it, or give --certificate and --key",
        )
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    words = [program, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    words += ["-days", str(DAYS), "-subj", "/CN=quran-asr", "-addext"]
    words += ["subjectAltName=" + ",".join(_alternative(name) for name in names)]
    words += ["-keyout", str(key), "-out", str(certificate)]
    made = subprocess.run(words, capture_output=True, text=True, check=False)
    if made.returncode:
        reason = (made.stderr.strip().splitlines() or ["no message"])[-1]
        raise QuranAsrError(
            f"openssl cannot make a certificate: {reason}", remedy="give --certificate and --key"
        )
    key.chmod(0o600)
    return certificate, key


def _alternative(name: str) -> str:
    try:
        return f"IP:{ipaddress.ip_address(name)}"
    except ValueError:
        return f"DNS:{name}"


def network_address() -> str:
    """The address of this machine in its network, or the loopback address where it has none.

    Connecting a datagram socket sends nothing; it only chooses the route.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # an address for documentation, RFC 5737
            return str(probe.getsockname()[0])
        except OSError:
            return "127.0.0.1"
