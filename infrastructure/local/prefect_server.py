"""Run the embedded Prefect server in the background, with its home in `.local/prefect`.

It is a plain `prefect server start` with its output in a file, since `--background` writes to a
pipe that nobody reads. Its URL and password are written to the project's `prefect.toml`, which
every Prefect client in this folder reads, including the `prefect` command. Only the owner can read
`prefect.toml` and the password file.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shlex
import socket
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import tomlkit
from pydantic import PositiveInt, TypeAdapter
from tomlkit.exceptions import ParseError

from infrastructure.local.files import make_writable_folder, warn, write_local
from prefect_flows.core.errors import ServerError
from prefect_flows.core.files import read_or_quarantine

HOST = "127.0.0.1"
DEFAULT_PORT = 4200
START_SECONDS = 180.0
STOP_SECONDS = 15.0
# Mode of files with the password.
PRIVATE_MODE = 0o600
# First line of a `prefect.toml` that this module wrote.
SETTINGS_MARK = "# Written by `millrace up`"
HEADER = f"""\
{SETTINGS_MARK}, which keeps what you add; `down`
# removes the rest. A variable PREFECT_API_URL goes before it. It holds a password.
"""
# The plugin prevents clients from sending the password to another server.
PLUGIN = {("plugins", "enabled"): True, ("plugins", "allow"): ["millrace"]}
# Settings that users may change.
DEFAULTS = {
    ("server", "analytics_enabled"): False,
    # The same value as for workers in pools.yaml.
    ("flows", "heartbeat_frequency"): 60,
}
# Line in the server's log that marks a start.
STARTED = "--- The Prefect server starts"
RESTART_COMMANDS = "when no run is in progress: uv run millrace down && uv run millrace up"


@dataclass(frozen=True)
class PrefectServer:
    """A started server: its process id and port."""

    pid: PositiveInt
    port: PositiveInt

    @property
    def command(self) -> list[str]:
        """Arguments of Python that start the server."""
        return ["-m", "prefect", "server", "start", "--host", HOST, "--port", str(self.port)]

    @property
    def ui_url(self) -> str:
        """URL of the user interface."""
        return f"http://{HOST}:{self.port}"

    @property
    def api_url(self) -> str:
        """URL of the API."""
        return f"{self.ui_url}/api"

    @property
    def origins(self) -> str:
        """Origins whose pages may call the API: the server's own, by IP address and by name."""
        return f"{self.ui_url},http://localhost:{self.port}"

    def accepts(self, auth: tuple[str, str] | None = None) -> bool:
        """Return whether the API accepts a user and password, or no credentials.

        Raises:
            ServerError: the API does not respond.
        """
        try:
            # Do not send the password to a proxy that is set in the environment.
            with httpx.Client(auth=auth, timeout=START_SECONDS, trust_env=False) as client:
                return client.get(f"{self.api_url}/admin/version").is_success
        except httpx.TransportError as error:
            raise ServerError(
                f"The Prefect server does not answer: {type(error).__name__}: {error}.",
                where=self.api_url,
                fix="uv run millrace up",
            ) from error

    def process(self) -> psutil.Process | None:
        """Return the running process; None if it has exited or another process has its id.

        The command line identifies it. The start time does not: the system derives it from the
        clock, which may have been corrected since.
        """
        try:
            process = psutil.Process(self.pid)
            command = process.cmdline()
        except psutil.NoSuchProcess:
            return None
        return process if command[-len(self.command) :] == self.command else None

    def is_healthy(self) -> bool:
        """Return whether the API responds, and belongs to this server.

        Two projects that start concurrently may choose the same free port; the one that loses
        the port must not use the other's API.
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


_SERVER = TypeAdapter(PrefectServer)


def launch(project_dir: Path, local_dir: Path, port: int | None = None) -> PrefectServer:
    """Start the server's process, unless it is running; `wait` waits until it responds.

    Args:
        project_dir: folder of `prefect.toml`.
        local_dir: folder of the server's home.
        port: port to listen on; by default that of the last start, so that links stay valid; else
            4200, or a free port if that is taken.

    Raises:
        ServerError: the port is taken, the server runs on another port, or `prefect.toml` was not
            written by this module.
    """
    running = find_server(local_dir)
    _refuse_other_settings(project_dir)
    if running is not None:
        if port not in (None, running.port):
            raise ServerError(
                f"The Prefect server already runs, on port {running.port}.",
                where=running.ui_url,
                fix="uv run millrace down, then up with the other --port",
            )
        return running
    home = make_writable_folder(_home(local_dir))
    home.chmod(0o700)  # the server's database contains the blocks and their encryption key
    if port is None:
        last = read_or_quarantine(_state_file(local_dir), _SERVER, warn)
        port = DEFAULT_PORT if last is None else last.port
        port = port if _is_free(port) else _any_free_port()
    elif not _is_free(port):
        raise ServerError(
            f"Port {port} is taken by another program.",
            where=f"{HOST}:{port}",
            fix="name another --port, or none to have a free one chosen",
        )
    server = PrefectServer(0, port)
    environment = os.environ | {
        "PREFECT_HOME": str(home),
        # Only the process's user can read its environment; every user can read a command line.
        "PREFECT_SERVER_API_AUTH_STRING": _load_or_create_auth_string(local_dir),
        "PREFECT_SERVER_API_CSRF_PROTECTION_ENABLED": "true",
        "PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS": server.origins,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        # To skip the registration of blocks if they have not changed, it would import all packages
        # of blocks, dbt and Google's included. That takes 400 MB, and half of the start.
        "PREFECT_SERVER_MEMOIZE_BLOCK_AUTO_REGISTRATION": "false",
        # By default in memory: after a restart of the server, a target would stay locked forever.
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": (
            "prefect.server.concurrency.lease_storage.filesystem"
        ),
        "PREFECT_SERVER_UI_API_URL": server.api_url,
        # Base URL of links in notifications of automations.
        "PREFECT_UI_URL": server.ui_url,
        "DO_NOT_TRACK": "1",
    }
    with log_file(local_dir).open("ab") as log:
        log.write(f"{STARTED} on port {port}\n".encode())
        log.flush()
        process = subprocess.Popen(
            [sys.executable, *server.command],
            env=environment,
            cwd=home,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    server = PrefectServer(process.pid, port)
    try:
        write_local(_state_file(local_dir), json.dumps(asdict(server)))
    except ServerError:
        # Without the state file, `stop` could not find the process.
        process.kill()
        process.wait()
        raise
    # Linux shows an empty command line for a moment after a process has started.
    while server.process() is None and process.poll() is None:
        time.sleep(0.01)
    return server


def wait_until_healthy(
    server: PrefectServer, project_dir: Path, local_dir: Path, port: int | None = None
) -> PrefectServer:
    """Wait until the server responds, then write the client settings to `prefect.toml`.

    Args:
        server: the server that `launch` started.
        project_dir: folder of `prefect.toml`.
        local_dir: folder of the server's home.
        port: port that the user asked for. If None, and another program has taken the port
            meanwhile, the server is restarted on a free one.

    Returns:
        The server that responds.

    Raises:
        ServerError: it exited, did not respond in time, or has another password.
    """
    deadline = time.monotonic() + START_SECONDS
    while not server.is_healthy():
        ended = server.process() is None
        is_late = time.monotonic() > deadline
        if ended and not is_late and port is None and _port_was_taken(local_dir):
            server = launch(project_dir, local_dir)
            continue
        if ended or is_late:
            why = "ended" if ended else f"did not answer within {START_SECONDS:.0f} s"
            last = log_file(local_dir).read_text(errors="replace").strip().splitlines()[-1:]
            raise ServerError(
                f"The Prefect server {why}: {' '.join(last)}",
                where=f"{server.ui_url}; its log is {log_file(local_dir)}",
                fix="read the log, then: uv run millrace up",
            )
        time.sleep(0.1)
    _refuse_other_password(server, local_dir)
    _write_client_settings(project_dir, local_dir, server)
    return server


def _port_was_taken(local_dir: Path) -> bool:
    """Return whether the last start failed because the port was already in use."""
    log = log_file(local_dir).read_text(errors="replace")
    return "already in use" in log.rpartition(STARTED)[2]


def stop(project_dir: Path, local_dir: Path) -> bool:
    """Stop the server and its child processes; return whether it was running.

    Raises:
        ServerError: the process does not exit.
    """
    server = find_server(local_dir)
    _remove_client_settings(project_dir)
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
            fix=f"kill -9 {process.pid}",
        )
    return True


def find_server(local_dir: Path) -> PrefectServer | None:
    """Return the server that was started last, if its process is running."""
    file = _state_file(local_dir)
    is_there = file.exists()
    server = read_or_quarantine(file, _SERVER, warn)
    if server is None and is_there and (server := _find_process_in(_home(local_dir))) is not None:
        write_local(file, json.dumps(asdict(server)))
    return server if server is not None and server.process() is not None else None


def _find_process_in(home: Path) -> PrefectServer | None:
    """Find the server with this home among the processes of the machine."""
    for process in psutil.process_iter():
        try:
            command = process.cmdline()
            if len(command) < len(PrefectServer(0, 0).command) or not command[-1].isdigit():
                continue
            server = PrefectServer(process.pid, int(command[-1]))
            if server.process() is not None and Path(process.cwd()).samefile(home):
                return server
        except (psutil.Error, OSError):  # it exited meanwhile, or belongs to another user
            continue
    return None


def client_settings_file(project_dir: Path) -> Path:
    """Return the `prefect.toml` that every Prefect client in the project's folder reads."""
    return project_dir / "prefect.toml"


