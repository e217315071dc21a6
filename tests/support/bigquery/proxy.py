"""A proxy in front of the emulator: it keeps what was asked, and fails as Google's service does."""

from __future__ import annotations

import gzip
import http.client
import http.server
import json
import re
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from tests.support.project import serving


@dataclass
class Fault:
    """What is wrong with the answers to some requests.

    Attributes:
        asked: pattern of the requests, over `METHOD path\\nbody`.
        status: HTTP status of the answer; none to drop the connection.
        reason: Google's word for the error, in the answer's body.
        times: how many requests meet it; none for all.
        delay: seconds to wait; with no status the request is then passed on.
        after: the request is carried out, and only its answer is lost.
    """

    asked: str
    status: int | None = None
    reason: str = ""
    times: int | None = 1
    delay: float = 0
    after: bool = False
    met: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Asked:
    """A request that reached the proxy; the names of its headers are in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def line(self) -> str:
        return f"{self.method} {self.path}\n{self.body.decode(errors='replace')}"

    @property
    def json(self) -> Any:
        return json.loads(self.body) if self.body[:1] == b"{" else None


@dataclass
class Proxy:
    """Its address, the requests that came, and the faults that are set."""

    url: str = ""
    asked: list[Asked] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def clear(self) -> None:
        with self.lock:
            self.asked.clear()
            self.faults.clear()

    def fault(self, fault: Fault) -> Fault:
        with self.lock:
            self.faults.append(fault)
        return fault

    def meets(self, asked: Asked) -> Fault | None:
        """The fault that a request meets, if any."""
        with self.lock:
            self.asked.append(asked)
            for fault in self.faults:
                left = fault.times is None or len(fault.met) < fault.times
                if left and re.search(fault.asked, asked.line, re.DOTALL):
                    fault.met.append(time.monotonic())
                    return fault
        return None

    def jobs(self) -> list[dict[str, Any]]:
        """Configurations of the jobs that were sent, `jobs.insert` and `jobs.query` alike."""
        found = []
        for asked in list(self.asked):
            if asked.method == "POST" and re.search(r"/(jobs|queries)(\?|$)", asked.path):
                document = asked.json
                if document is not None:
                    found.append(document.get("configuration", document))
        return found


@contextmanager
def proxying(address: str) -> Iterator[Proxy]:
    """A proxy in front of the server at `address`."""
    target = urlsplit(address)

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            headers = {name.lower(): value for name, value in self.headers.items()}
            zipped = headers.get("content-encoding") == "gzip"
            asked = Asked(
                self.command, self.path, headers, gzip.decompress(body) if zipped else body
            )
            fault = proxy.meets(asked)
            if fault is not None:
                time.sleep(fault.delay)
                if fault.after:
                    self.forwarded(body)
                if fault.status is not None:
                    self.answer(fault.status, [], error_body(fault.status, fault.reason))
                    return
                if fault.after or not fault.delay:
                    self.drop()
                    return
            self.answer(*self.forwarded(body))

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_any  # noqa: N815 their names

        def forwarded(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
            connection = http.client.HTTPConnection(str(target.hostname), target.port, timeout=300)
            try:
                connection.request(self.command, self.path, body, dict(self.headers))
                response = connection.getresponse()
                content = response.read()
            finally:
                connection.close()
            hop = {"transfer-encoding", "connection", "content-length", "date", "server"}
            kept = [(k, v) for k, v in response.getheaders() if k.lower() not in hop]
            return response.status, kept, content

        def answer(self, status: int, headers: list[tuple[str, str]], content: bytes) -> None:
            self.send_response(status)
            for name, value in headers or [("Content-Type", "application/json")]:
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            with suppress(BrokenPipeError, ConnectionResetError):
                self.wfile.write(content)

        def drop(self) -> None:
            """Reset the connection, as a network that fails does."""
            no_linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, no_linger)
            self.connection.close()
            self.close_connection = True

    proxy = Proxy()
    with serving(Handler) as proxy.url:
        yield proxy


def error_body(status: int, reason: str) -> bytes:
    """An error as Google's APIs describe it. Source: https://cloud.google.com/bigquery/docs/error-messages."""
    message = f"Made up: {reason}."
    detail = {"message": message, "domain": "global", "reason": reason}
    return json.dumps({"error": {"code": status, "message": message, "errors": [detail]}}).encode()
