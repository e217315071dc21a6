"""A load in a process of its own, which can be killed, and whose memory can be measured."""

from __future__ import annotations

import json
import re
import resource
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from prefect_flows.core.profiles import Profile
from tests.support.project import PATIENCE

REPOSITORY = Path(__file__).resolve().parents[2]


def start_ingesting(source: str, profile: Profile, **arguments: Any) -> subprocess.Popen[str]:
    """Begin; what it prints at its end is what `ended` reads."""
    # Through standard input: arguments may hold a secret, and a command line is seen by everybody.
    process = subprocess.Popen(
        [sys.executable, __file__],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    process.stdin.write(json.dumps([source, dict(profile.output), arguments]))
    process.stdin.close()
    process.stdin = None
    return process


def ended(process: subprocess.Popen[str], timeout: float = PATIENCE) -> dict[str, Any]:
    """The record of the load, with the most memory that the process had, in bytes."""
    output, errors = process.communicate(timeout=timeout)
    assert process.returncode == 0, errors
    return dict(json.loads(output))


def main() -> None:
    sys.path.insert(0, str(REPOSITORY))
    from prefect_flows.ingest.source_load import ingest

    source, output, arguments = json.load(sys.stdin)
    done = ingest(source, Profile.from_output("millrace", "test", output), **arguments)
    print(json.dumps(asdict(done) | {"memory": _most_memory()}))  # noqa: T201


def _most_memory() -> int:
    """Not `ru_maxrss`, which a process inherits from whoever started it."""
    if sys.platform != "linux":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    status = Path("/proc/self/status").read_text()
    (peak,) = re.findall(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
    return int(peak) * 1024


if __name__ == "__main__":
    main()
