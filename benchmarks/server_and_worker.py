"""Measures start and memory of the Prefect server and of a worker, ours beside Prefect's own.

    uv run python benchmarks/server_and_worker.py [--rounds N]

Ours is the server with the setting of `millrace up`, and `millrace worker`; Prefect's are `prefect
server start` and `prefect worker start`. Each server has the same migrated database. A server is
measured when it answers, a worker when the server has its first heartbeat, both once more after
ten seconds. Prints Markdown.
"""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from statistics import median

import httpx
import psutil

SETTING = {"PREFECT_SERVER_MEMOIZE_BLOCK_AUTO_REGISTRATION": "false"}
PREFECT = [sys.executable, "-m", "prefect"]
WORKERS = {
    "prefect worker start": [*PREFECT, "worker", "start"],
    "millrace worker": [sys.executable, "-m", "infrastructure.cli", "worker"],
}
TIMEOUT_SECONDS = 300
SECONDS_LATER = 10


@dataclass
class Start:
    """Seconds until the process was there, CPU seconds until then, and MB ten seconds later."""

    wall: float
    cpu: float
    memory: float


@contextmanager
def started(
    command: list[str],
    environment: Mapping[str, str],
    is_up: Callable[[], bool],
    found: list[Start],
) -> Iterator[None]:
    """Start a process, measure it, and end it at the end of the context."""
    began = time.monotonic()
    process = subprocess.Popen(
        command, env=os.environ | environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        while not is_up():
            if process.poll() is not None or time.monotonic() - began > TIMEOUT_SECONDS:
                sys.exit(f"{' '.join(command)} did not start.")
            time.sleep(0.1)
        wall, measured = time.monotonic() - began, psutil.Process(process.pid)
        used = measured.cpu_times()
        time.sleep(SECONDS_LATER)
        found.append(Start(wall, used.user + used.system, measured.memory_info().rss / 1e6))
        yield
    finally:
        process.terminate()
        process.wait()


def is_healthy(url: str) -> bool:
    """Return whether the API answers."""
    try:
        return httpx.get(f"{url}/health").is_success
    except httpx.TransportError:
        return False


def has_worker(url: str, pool: str) -> bool:
    """Return whether a worker of the pool has sent a heartbeat."""
    workers = httpx.post(f"{url}/work_pools/{pool}/workers/filter", json={}).json()
    return any(worker["status"] == "ONLINE" for worker in workers)


def measure(home: str, found: dict[str, list[Start]]) -> None:
    """Start both servers, and both workers beside ours."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}/api"
    common = {"PREFECT_HOME": home, "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    server = [*PREFECT, "server", "start", "--port", str(port)]
    with started(server, common, lambda: is_healthy(url), found["prefect server start"]):
        pass
    environment = common | {"PREFECT_API_URL": url}
    name = "server of millrace up"
    with started(server, common | SETTING, lambda: is_healthy(url), found[name]):
        for number, (name, command) in enumerate(WORKERS.items()):
            pool = f"pool-{number}"
            made = {"name": pool, "type": "process"}
            httpx.post(f"{url}/work_pools/", json=made).raise_for_status()
            with started(
                [*command, "--pool", pool], environment, partial(has_worker, url, pool), found[name]
            ):
                pass
            httpx.delete(f"{url}/work_pools/{pool}").raise_for_status()


def main() -> None:
    """Measure some rounds, and print their medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    names = ("prefect server start", "server of millrace up", *WORKERS)
    found: dict[str, list[Start]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as home:
        subprocess.run(
            [*PREFECT, "server", "database", "upgrade", "-y"],
            env=os.environ | {"PREFECT_HOME": home}, check=True, capture_output=True,
        )  # fmt: skip
        for _ in range(rounds):
            measure(home, found)
    print(f"Medians of {rounds} rounds.\n\n| process | wall, s | CPU, s | memory, MB |")
    print("|---|---|---|---|")
    for name, starts in found.items():
        print(
            f"| `{name}` | {median(s.wall for s in starts):.1f} | "
            f"{median(s.cpu for s in starts):.1f} | {median(s.memory for s in starts):.0f} |"
        )


if __name__ == "__main__":
    main()
