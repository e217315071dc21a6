"""Run commands on a host with OpenSSH's client, as an ordinary user, with a pinned host key."""

from __future__ import annotations

import re
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from prefect_flows.core.errors import ConfigurationError, MillraceError

HOST = re.compile(r"(?P<user>[a-z_][a-z0-9_.-]*)@(?P<name>[A-Za-z0-9][A-Za-z0-9.:-]*)")
# Exit code of ssh if it could not run the command.
LOST = 255
CONNECT_SECONDS = 15
# The connection counts as lost after three unanswered probes.
KEEPALIVE_OPTIONS = {"ServerAliveInterval": "10", "ServerAliveCountMax": "3"}


class HostUnreachable(MillraceError):
    """The host does not respond, has another host key, or rejects the user's key."""

    exit_code = 2
    is_infrastructure_error = True


class RemoteCommandError(ConfigurationError):
    """A command on the host failed."""


@dataclass(frozen=True)
class Connection:
    """How to connect to a host.

    Attributes:
        known_hosts: file with the only accepted host keys; no key is added to it.
        identity: file of the private key; None to use the agent's.
    """

    user: str
    name: str
    port: int
    known_hosts: Path
    identity: Path | None

    @property
    def address(self) -> str:
        """Address for error messages."""
        return f"{self.user}@{self.name}" + (f":{self.port}" if self.port != 22 else "")

    def command(self, *remote: str) -> list[str]:
        """Return the command line that runs a command on the host; it contains no secret."""
        options = {
            # Ignore the user's own SSH configuration.
            "BatchMode": "yes", "StrictHostKeyChecking": "yes", "UpdateHostKeys": "no",
            "UserKnownHostsFile": str(self.known_hosts), "GlobalKnownHostsFile": "/dev/null",
            "PasswordAuthentication": "no", "ForwardAgent": "no", "ClearAllForwardings": "yes",
            "ConnectTimeout": str(CONNECT_SECONDS), "LogLevel": "ERROR", **KEEPALIVE_OPTIONS,
        }  # fmt: skip
        if self.identity is not None:
            options |= {"IdentityFile": str(self.identity), "IdentitiesOnly": "yes"}
        arguments = [part for key, value in options.items() for part in ("-o", f"{key}={value}")]
        return ["ssh", "-F", "none", "-T", "-p", str(self.port), *arguments,
                f"{self.user}@{self.name}", "--", shlex.join(remote)]  # fmt: skip

    def run(self, *remote: str, text: bytes = b"") -> str:
        """Run a command on the host and return its output.

        Raises:
            HostUnreachable: the command could not be run.
            RemoteCommandError: the command failed.
        """
        try:
            done = subprocess.run(
                self.command(*remote), input=text, capture_output=True, check=False
            )
        except OSError as error:
            raise self.build_unreachable_error(str(error)) from error
        stderr = done.stderr.decode(errors="replace").strip()
        if done.returncode == LOST:
            raise self.build_unreachable_error(stderr)
        if done.returncode != 0:
            # The program on the host formats its errors like this project.
            what, _, rest = stderr.partition("\n  where: ")
            where, _, fix = rest.partition("\n  fix:   ")
            raise RemoteCommandError(
                what or f"exit code {done.returncode}",
                where=f"{self.address}: {where or shlex.join(remote)}",
                fix=fix or "see why, on the host",
            )
        return done.stdout.decode()

    def stream(self, *remote: str, sink: IO[bytes]) -> tuple[int, int, str]:
        """Copy a command's output to `sink`; return its exit code, bytes copied and stderr."""
        count = 0
        with subprocess.Popen(
            self.command(*remote), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as running:  # fmt: skip
            assert running.stdout is not None  # noqa: S101 # as asked for
            assert running.stderr is not None  # noqa: S101
            while piece := running.stdout.read1(65536):  # type: ignore[attr-defined] # buffered
                count += len(piece)
                sink.write(piece)
                sink.flush()
            stderr = running.stderr.read().decode(errors="replace").strip()
        return running.returncode, count, stderr

    def build_unreachable_error(self, message: str) -> HostUnreachable:
        """Build the error for a message of ssh."""
        fix = f"see that it runs, and: ssh -p {self.port} {self.user}@{self.name}"
        if "verification failed" in message or "HOST IDENTIFICATION HAS CHANGED" in message:
            fix = (
                "compare the host's key at its console (ssh-keygen -lf /etc/ssh/"
                f"ssh_host_ed25519_key.pub), and correct {self.known_hosts}; do not take it from "
                "the network"
            )
        elif "Permission denied" in message:
            fix = (
                "append the public key to ~/.ssh/authorized_keys of that user, and name the "
                "private one with --identity"
            )
        return HostUnreachable(
            f"No command can be run there: {message}.", where=self.address, fix=fix
        )


def build_connection(host: str, port: int, known_hosts: Path, identity: Path | None) -> Connection:
    """Check the options of the command line, and return the connection.

    Raises:
        ConfigurationError: the host is not USER@HOST, the user is root, or the key is unknown.
    """
    found = HOST.fullmatch(host)
    if found is None or found["user"] == "root":
        what = "Not of the form USER@HOST" if found is None else "Deliveries are not made by root"
        raise ConfigurationError(
            f"{what}: {host!r}.",
            where="--host",
            fix="name an ordinary user of the host who may use its engine: --host "
            "millrace@vps.example.com (documentation/delivery.md)",
        )
    for option, file in (("--known-hosts", known_hosts), ("--identity", identity)):
        if file is not None and not file.is_file():
            raise ConfigurationError(
                "There is no such file.", where=f"{option} {file}", fix="correct the path"
            )
    name = found["name"]
    listed = name if port == 22 else f"[{name}]:{port}"
    lookup = subprocess.run(
        ["ssh-keygen", "-F", listed, "-f", str(known_hosts)], capture_output=True, check=False
    )
    if lookup.returncode:
        raise ConfigurationError(
            f"The key of {listed} is not known.",
            where=str(known_hosts),
            fix="at the host's console: cat /etc/ssh/ssh_host_ed25519_key.pub; then append "
            f"to the file: {listed} ssh-ed25519 AAAA…",
        )
    return Connection(found["user"], name, port, known_hosts.resolve(), identity)
