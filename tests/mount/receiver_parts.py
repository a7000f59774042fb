"""A real HTTP server that takes reports, and does with each what a test says."""

import http.server
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

DONE_SECONDS = 30


class Received(NamedTuple):
    """One request."""

    at: float
    path: str
    headers: Mapping[str, str]
    report: Any
    id: str


class Reply(NamedTuple):
    """What is answered. ``raw``: these bytes instead of HTTP; ``hang``: nothing, until the end."""

    status: int = 200
    body: bytes = b"{}"
    headers: Mapping[str, str] = {}
    raw: bytes = b""
    hang: bool = False


Decide = Callable[[int, Received], Reply]
"""Called with the number of the request (1, 2, ...)."""


class ReportServer:
    """Listens on loopback; ``decide`` may be changed at any time."""

    def __init__(self, decide: Decide, port: int = 0, tls: ssl.SSLContext | None = None) -> None:
        self.decide = decide
        self.received: list[Received] = []
        self.concurrent = self.most_concurrent = 0
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", port), self._handler())
        self._server.daemon_threads = True
        self._scheme = "https" if tls else "http"
        if tls:
            self._server.socket = tls.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        """Where reports are posted to."""
        return f"{self._scheme}://127.0.0.1:{self.port}/api/report"

    @property
    def ids(self) -> list[str]:
        """The ids of all reports that came, in their order."""
        return [each.id for each in self.received]

    def close(self) -> None:
        """Let go of the port and of who hangs."""
        self._over.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _handler(self) -> type[http.server.BaseHTTPRequestHandler]:
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                report = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                received = Received(
                    time.monotonic(), self.path, dict(self.headers), report, report.get("id", "")
                )
                with server._lock:
                    server.received.append(received)
                    number = len(server.received)
                    server.concurrent += 1
                    server.most_concurrent = max(server.most_concurrent, server.concurrent)
                try:
                    self.answer(server.decide(number, received))
                finally:
                    with server._lock:
                        server.concurrent -= 1

            def answer(self, reply: Reply) -> None:
                if reply.hang:
                    server._over.wait(DONE_SECONDS)
                    self.close_connection = True
                    return
                if reply.raw:
                    self.wfile.write(reply.raw)
                    self.close_connection = True
                    return
                self.send_response(reply.status)
                for name, value in {"Content-Length": str(len(reply.body)), **reply.headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(reply.body)

            def log_message(self, *_: object) -> None:
                pass

            def handle(self) -> None:
                # Who asked was killed, does not wait, or does not trust.
                with suppress(ConnectionError, ssl.SSLError):
                    super().handle()

        return Handler


def taken(number: int, received: Received) -> Reply:
    """Every report is taken, and gets an id."""
    return Reply(body=json.dumps({"id": f"server-{number}"}).encode())


@contextmanager
def report_server(
    decide: Decide = taken, port: int = 0, tls: ssl.SSLContext | None = None
) -> Iterator[ReportServer]:
    """A server for the time of a test."""
    server = ReportServer(decide, port, tls)
    try:
        yield server
    finally:
        server.close()


def free_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
