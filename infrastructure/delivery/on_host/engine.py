"""Run `docker` and `docker compose` on the host, and log their output."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from infrastructure.delivery.on_host.errors import StepFailed
from infrastructure.delivery.on_host.folder import Folder, Release

# Variables of the login shell must not override those of the release.
IGNORED_VARIABLES = ("MILLRACE_IMAGE", "COMPOSE_FILE", "COMPOSE_PROJECT_NAME", "COMPOSE_ENV_FILES")
POLL_SECONDS = 1.0
# A container that restarts repeatedly has failed; more time does not help.
MAX_RESTARTS = 2


@dataclass(frozen=True)
class Container:
    """A container of a Compose service."""

    id: str
    image: str
    status: str
    health: str
    restarts: int

    @property
    def running(self) -> bool:
        """Whether the container has a process."""
        return self.status in ("running", "restarting", "paused")


class Log:
    """Log of a delivery, in a file or on stdout; each line has the time and the seconds."""

    def __init__(self, file: Path | None = None) -> None:
        self._file = file
        self._started = time.monotonic()

    def write_line(self, text: str) -> None:
        """Write a line."""
        seconds = time.monotonic() - self._started
        self._write(f"{time.strftime('%H:%M:%S', time.gmtime())} {seconds:4.0f} s  {text}\n")

    def write_output(self, text: str) -> None:
        """Write the output of a program, indented."""
        lines = text.rstrip().splitlines()
        self._write("".join(f"                   | {line.rstrip()}\n" for line in lines))

    def _write(self, text: str) -> None:
        if self._file is None:
            sys.stdout.write(text)
            sys.stdout.flush()
            return
        with self._file.open("a", encoding="utf-8") as stream:
            stream.write(text)


class Engine:
    """Runs commands for a delivery; each inherits the lock, and so holds it until it ends."""

    def __init__(self, folder: Folder, log: Log, lock: int) -> None:
        self._folder = folder
        self._log = log
        self._lock = lock
        self._projects: dict[str, str] = {}

    def run(
        self,
        *command: str,
        text: str | None = None,
        source: IO[bytes] | None = None,
        sink: IO[bytes] | None = None,
        seconds: float = 600,
        ok_codes: Sequence[int] = (0,),
        quiet: bool = False,
    ) -> subprocess.CompletedProcess[str]:
        """Run a program and log its output.

        Args:
            text: standard input as text.
            source: standard input as a file.
            sink: file for standard output.
            seconds: timeout.
            ok_codes: exit codes that are not failures.
            quiet: do not log standard output, which the caller reads.

        Raises:
            StepFailed: the exit code is another one, or the timeout is over.
        """
        environment = {
            name: value for name, value in os.environ.items() if name not in IGNORED_VARIABLES
        }
        name = " ".join(command)
        try:
            done = subprocess.run(
                command, env=environment, cwd=self._folder.path, pass_fds=[self._lock],
                input=None if text is None else text.encode(),
                stdin=source if text is None and source else (
                    subprocess.DEVNULL if text is None else None
                ),
                stdout=sink or subprocess.PIPE, stderr=subprocess.PIPE,
                timeout=seconds, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise StepFailed(f"no end within {seconds:.0f} s: {name}") from None
        stdout = (done.stdout or b"").decode(errors="replace")
        stderr = done.stderr.decode(errors="replace")
        failed = done.returncode not in ok_codes
        if failed or not quiet:
            self._log.write_output(stderr)
            self._log.write_output(stdout)
        if failed:
            last = [line for line in (stderr + stdout).splitlines() if line.strip()][-1:]
            raise StepFailed(f"exit code {done.returncode}: {name}: {' '.join(last).strip()}")
        return subprocess.CompletedProcess(command, done.returncode, stdout, stderr)

    def compose(
        self, release: Release, *arguments: str, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run `docker compose` with the files of a release."""
        folder = self._folder.get_release_folder(release.id)
        return self.run(
            "docker", "compose", "--ansi", "never", "--project-directory", str(self._folder.path),
            "--env-file", str(self._folder.path / ".env"),
            "--env-file", str(folder / "release.env"),
            "--file", str(folder / "compose.yaml"), *arguments, **options,
        )  # fmt: skip

    def run_in_setup_container(
        self, release: Release, *command: str, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in a new container of the `setup` service, with its secrets."""
        run = ["--profile", "setup", "run", "--rm", "--no-deps", "--no-TTY"]
        return self.compose(release, *run, "setup", *command, **options)

    def get_project_name(self, release: Release) -> str:
        """Return the name of the Compose project."""
        if release.id not in self._projects:
            config = self.compose(release, "config", "--format", "json", quiet=True).stdout
            self._projects[release.id] = str(json.loads(config)["name"])
        return self._projects[release.id]

    def list_containers(self, release: Release, service: str) -> list[Container]:
        """Return the containers of a service, of any release."""
        labels = {"project": self.get_project_name(release), "service": service, "oneoff": "False"}
        filters = [f"--filter=label=com.docker.compose.{key}={labels[key]}" for key in labels]
        names = self.run("docker", "ps", "--all", "--quiet", "--no-trunc", *filters, quiet=True)
        if not names.stdout.split():
            return []
        # `docker inspect` fails for a container that was removed meanwhile.
        inspected = self.run(
            "docker", "inspect", *names.stdout.split(), quiet=True, ok_codes=(0, 1)
        )
        return [
            Container(
                each["Id"], each["Config"]["Image"], each["State"]["Status"],
                each["State"].get("Health", {}).get("Status", "none"), each["RestartCount"],
            )
            for each in json.loads(inspected.stdout)
        ]  # fmt: skip

    def wait_until_healthy(
        self, release: Release, service: str, known: Sequence[str], seconds: float
    ) -> None:
        """Wait until the new containers of a service are healthy.

        Args:
            known: ids of containers that are not new.

        Raises:
            StepFailed: a container ends or is unhealthy, or the time is over.
        """
        deadline = time.monotonic() + seconds
        while True:
            new = [each for each in self.list_containers(release, service) if each.id not in known]
            for each in new:
                fault = _get_fault(each)
                if fault is not None:
                    tail = self.run("docker", "logs", "--tail", "20", each.id, quiet=True)
                    self._log.write_output(tail.stdout + tail.stderr)
                    raise StepFailed(f"{service} of {release.version} {fault}")
            if new and all(each.health == "healthy" for each in new):
                return
            if time.monotonic() > deadline:
                raise StepFailed(f"{service} of {release.version}: not healthy in {seconds:.0f} s")
            time.sleep(POLL_SECONDS)


def _get_fault(container: Container) -> str | None:
    if container.health == "unhealthy":
        return "is unhealthy"
    if container.restarts >= MAX_RESTARTS:
        return f"ended {container.restarts} times"
    if container.status in ("exited", "dead"):
        return "ended"
    return None
