"""HTTP server for reports, overview page and Prometheus metrics of any state store (gs://, s3://).

It listens on this machine only, and serves only these pages. It refuses requests with another Host
header, which a web page could make a browser send (DNS rebinding).
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from prefect_flows.core.errors import ServerError, StateStoreError
from prefect_flows.reporting.metrics.exposition import build_registry, load_all_facts
from prefect_flows.reporting.overview.index_page import index_page
from prefect_flows.state.store import StateStore
from prefect_flows.state.target_overview import load_overviews

HOST = "127.0.0.1"
HTML, TEXT = "text/html; charset=utf-8", "text/plain; charset=utf-8"
_NAME = r"[a-z0-9_-]+"
# Matches complete paths; the name of a run's folder begins with its time.
_PAGES = re.compile(
    rf"targets/{_NAME}/(report|docs)\.html|runs/{_NAME}/[0-9]{{8}}T[0-9A-Za-z.-]+/report\.html"
)
Answer = tuple[HTTPStatus, str, bytes]


def build_response(store: StateStore, path: str) -> Answer:
    """Return status, content type and body for a request.

    Args:
        path: path of the request, as the client sent it.
    """
    requested = unquote(path.partition("?")[0]).removeprefix("/")
    try:
        if requested in {"", "index.html"}:
            page = index_page(load_overviews(store), datetime.now(UTC))
            return HTTPStatus.OK, HTML, page.encode()
        if requested == "metrics":
            metrics = generate_latest(build_registry(load_all_facts(store)))
            return HTTPStatus.OK, CONTENT_TYPE_LATEST, metrics
        data = store.read(requested) if _PAGES.fullmatch(requested) else None
    except StateStoreError as error:
        return HTTPStatus.SERVICE_UNAVAILABLE, TEXT, str(error).encode()
    if data is None:
        return HTTPStatus.NOT_FOUND, TEXT, b"There is no such page. The first one is /\n"
    return HTTPStatus.OK, HTML, data


def serve(store: StateStore, port: int, ready: Callable[[str], None]) -> None:
    """Serve until Ctrl-C.

    Args:
        port: 0 for any free port.
        ready: called with the URL.

    Raises:
        ServerError: the port is in use, or not permitted.
    """
    try:
        server = ThreadingHTTPServer((HOST, port), _build_handler(store))
    except OSError as error:
        raise ServerError(
            f"The pages cannot be served: {error.strerror}.",
            where=f"{HOST}:{port}",
            fix="stop the process that uses the port, or use another: --port 0 uses any free port",
        ) from error
    with server:
        # An open connection of a browser must not delay the end.
        server.daemon_threads = True
        # Ctrl-C interrupts the main thread. If that thread accepted connections, the interrupt
        # would close one whose handler had just started.
        accepting = threading.Thread(target=server.serve_forever)
        accepting.start()
        try:
            ready(f"http://{HOST}:{server.server_port}/")
            while accepting.is_alive():
                # A join without a timeout can miss a Ctrl-C that comes as it starts.
                accepting.join(timeout=0.5)
        except KeyboardInterrupt:
            return
        finally:
            server.shutdown()


def _build_handler(store: StateStore) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = 30

        def do_GET(self) -> None:
            self._answer(with_body=True)

        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def _answer(self, *, with_body: bool) -> None:
            status, kind, body = (
                build_response(store, self.path)
                if self._is_this_machine()
                else (HTTPStatus.FORBIDDEN, TEXT, b"Ask for it as 127.0.0.1 or localhost.\n")
            )
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Cache-Control", "no-store")
            self.send_header("X-Content-Type-Options", "nosniff")
            self.end_headers()
            if with_body:
                self.wfile.write(body)

        def _is_this_machine(self) -> bool:
            requested = self.headers.get("Host", "")
            return requested.rpartition(":")[0] in {HOST, "localhost"} or requested in {
                HOST,
                "localhost",
            }

        def log_message(self, format: str, *args: object) -> None:
            """Log nothing."""

    return Handler
