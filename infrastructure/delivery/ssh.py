"""Deliver a release to a host over SSH: send the program, start the delivery, follow its log.

The delivery itself runs on the host (`on_host`), so it finishes if the connection or this machine
fails.
"""

from __future__ import annotations

import getpass
import hashlib
import json
import os
import re
import secrets
import socket
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from infrastructure.delivery.connection import LOST, Connection, RemoteCommandError
from infrastructure.delivery.host_program import build_program
from prefect_flows.core.code_version import get_version
from prefect_flows.core.errors import ConfigurationError
from prefect_flows.core.settings import Settings

IMAGE_PATTERN = re.compile(
    r"(?P<name>[a-z0-9][a-z0-9.:_/-]*?)(?::[A-Za-z0-9_.-]+)?@(?P<digest>sha256:[0-9a-f]{64})"
)
FOLDER_PATTERN = re.compile(r"(?![/.-])[A-Za-z0-9._/-]+")
USERNAME, PASSWORD = "REGISTRY_USERNAME", "REGISTRY_PASSWORD"
# Reconnect for as long as a host takes to boot.
RECONNECT_ATTEMPTS, RECONNECT_SECONDS = 30, 10.0
# Seconds that the worker needs to shut down after its drain timeout.
WORKER_SHUTDOWN_SECONDS = 90


@dataclass(frozen=True)
class HostDelivery:
    """A delivery to a host.

    Attributes:
        image: reference with digest; None for the release before the current one.
        drain_seconds: how long runs may continue in a worker that was asked to stop.
        health_seconds: how long to wait for server, worker and health check.
    """

    target: str
    image: str | None
    folder: str
    drain_seconds: int = 3600
    health_seconds: int = 300
    always_backup: bool = False
    apply_blocks: bool = False


