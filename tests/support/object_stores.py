"""Servers that speak S3 and Google's storage, with an empty bucket each."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import fsspec
import httpx

from prefect_flows.core.environment import set_variables
from tests.support.project import PATIENCE, until

S3_KEYS = {
    "AWS_ACCESS_KEY_ID": "made-up",
    "AWS_SECRET_ACCESS_KEY": "made-up",
    "AWS_DEFAULT_REGION": "us-east-1",
}


@contextmanager
def s3_bucket(folder: Path) -> Iterator[str]:
    """A bucket in moto's S3 server, which the client finds through the environment.

    fsspec keeps a client for each set of arguments, and the server's address is none of them.
    """
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    with (
        server(
            [sys.executable, "-m", "moto.server", "-p", "0"], folder / "log", "Running on "
        ) as url,
        set_variables(S3_KEYS | {"AWS_ENDPOINT_URL": url}),
    ):
        httpx.put(f"{url}/bucket", timeout=PATIENCE).raise_for_status()
        yield "s3://bucket/millrace"


@contextmanager
def gs_bucket(folder: Path) -> Iterator[str]:
    """A bucket in an emulator of Google's storage, which asks nobody who they are."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    program = Path(sys.executable).parent / "gcp-storage-emulator"
    command = [str(program), "start", "--host=127.0.0.1", f"--port={port}", "--in-memory",
               "--default-bucket=bucket"]  # fmt: skip
    address = f"http://127.0.0.1:{port}"
    fsspec.config.conf["gs"] = {"token": "anon"}
    try:
        with (
            server(command, folder / "log", "All services started", address) as url,
            set_variables({"STORAGE_EMULATOR_HOST": url}),
        ):
            yield "gs://bucket/millrace"
    finally:
        del fsspec.config.conf["gs"]


@contextmanager
def server(command: list[str], log: Path, says: str, url: str | None = None) -> Iterator[str]:
    """A server in the background; its address, which stands behind what it says when it is up."""
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    try:

        def find_line() -> str | None:
            assert process.poll() is None, log.read_text()
            return next((line for line in log.read_text().splitlines() if says in line), None)

        line = until(find_line)
        yield url or line.rpartition(says)[2].strip()
    finally:
        process.terminate()
        process.wait()
