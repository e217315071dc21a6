"""`python3 deliver.pyz FOLDER COMMAND`: commands that `millrace deliver` runs over SSH."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

from infrastructure.delivery.on_host.delivery import DELIVERED, STUCK, Delivery, record_end
from infrastructure.delivery.on_host.engine import Log
from infrastructure.delivery.on_host.errors import DeliveryRefused
from infrastructure.delivery.on_host.folder import UNDER_WAY, Folder, Release

VERSION_KEY = "org.opencontainers.image.version"
# Named as in compose.yaml; `python -m infrastructure.platforms.docker.secrets` creates them.
SECRETS = (
    "api-auth-string", "database-password", "registry.json", "terraform-outputs.json",
    "warehouse-password", "warehouse-postgres.json",
)  # fmt: skip
FREE_BYTES = 4 << 30
FOLLOW_SECONDS = 0.5


def check_host(folder: Folder) -> None:
    """Check that the host can run a delivery.

    Raises:
        Refused: something is missing.
    """
    if os.geteuid() == 0:
        raise DeliveryRefused(
            "Deliveries are made by an ordinary user.", where="root on the host",
            fix="adduser --disabled-password millrace, let it use the engine "
            "(documentation/delivery.md), and name it in --host",
        )  # fmt: skip
    for program in (["docker", "version"], ["docker", "compose", "version"]):
        try:
            done = subprocess.run(program, capture_output=True, text=True, check=False)
            fault = "" if done.returncode == 0 else done.stderr.strip() or "it fails"
        except OSError as error:
            fault = str(error)
        if fault:
            raise DeliveryRefused(
                f"{' '.join(program)}: {fault}", where=f"{os.uname().nodename}, in a login of SSH",
                fix="install engine and Compose, and let this user use them: sudo usermod "
                "--append --groups docker USER, or a rootless engine (documentation/delivery.md)",
            )  # fmt: skip
    free = shutil.disk_usage(folder.path).free
    if free < FREE_BYTES:
        raise DeliveryRefused(
            f"{free / 1e9:.1f} GB are free, and an image with its layers needs 4.",
            where=str(folder.path), fix="docker image prune, or a larger disk",
        )  # fmt: skip


def check_secrets(folder: Folder, image: str) -> None:
    """Check that the secrets exist; a delivery never generates secrets for production.

    Raises:
        Refused: a secret is missing.
    """
    missing = [name for name in SECRETS if not (folder.secrets / name).is_file()]
    own = folder.path / ".env"
    if missing and not (own.exists() and "SECRETS_DIR=" in own.read_text()):
        raise DeliveryRefused(
            f"Secrets are missing: {', '.join(missing)}.",
            where=str(folder.secrets),
            fix=f"on the host: mkdir -p {folder.secrets} && docker run --rm --network none "
            f'--user "$(id -u):$(id -g)" --volume {folder.secrets}:/secrets {image} '
            "python -m infrastructure.platforms.docker.secrets --folder /secrets; then put your "
            "own terraform-outputs.json in its place",
        )


def pull(image: str, given: dict[str, str]) -> None:
    """Pull the image; credentials are on disk only during the pull.

    Raises:
        Refused: the registry does not respond, denies access, or has no such image.
    """
    context = ["docker", "context", "inspect", "--format", "{{.Endpoints.docker.Host}}"]
    endpoint = subprocess.run(context, capture_output=True, text=True, check=True).stdout.strip()
    # In memory, if the host has a runtime directory.
    private = os.environ.get("XDG_RUNTIME_DIR")
    with tempfile.TemporaryDirectory(prefix="millrace-pull-", dir=private) as config:
        environment = os.environ | {"DOCKER_CONFIG": config, "DOCKER_HOST": endpoint}
        registry = image.partition("/")[0]
        if given:
            _docker(
                ["login", "--username", given["username"], "--password-stdin", registry],
                environment, given["password"],
                "set REGISTRY_USERNAME and REGISTRY_PASSWORD to what may read the registry",
            )  # fmt: skip
        _docker(
            ["pull", "--quiet", image], environment, "",
            "push the image first; for a private registry set REGISTRY_USERNAME and "
            "REGISTRY_PASSWORD",
        )  # fmt: skip


def _docker(arguments: list[str], environment: dict[str, str], text: str, fix: str) -> None:
    done = subprocess.run(
        ["docker", *arguments], env=environment, input=text, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    if done.returncode:
        raise DeliveryRefused(
            f"docker {arguments[0]}: {done.stderr.strip()}", where=arguments[-1], fix=fix
        )


def inspect_image(image: str) -> dict[str, str]:
    """Return version and Alembic head of the image.

    Raises:
        Refused: it is not an image of this project.
    """
    inspected = subprocess.run(
        ["docker", "image", "inspect", "--format", "{{json .Config.Labels}}", image],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    labels = json.loads(inspected.stdout) or {}
    head = subprocess.run(
        ["docker", "run", "--rm", "--network", "none", "--read-only", "--tmpfs", "/tmp",  # noqa: S108
         "--cap-drop", "ALL", image,
         "python", "-m", "infrastructure.delivery.container_cli", "head"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if head.returncode or VERSION_KEY not in labels:
        why = head.stderr.strip()[-300:] or f"no {VERSION_KEY}"
        raise DeliveryRefused(
            f"It is not an image of this project: {why}", where=image,
            fix="build it with millrace image",
        )  # fmt: skip
    return {"version": labels[VERSION_KEY], "head": head.stdout.strip().splitlines()[-1]}


def start_delivery(folder: Folder, name: str, request: dict[str, Any]) -> None:
    """Take the lock, and continue the delivery in a background process.

    Raises:
        Busy: another delivery is in progress.
    """
    lock = folder.lock(name)
    release = Release(**request.pop("release"))
    folder.add_release(release, request.pop("compose"), request.pop("environment"))
    killed = folder.find_killed_delivery()
    record = {
        "id": name, "release": release.id, "image": release.image, "version": release.version,
        **request, "began": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "result": UNDER_WAY, "why": None, "begun": [], "steps": [], "backup": None, "deployed": "",
        "notice": None,
    }  # fmt: skip
    folder.create_record(name, record)
    if killed is not None:
        record_end(folder, killed["id"], dict(killed), "killed")
        record["killed"] = killed
        folder.save_record(name, record)
    log = folder.get_delivery_folder(name) / "log"
    log.touch()
    if os.fork():
        return
    os.setsid()
    os.umask(0o077)
    with Path(os.devnull).open("r+b") as nothing, log.open("ab") as stream:
        os.dup2(nothing.fileno(), 0)
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    result = None
    try:
        result = Delivery(folder, Log(log), lock, name, record).run()
    finally:
        if result is None:
            # A bug in this program: log it before the record says that the delivery ended.
            traceback.print_exc()
            record["why"] = "a fault of the delivery itself, see the log"
            result = STUCK
        record_end(folder, name, record, result)
        os._exit(0 if result == DELIVERED else 1)


def stream_log(folder: Folder, name: str, offset: int) -> dict[str, Any]:
    """Print the log from an offset until the delivery has ended; return its record."""
    with (folder.get_delivery_folder(name) / "log").open("rb") as stream:
        stream.seek(offset)
        while True:
            record = folder.read_record(name)
            piece = stream.read()
            if piece:
                sys.stdout.buffer.write(piece)
                sys.stdout.buffer.flush()
            elif record is not None and record["result"] != UNDER_WAY:
                return record
            elif _is_dead(folder) and folder.read_record(name) == record:
                raise DeliveryRefused(
                    "The delivery was killed on the host.",
                    where=str(folder.get_delivery_folder(name)),
                    fix="deliver again: it goes on, or goes back first",
                )  # fmt: skip
            time.sleep(FOLLOW_SECONDS)


def _is_dead(folder: Folder) -> bool:
    import fcntl

    with (folder.path / "lock").open("rb") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def main() -> int:
    """Run a command and return its exit code; errors go to standard error."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    commands = parser.add_subparsers(dest="command", required=True)
    for command in ("pull", "good", "begin", "follow", "show"):
        sub = commands.add_parser(command)
        if command == "pull":
            sub.add_argument("image")
        elif command != "good":
            sub.add_argument("name")
        if command == "follow":
            sub.add_argument("offset", type=int)
    arguments = parser.parse_args()
    os.umask(0o077)
    path: Path = arguments.folder.expanduser()
    path.mkdir(parents=True, exist_ok=True)
    folder = Folder(path.resolve())
    try:
        return _run_command(folder, arguments)
    except DeliveryRefused as error:
        sys.stderr.write(f"{error}\n")
        return error.code


def _run_command(folder: Folder, arguments: argparse.Namespace) -> int:
    if arguments.command == "pull":
        check_host(folder)
        pull(arguments.image, json.loads(sys.stdin.read() or "{}"))
        check_secrets(folder, arguments.image)
        print(json.dumps(inspect_image(arguments.image)))  # noqa: T201 # the client reads it
    elif arguments.command == "good":
        print(json.dumps([vars(folder.read_release(name)) for name in folder.list_good_releases()]))  # noqa: T201
    elif arguments.command == "begin":
        start_delivery(folder, arguments.name, json.loads(sys.stdin.read()))
    elif arguments.command == "follow":
        stream_log(folder, arguments.name, arguments.offset)
    elif arguments.command == "show":
        print(json.dumps(folder.read_record(arguments.name)))  # noqa: T201
    return 0
