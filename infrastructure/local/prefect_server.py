"""A Prefect server of this machine: its home is `.local/prefect`, and it stays up.

It is a plain `prefect server start` with its output in a file. (`--background` would leave it
writing into a pipe that nobody reads.) Where it answers is written to the project's
`prefect.toml`, which every Prefect client in this folder reads: the `prefect` command line too.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx
import psutil

from infrastructure.local.files import writable_folder
from prefect_flows.errors import ServerError

HOST = "127.0.0.1"
USUAL_PORT = 4200
START_SECONDS = 180.0
STOP_SECONDS = 15.0
# How a `prefect.toml` begins that is written here.
SETTINGS_MARK = "# Written by `python -m infrastructure.local up`"


@dataclass(frozen=True)
class PrefectServer:
    """A server that was started: its process and its port."""

    pid: int
    port: int

    @property
    def command(self) -> list[str]:
        """The arguments of Python that start it."""
        return ["-m", "prefect", "server", "start", "--host", HOST, "--port", str(self.port)]

    @property
    def ui_url(self) -> str:
        """Where a person looks."""
        return f"http://{HOST}:{self.port}"

    @property
    def api_url(self) -> str:
        """Where a client connects to."""
        return f"{self.ui_url}/api"

    def process(self) -> psutil.Process | None:
        """The running process; none when it ended, or when its number serves another one.

        The command line identifies it. Its start time does not: the system computes that from
        the clock, which may have been corrected since.
        """
        try:
            process = psutil.Process(self.pid)
            command = process.cmdline()
        except psutil.NoSuchProcess:
            return None
        return process if command[-len(self.command) :] == self.command else None

    def is_healthy(self) -> bool:
        """Whether the API answers, and it is this server that does.

        Two projects that start at once may find the same port free; the one that lost it must not
        take the other's API for its own.
        """
        process = self.process()
        if process is None:
            return False
        try:
            family = [process, *process.children(recursive=True)]
            ports = {c.laddr.port for p in family for c in p.net_connections("tcp") if not c.raddr}
        except psutil.NoSuchProcess:
            return False
        if self.port not in ports:
            return False
        try:
            return httpx.get(f"{self.api_url}/health", timeout=5).is_success
        except httpx.TransportError:
            return False


def launch(project_dir: Path, local_dir: Path, port: int | None = None) -> PrefectServer:
    """Start the server's process, or find it running; `wait` waits until it answers.

    Args:
        port: the port to listen on; 4200 when none is given, another one when that is taken.

    Raises:
        ServerError: the given port is taken, the server runs on another one, or the project has a
            `prefect.toml` of somebody else.
    """
    running = find(local_dir)
    _refuse_other_settings(project_dir)
    if running is not None:
        if port not in (None, running.port):
            raise ServerError(
                f"The Prefect server already runs, on port {running.port}.",
                where=running.ui_url,
                mend="uv run python -m infrastructure.local down, then up with the other --port",
            )
        return running
    home = writable_folder(_home(local_dir))
    home.chmod(0o700)  # the server's database holds the blocks and the key that opens them
    if port is None:
        port = USUAL_PORT if _is_free(USUAL_PORT) else _any_free_port()
    elif not _is_free(port):
        raise ServerError(
            f"Port {port} is taken by another program.",
            where=f"{HOST}:{port}",
            mend="name another --port, or none to have a free one chosen",
        )
    environment = os.environ | {
        "PREFECT_HOME": str(home),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        # In memory, by default: a server that restarts then holds the target of a run for ever.
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": (
            "prefect.server.concurrency.lease_storage.filesystem"
        ),
        "PREFECT_SERVER_UI_API_URL": f"http://{HOST}:{port}/api",
        # What links in notices of automations begin with.
        "PREFECT_UI_URL": f"http://{HOST}:{port}",
        "DO_NOT_TRACK": "1",
    }
    with log_file(local_dir).open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, *PrefectServer(0, port).command],
            env=environment,
            cwd=home,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    server = PrefectServer(process.pid, port)
    _state_file(local_dir).write_text(json.dumps(asdict(server)))
    # Linux shows an empty command line for a moment after a program has started.
    while server.process() is None and process.poll() is None:
        time.sleep(0.01)
    return server


def wait(
    server: PrefectServer, project_dir: Path, local_dir: Path, port: int | None = None
) -> PrefectServer:
    """Wait until the server answers, then point this project's Prefect clients at it.

    Args:
        port: the port that was asked for; when none was, one that another program took between the
            look and the listening is exchanged for a free one.

    Returns:
        The server that answers.

    Raises:
        ServerError: it ended, or did not answer in time.
    """
    deadline = time.monotonic() + START_SECONDS
    while not server.is_healthy():
        ended = server.process() is None
        if ended and port is None and not _is_free(server.port):
            server = launch(project_dir, local_dir)
            continue
        if ended or time.monotonic() > deadline:
            why = "ended" if ended else f"did not answer within {START_SECONDS:.0f} s"
            last = log_file(local_dir).read_text(errors="replace").strip().splitlines()[-1:]
            raise ServerError(
                f"The Prefect server {why}: {' '.join(last)}",
                where=f"{server.ui_url}; its log is {log_file(local_dir)}",
                mend="read the log, then: uv run python -m infrastructure.local up",
            )
        time.sleep(0.1)
    client_settings_file(project_dir).write_text(
        f"{SETTINGS_MARK}, removed by `down`. A variable\n"
        "# PREFECT_API_URL goes before it.\n"
        f"home = {json.dumps(str(_home(local_dir)))}\n\n"
        f"[api]\nurl = {json.dumps(server.api_url)}\n\n"
        "[server]\nanalytics_enabled = false\n\n"
        # As pools.yaml has it for the runs of workers.
        "[flows]\nheartbeat_frequency = 60\n"
    )
    return server


def stop(project_dir: Path, local_dir: Path) -> bool:
    """Stop the server and all that it started; whether it was running.

    Raises:
        ServerError: it does not end.
    """
    server = find(local_dir)
    if _wrote_settings(client_settings_file(project_dir)):
        client_settings_file(project_dir).unlink()
    process = server.process() if server is not None else None
    if process is None:
        return False
    family = [process, *process.children(recursive=True)]
    process.terminate()
    _, alive = psutil.wait_procs(family, timeout=STOP_SECONDS)
    for survivor in alive:
        survivor.kill()
    _, alive = psutil.wait_procs(alive, timeout=STOP_SECONDS)
    if alive:
        raise ServerError(
            f"The Prefect server does not end (process {process.pid}).",
            where=str(_state_file(local_dir)),
            mend=f"kill -9 {process.pid}",
        )
    _state_file(local_dir).unlink()
    return True


def find(local_dir: Path) -> PrefectServer | None:
    """The server that was started before, when its process is still there."""
    file = _state_file(local_dir)
    if not file.exists():
        return None
    found = json.loads(file.read_text())
    server = PrefectServer(found["pid"], found["port"])
    return server if server.process() is not None else None


def client_settings_file(project_dir: Path) -> Path:
    """The file from which every Prefect client in the project's folder reads its settings."""
    return project_dir / "prefect.toml"


def _wrote_settings(file: Path) -> bool:
    return file.exists() and file.read_text().startswith(SETTINGS_MARK)


def _refuse_other_settings(project_dir: Path) -> None:
    """Prefect reads one such file; what somebody else put there must not be lost."""
    file = client_settings_file(project_dir)
    if file.exists() and not _wrote_settings(file):
        raise ServerError(
            f"`local up` did not write {file.name}, and does not replace it.",
            where=str(file),
            mend=f"move it away (mv {file} {file}.own), or use the Prefect server that it names "
            "instead of the local one",
        )


def log_file(local_dir: Path) -> Path:
    """What the server says."""
    return _home(local_dir) / "server.log"


def _home(local_dir: Path) -> Path:
    return local_dir / "prefect"


def _state_file(local_dir: Path) -> Path:
    return _home(local_dir) / "millrace-server.json"


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def _any_free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])