def new_name() -> str:
    """Generate the name of a delivery: its start time and a random suffix."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"


def require_digest(image: str) -> str:
    """Return the image's name and digest without its tag, since tags can move.

    Raises:
        ConfigurationError: the image has no digest.
    """
    found = IMAGE_PATTERN.fullmatch(image)
    if found is None:
        raise ConfigurationError(
            f"What is delivered is named by its digest, and {image!r} is not.",
            where="--image",
            fix="docker push prints it; NAME@sha256:… with all of its 64 digits",
        )
    return f"{found['name']}@{found['digest']}"


def registry_credentials() -> dict[str, str]:
    """Read the registry's credentials from the environment; they are sent only over stdin.

    Raises:
        ConfigurationError: only one of the two is set.
    """
    values = {name: os.environ.get(name, "") for name in (USERNAME, PASSWORD)}
    missing = [name for name, value in values.items() if not value]
    if len(missing) == 1:
        raise ConfigurationError(
            f"{missing[0]} is not set.",
            where="the environment",
            fix=f"set both of {USERNAME} and {PASSWORD}, or none where anybody may pull",
        )
    return {} if missing else {"username": values[USERNAME], "password": values[PASSWORD]}


class Host:
    """The folder of a target on a host."""

    def __init__(self, connection: Connection, folder: str) -> None:
        if not FOLDER_PATTERN.fullmatch(folder) or ".." in folder.split("/"):
            raise ConfigurationError(
                f"Not a folder in the user's home: {folder!r}.",
                where="--folder",
                fix="letters, digits, dots and dashes, for example: --folder millrace-staging",
            )
        self._connection = connection
        self._folder = folder
        self._program = ""

    def upload_program(self) -> None:
        """Send the program unless it is there; an older one, which may be running, stays.

        Raises:
            HostUnreachable: the host cannot be reached.
            RemoteCommandError: the file cannot be written.
        """
        packed = build_program()
        self._program = f"{self._folder}/programs/{packed.name}"
        script = (
            'set -eu; umask 077; mkdir -p "${1%/*}"; [ -s "$1" ] && exit 0; '
            'cat > "$1.$$"; mv "$1.$$" "$1"'
        )
        self._connection.run("sh", "-c", script, "sh", self._program, text=packed.content)

    def call(self, *command: str, document: object = None) -> Any:
        """Run a command of the program, and return its JSON output."""
        text = b"" if document is None else json.dumps(document).encode()
        output = self._connection.run("python3", self._program, self._folder, *command, text=text)
        return json.loads(output) if output.strip() else None

    def follow(self, name: str, sink: IO[bytes]) -> None:
        """Print the log of a delivery until it has ended; reconnect if the connection is lost.

        Raises:
            HostUnreachable: the host cannot be reached again.
            RemoteCommandError: the delivery was killed on the host.
        """
        offset, attempts_left = 0, RECONNECT_ATTEMPTS
        while True:
            remote = ["python3", self._program, self._folder, "follow", name, str(offset)]
            code, count, stderr = self._connection.stream(*remote, sink=sink)
            offset += count
            if code == 0:
                return
            if code != LOST:
                what, _, rest = stderr.partition("\n  where: ")
                where, _, fix = rest.partition("\n  fix:   ")
                raise RemoteCommandError(what, where=where, fix=fix)
            attempts_left = RECONNECT_ATTEMPTS if count else attempts_left - 1
            if not attempts_left:
                raise self._connection.build_unreachable_error(stderr)
            time.sleep(RECONNECT_SECONDS)


def _read_compose(file: Path) -> str:
    if not file.is_file():
        raise ConfigurationError(
            f"There is no {file.name}, which the host runs.",
            where=str(file),
            fix=f"copy {file.name} of the engine's repository to the project, and commit it",
        )
    return file.read_text()


def deliver(connection: Connection, settings: Settings, request: HostDelivery) -> dict[str, Any]:
    """Deliver a release and return the record of the delivery.

    Raises:
        ConfigurationError: nothing was changed.
        HostUnreachable: the host does not respond, or no longer responds.
    """
    credentials = registry_credentials()
    image = None if request.image is None else require_digest(request.image)
    version = None if request.image is None else get_version(settings)
    host = Host(connection, request.folder)
    host.upload_program()
    if image is None:
        release, compose = _get_previous_release(host, connection, request)
        image = release["image"]
    else:
        compose = _read_compose(settings.project_dir / "compose.yaml")
        _say(f"{connection.address}: pulls {image}")
        info = host.call("pull", image, document=credentials)
        if info["version"] != version:
            raise ConfigurationError(
                f"The image is of {info['version']}, and this folder, whose compose.yaml goes with "
                f"it, is of {version}.",
                where=image,
                fix=f"git checkout {info['version'].removesuffix('-dirty')}",
            )
        name = f"{version}-{image[-12:]}-{hashlib.sha256(compose.encode()).hexdigest()[:6]}"
        release = {"id": name, "image": image, **info}
    name = new_name()
    document = {
        "release": release,
        "compose": compose,
        "environment": {
            "MILLRACE_IMAGE": image,
            "WORKER_PATIENCE": request.drain_seconds,
            "WORKER_GRACE": f"{request.drain_seconds + WORKER_SHUTDOWN_SECONDS}s",
        },
        "target": request.target,
        "back": request.image is None,
        "drain_seconds": request.drain_seconds,
        "health_seconds": request.health_seconds,
        "always_backup": request.always_backup,
        "apply_blocks": request.apply_blocks,
        "by": f"{getpass.getuser()}@{socket.gethostname()}",
    }
    host.call("begin", name, document=document)
    _say(f"Delivery {name}: {connection.address}:{request.folder}/deliveries/{name}")
    host.follow(name, sys.stdout.buffer)
    return dict(host.call("show", name))


def _get_previous_release(
    host: Host, connection: Connection, request: HostDelivery
) -> tuple[dict[str, str], str]:
    good = host.call("good")
    if len(good) < 2:
        raise ConfigurationError(
            f"There is no release before the current one; kept are {len(good)}.",
            where=f"{connection.address}:{request.folder}",
            fix="check out the commit to go to, and deliver its image with `deliver ssh`",
        )
    release = dict(good[1])
    file = f"{request.folder}/releases/{release['id']}/compose.yaml"
    return release, connection.run("cat", file)


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
