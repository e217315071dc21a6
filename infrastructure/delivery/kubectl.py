"""Run `kubectl` with an explicit context and namespace."""

from __future__ import annotations

import base64
import json
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from prefect_flows.core.errors import ConfigurationError, MillraceError

FORWARDING = re.compile(r"Forwarding from 127\.0\.0\.1:(\d+)")


class KubectlError(MillraceError):
    """A kubectl command failed."""

    exit_code = 2
    is_infrastructure_error = True


@dataclass(frozen=True)
class Kubectl:
    """kubectl for one context and namespace."""

    context: str
    namespace: str

    def run(self, *arguments: str, text: str | None = None) -> str:
        """Run kubectl and return its output.

        Raises:
            KubectlError: the command fails.
        """
        command = ["kubectl", "--context", self.context, "--namespace", self.namespace, *arguments]
        done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
        if done.returncode:
            raise KubectlError(
                done.stderr.strip() or f"exit code {done.returncode}",
                where=" ".join(command),
                fix="see what it says; required roles: documentation/delivery.md",
            )
        return done.stdout

    def get(self, kind: str, name: str) -> dict[str, Any] | None:
        """Return an object, or None if it does not exist."""
        output = self.run("get", kind, name, "--ignore-not-found", "--output", "json")
        return dict(json.loads(output)) if output.strip() else None

    def put(self, manifest: dict[str, Any], verb: str = "apply") -> None:
        """Apply, create or replace an object."""
        self.run(verb, "--filename", "-", text=json.dumps(manifest))

    def read_secret(self, name: str, key: str) -> str:
        """Read a value of a Secret; pass it on only in a process's environment.

        Raises:
            ConfigurationError: there is no such Secret or key.
        """
        found = self.get("secret", name)
        value = (found or {}).get("data", {}).get(key)
        if value is None:
            raise ConfigurationError(
                f"There is no key {key!r} in a secret {name!r}.",
                where=f"context {self.context}, namespace {self.namespace}",
                fix="make it, as documentation/kubernetes.md says",
            )
        return base64.b64decode(value).decode()

    @contextmanager
    def forward_port(self, service: str, port: int) -> Iterator[int]:
        """Forward a loopback port of this machine to a service.

        Raises:
            KubectlError: port forwarding fails.
        """
        where = ["--context", self.context, "--namespace", self.namespace]
        to = ["--address", "127.0.0.1", f"service/{service}", f":{port}"]
        line = ["kubectl", *where, "port-forward", *to]
        with subprocess.Popen(
            line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as running:
            try:
                assert running.stdout is not None  # noqa: S101 # as asked for
                output = running.stdout.readline()
                found = FORWARDING.search(output)
                if found is None:
                    raise KubectlError(
                        f"The API cannot be reached: {output.strip()}",
                        where=" ".join(line),
                        fix="see that the server's pod is ready, and that you may forward ports",
                    )
                yield int(found[1])
            finally:
                running.terminate()


def build_kubectl(context: str, namespace: str) -> Kubectl:
    """Return kubectl for a context that exists.

    Raises:
        ConfigurationError: kubectl is not installed, or there is no such context.
    """
    try:
        done = subprocess.run(
            ["kubectl", "config", "get-contexts", "--output", "name", "--", context],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        error_text = done.stderr.strip() if done.returncode else ""
    except OSError as error:
        error_text = str(error)
    if error_text:
        raise ConfigurationError(
            f"The context cannot be used: {error_text}.",
            where=f"--context {context}",
            fix="kubectl config get-contexts lists those that there are",
        )
    return Kubectl(context, namespace)