def auth_file(local_dir: Path) -> Path:
    """Return the file with the server's `user:password`."""
    return _home(local_dir) / "auth-string"


def _load_or_create_auth_string(local_dir: Path) -> str:
    """Return the server's `user:password`, created once, since browsers and workers keep it."""
    file = auth_file(local_dir)
    if not file.exists():
        write_local(file, f"millrace:{secrets.token_hex(24)}\n", PRIVATE_MODE)
    auth_string = file.read_text().strip()
    if not re.fullmatch(r"[^:\s]+:\S+", auth_string):
        raise ServerError(
            "The file of the Prefect server's password is not of the form user:password.",
            where=str(file),
            fix=f"rm {shlex.quote(str(file))}; {RESTART_COMMANDS}",
        )
    return auth_string


def _refuse_other_password(server: PrefectServer, local_dir: Path) -> None:
    if server.accepts():
        raise ServerError(
            "The Prefect server runs without a password, as older versions started it: every user "
            "of this machine, and every web page, can read the secrets in it and start runs.",
            where=f"{server.ui_url}, process {server.pid}",
            fix=RESTART_COMMANDS,
        )
    user, _, password = _load_or_create_auth_string(local_dir).partition(":")
    if not server.accepts((user, password)):
        raise ServerError(
            "The Prefect server was started with another password than the file has now.",
            where=f"{server.ui_url}; {auth_file(local_dir)}",
            fix=RESTART_COMMANDS,
        )


