#!/usr/bin/env python3
"""Wait until the Prefect server answers, so that a unit after it finds it.

Takes the address from PREFECT_API_URL, the server's process from MAINPID, which systemd gives, and
seconds to wait as its one argument. Standard library only: it starts in a tenth of a second.
"""

import os
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path


def answers(url: str) -> bool:
    """Whether the server says that it is well."""
    try:
        with urllib.request.urlopen(url, timeout=2) as response:  # noqa: S310 - a setting of ours
            return bool(response.status == 200)
    except (urllib.error.URLError, TimeoutError, ConnectionError):
        return False


def main() -> int:
    """Exit code 0 as soon as it answers, 1 when it has not in time."""
    url, patience = os.environ["PREFECT_API_URL"] + "/health", float(sys.argv[1])
    until = time.monotonic() + patience
    server = Path("/proc") / os.environ["MAINPID"]
    while time.monotonic() < until:
        if answers(url):
            return 0
        if not server.exists():
            sys.stderr.write("The Prefect server has ended: its own lines above say why.\n")
            return 1
        time.sleep(0.2)
    sys.stderr.write(
        f"The Prefect server did not answer within {patience:.0f} s.\n  where: {url}\n"
        "  mend:  journalctl -u millrace-server says why; PREFECT_API_URL stands in"
        " /etc/millrace/millrace.env\n"
    )
    return 1


if __name__ == "__main__":
    sys.exit(main())
