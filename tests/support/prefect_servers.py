"""Prefect servers with settings of their own, beside the one of the project."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil

from tests.support.project import PATIENCE, Project


@contextmanager
def server(project: Project, log: Path, **environment: str) -> Iterator[str]:
    """A Prefect server with settings of its own; its API's address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}/api"
    # As every server of the project has it.
    environment = {"PREFECT_SERVER_MEMOIZE_BLOCK_AUTO_REGISTRATION": "false"} | environment
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "prefect", "server", "start", "--port", str(port)],
            cwd=project.folder, env=project.variables(**environment), stdout=output, stderr=output,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + PATIENCE
        while True:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            try:
                if httpx.get(f"{url}/health").is_success:
                    break
            except httpx.TransportError:
                time.sleep(0.2)
        yield url
    finally:
        if process.poll() is None:
            family = psutil.Process(process.pid)
            every = [family, *family.children(recursive=True)]
            process.terminate()
            _, alive = psutil.wait_procs(every, timeout=PATIENCE)
            for survivor in alive:
                survivor.kill()
            process.wait()