def _write_client_settings(project_dir: Path, local_dir: Path, server: PrefectServer) -> None:
    """Write URL and password to `prefect.toml`, and keep what users added."""
    file = client_settings_file(project_dir)
    is_ours = _is_our_settings_file(file) and not _is_blank(file)
    document = _read_toml(file) if is_ours else tomlkit.parse(HEADER)
    for (table, key), value in {
        ("", "home"): str(_home(local_dir)),
        ("api", "url"): server.api_url,
        ("api", "auth_string"): _load_or_create_auth_string(local_dir),
        **PLUGIN,
    }.items():
        _table(document, table)[key] = value
    for (table, key), value in DEFAULTS.items():
        _table(document, table).setdefault(key, value)
    text = tomlkit.dumps(document)
    # Rewrite the file only if it changes, since a client may be reading it.
    if not file.exists() or file.read_text() != text or file.stat().st_mode & 0o077:
        write_local(file, text, PRIVATE_MODE)


def _remove_client_settings(project_dir: Path) -> None:
    file = client_settings_file(project_dir)
    if not _is_our_settings_file(file):
        return
    document = _read_toml(file)
    for table, key in ("", "home"), ("api", "url"), ("api", "auth_string"), *PLUGIN, *DEFAULTS:
        found = _table(document, table)
        default = DEFAULTS.get((table, key))
        if default is None or found.get(key) == default:
            found.pop(key, None)
        if table and not found:
            document.pop(table)
    if document:
        write_local(file, tomlkit.dumps(document), PRIVATE_MODE)
    else:
        file.unlink()


def _table(document: tomlkit.TOMLDocument, name: str) -> dict[str, Any]:
    """Return a table of the file, created if missing; the root table has no name."""
    return document.setdefault(name, tomlkit.table()) if name else document


def _read_toml(file: Path) -> tomlkit.TOMLDocument:
    try:
        return tomlkit.parse(file.read_text())
    except ParseError as error:
        raise ServerError(
            f"{file.name} is not valid TOML: {error}.",
            where=str(file),
            fix="correct that line, or remove the file; `millrace up` writes it again",
        ) from error


def _is_our_settings_file(file: Path) -> bool:
    """Return whether this module wrote the file, or the file is blank."""
    if not file.exists():
        return False
    return file.read_text(errors="replace").startswith(SETTINGS_MARK) or _is_blank(file)


def _is_blank(file: Path) -> bool:
    return not file.read_text(errors="replace").strip()


def _refuse_other_settings(project_dir: Path) -> None:
    """Raise an error if `prefect.toml` was written by somebody else."""
    file = client_settings_file(project_dir)
    if file.exists() and not _is_our_settings_file(file):
        raise ServerError(
            f"`millrace up` did not write {file.name}, and does not replace it.",
            where=str(file),
            fix=f"move it away (mv {file} {file}.own), or use the Prefect server that it names "
            "instead of the local one",
        )


def log_file(local_dir: Path) -> Path:
    """Return the server's log file."""
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
