"""Run the application until it is interrupted."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import uvicorn

from quran_asr.server.app import build_app
from quran_asr.server.service import Service

WAITING_MESSAGES = 4
"""Of one client; more wait in its own buffers."""


def run(service: Service, listener: socket.socket, certificate: Path | None, key: Path | None) -> None:
    """Serve until Ctrl-C or SIGTERM.

    Args:
        service: what is served.
        listener: bound and listening.
        certificate: PEM; None: without TLS.
        key: PEM, of the certificate.
    """
    build_server(service, certificate, key).run(sockets=[listener])


def build_server(
    service: Service, certificate: Path | None = None, key: Path | None = None
) -> uvicorn.Server:
    """The server, not yet running."""
    service.workers = max(1, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2)
    config = uvicorn.Config(
        build_app(service),
        ws="websockets-sansio",
        ws_max_size=service.limits.message_bytes,
        ws_max_queue=WAITING_MESSAGES,
        ws_ping_interval=None,  # a client that has to wait cannot answer; a silent one is ended by `Limits`
        ws_per_message_deflate=False,  # a small message must not become a large one
        limit_concurrency=2 * service.limits.sessions + 100,
        timeout_keep_alive=5,
        timeout_graceful_shutdown=2,
        lifespan="on",
        log_level="warning",
        access_log=False,
        server_header=False,
        ssl_certfile=certificate,
        ssl_keyfile=key,
    )
    return uvicorn.Server(config)
