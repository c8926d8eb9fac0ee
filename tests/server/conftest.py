"""Real servers for tests: in a thread, on a port of their own."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from quran_asr.server.service import Service


@contextlib.contextmanager
def running(service: Service, port: int = 0) -> Iterator[int]:
    """A server with these settings; its port."""
    from quran_asr.server.run import build_server

    listener = socket.create_server(("127.0.0.1", port))
    server = build_server(service)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.02)
    try:
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(20)
        listener.close()
