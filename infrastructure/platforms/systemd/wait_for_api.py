#!/usr/bin/env python3
"""Wait until the Prefect server responds, before systemd starts the units after it.

Reads PREFECT_API_URL, and the server's process from MAINPID, which systemd sets. Its argument is
the timeout in seconds. Imports only the standard library, so it starts in a tenth of a second.
"""

import argparse
import os
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path


def is_api_up(url: str) -> bool:
    """Return whether the server is healthy."""
    try:
        with urllib.request.urlopen(url, timeout=2) as response:  # noqa: S310 - a setting of ours
            return bool(response.status == 200)
    except (urllib.error.URLError, TimeoutError, ConnectionError):
        return False


def main() -> int:
    """Return 0 when the server responds, 1 if it does not in time."""
    parser = argparse.ArgumentParser(
        prog="python -m infrastructure.platforms.systemd.wait_for_api",
        description="Wait until the Prefect server at PREFECT_API_URL answers, or the process "
        "MAINPID has ended.",
    )
    parser.add_argument("seconds", type=float, help="How long to wait.")
    patience = parser.parse_args().seconds
    missing = [name for name in ("PREFECT_API_URL", "MAINPID") if name not in os.environ]
    if missing:
        sys.stderr.write(
            f"Not set: {', '.join(missing)}.\n  where: the environment\n"
            "  fix:   let systemd call this by ExecStartPost, which gives MAINPID; PREFECT_API_URL"
            " stands in /etc/millrace/millrace.env\n"
        )
        return 1
    url = os.environ["PREFECT_API_URL"] + "/health"
    until = time.monotonic() + patience
    server = Path("/proc") / os.environ["MAINPID"]
    while time.monotonic() < until:
        if is_api_up(url):
            return 0
        if not server.exists():
            sys.stderr.write("The Prefect server has ended: its own lines above say why.\n")
            return 1
        time.sleep(0.2)
    sys.stderr.write(
        f"The Prefect server did not answer within {patience:.0f} s.\n  where: {url}\n"
        "  fix:   journalctl -u millrace-server says why; PREFECT_API_URL stands in"
        " /etc/millrace/millrace.env\n"
    )
    return 1


if __name__ == "__main__":
    sys.exit(main())
