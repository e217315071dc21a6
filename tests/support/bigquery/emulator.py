"""bqemulator as a real server: built once a test run in an environment of its own, and started.

It runs in its own process with its own dependencies (its pytest plugin and its DuckDB are nothing
that the project should see). Every client reaches it through a proxy that keeps what was asked and
can misbehave (`proxy.py`), with credentials from stand-ins for Google's servers (`stand_ins.py`).
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from filelock import FileLock
from google.auth.credentials import AnonymousCredentials
from google.cloud.bigquery import Client

from tests.support.bigquery.proxy import Proxy, proxying
from tests.support.bigquery.stand_ins import PROJECT, Google, google_stand_ins
from tests.support.project import PATIENCE

PACKAGES = Path(__file__).with_name("emulator-requirements.txt")

# The extension comes in a wheel; the emulator would download it.
INSTALL_SPATIAL = """
import pathlib, duckdb, duckdb_extension_spatial
folder = pathlib.Path(duckdb_extension_spatial.__file__).parent
(extension,) = folder.rglob("spatial.duckdb_extension")
duckdb.execute(f"INSTALL '{extension}'")
"""


@dataclass(frozen=True)
class BigQuery:
    """The emulator behind its proxy, and what a process needs in its environment to use it.

    Attributes:
        proxy: in front of the emulator; `proxy.url` is the `api_endpoint` of a target.
        google: the stand-ins for Google's other servers.
        address: of the emulator itself, for a test's own questions.
    """

    proxy: Proxy
    google: Google
    address: str

    @property
    def environment(self) -> dict[str, str]:
        return self.google.environment

    def client(self) -> Client:
        """A client for a test's own questions, which pass by the proxy."""
        return Client(
            PROJECT,
            credentials=AnonymousCredentials(),
            client_options={"api_endpoint": self.address},
        )

    def target(self, dataset: str, **other: object) -> dict[str, object]:
        """A target as Terraform's outputs give it."""
        return {
            "type": "bigquery",
            "project": PROJECT,
            "dataset": dataset,
            "location": "US",
            "threads": 4,
            "api_endpoint": self.proxy.url,
            **other,
        }


def install(folder: Path) -> Path:
    """Make the emulator's environment in a folder that the run's workers share; its Python."""
    python = folder / "environment" / "bin" / "python"
    with FileLock(folder / "install.lock"):
        if not (folder / "installed").exists():
            base = [sys.executable, "-m", "uv"] if _has_uv_module() else ["uv"]
            _run(*base, "venv", "--quiet", "--python", sys.executable, str(python.parents[1]))
            install = (*base, "pip", "install", "--quiet", "--python", str(python))
            # In another folder, since uv applies the pins of the project that it runs in.
            _run(*install, "--requirement", str(PACKAGES), folder=folder)
            _run(str(python), "-c", INSTALL_SPATIAL, HOME=str(folder))
            (folder / "installed").touch()
    return python


@contextmanager
def running(folder: Path) -> Iterator[BigQuery]:
    """An empty emulator behind its proxy.

    Args:
        folder: shared by the workers of a test run; holds the emulator's environment.
    """
    python = install(folder)
    ports = free_port(), free_port()
    log = folder / f"emulator-{ports[0]}.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [
                *(str(python), str(Path(__file__).with_name("patched.py")), "start"),
                *("--rest-port", str(ports[0]), "--grpc-port", str(ports[1])),
                *("--project", PROJECT, "--log-level", "error"),
            ],
            env=_environment(
                HOME=str(folder),
                TMPDIR=str(folder),
                BQEMU_ENABLE_FORMAT_EXTENSIONS="false",
                PYTHONWARNINGS="ignore",
            ),
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    address = f"http://127.0.0.1:{ports[0]}"
    try:
        wait_until_it_answers(address, process, log)
        with proxying(address) as proxy, google_stand_ins(folder) as google:
            yield BigQuery(proxy, google, address)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def wait_until_it_answers(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        assert process.poll() is None, f"the emulator ended:\n{log.read_text()}"
        try:
            httpx.get(f"{address}/bigquery/v2/projects/{PROJECT}/datasets", trust_env=False)
        except httpx.TransportError:
            time.sleep(0.1)
        else:
            return
    raise AssertionError(f"the emulator does not answer:\n{log.read_text()}")


def _environment(**variables: str) -> dict[str, str]:
    """This process's variables, less those that speak to its Python."""
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return inherited | variables


def _has_uv_module() -> bool:
    done = subprocess.run(
        [sys.executable, "-c", "import uv"], capture_output=True, check=False, timeout=PATIENCE
    )
    return done.returncode == 0


def _run(*command: str, folder: Path | None = None, **variables: str) -> None:
    done = subprocess.run(
        command,
        cwd=folder,
        env=_environment(**variables),
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"
