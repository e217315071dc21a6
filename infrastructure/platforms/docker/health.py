"""Health check of the container image; exit code 0 if healthy.

`python -m infrastructure.platforms.docker.health [server|worker]`. Without an argument, the command
of process 1 determines the role. A container of a flow run is healthy while it runs. Imports only
the standard library, since it starts every few seconds.
"""

from __future__ import annotations

import argparse
import os
import sys
import urllib.error
import urllib.request
from pathlib import Path

TIMEOUT_SECONDS = 5


def get_role(command: str) -> str:
    """Return the role that a command line starts: `server`, `worker` or `other`."""
    if "prefect server start" in command:
        return "server"
    starts_worker = "prefect worker start" in command or "millrace worker" in command
    return "worker" if starts_worker else "other"


def get_address(role: str, environment: dict[str, str]) -> str | None:
    """Return the health endpoint of a role, or None if running is enough."""
    if role == "server":
        # The endpoint needs no credentials.
        return f"http://127.0.0.1:{environment.get('PREFECT_SERVER_API_PORT', '4200')}/api/ready"
    if role == "worker":
        # Responds with 503 if the worker has missed several polls of its work pool.
        port = environment.get("PREFECT_WORKER_WEBSERVER_PORT", "8080")
        return f"http://127.0.0.1:{port}/health"
    return None


def find_fault(url: str) -> str | None:
    """Return what is wrong with an endpoint, or None if it is healthy."""
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS):  # noqa: S310 # http alone
            return None
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        return f"{url}: {error}"


def main() -> int:
    """Print whether the container is healthy; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m infrastructure.platforms.docker.health",
        description="Say whether this container is healthy; exit code 1 when it is not.",
    )
    parser.add_argument(
        "role",
        nargs="?",
        choices=("server", "worker", "other"),
        help="What the container was started for. Its first process tells when not given.",
    )
    given = parser.parse_args().role
    first_process = Path("/proc/1/cmdline").read_bytes().replace(b"\0", b" ").decode()
    role = given or get_role(first_process)
    url = get_address(role, dict(os.environ))
    wrong = None if url is None else find_fault(url)
    sys.stdout.write(f"{role}: {wrong or 'healthy'}\n")
    return 0 if wrong is None else 1


if __name__ == "__main__":
    sys.exit(main())
