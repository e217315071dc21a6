"""A command measured from its start to its exit: wall, CPU, and memory of all its processes."""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

SAMPLES_A_SECOND = 20
MEGABYTE = 1_000_000


@dataclass(frozen=True)
class Measured:
    """What a command took.

    Attributes:
        started: when it was started, seconds since 1970.
        wall: seconds from start to exit.
        cpu: user and system seconds of the process and of all descendants that were waited for.
        peak: the most memory that all its processes held together, in MB, sampled 20 times a
            second; pages that two of them share count twice.
        peak_main: the most memory that any single process of it held, in MB, as the kernel says.
        exit_code: the command's exit code; none when it was stopped at the timeout.
    """

    started: float
    wall: float
    cpu: float
    peak: float
    peak_main: float
    exit_code: int | None


def measure(
    command: Sequence[str],
    cwd: Path,
    environment: Mapping[str, str],
    log: Path,
    timeout_seconds: float,
) -> Measured:
    """Run a command with its output in a file, and measure it."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        started, clock = time.time(), time.monotonic()
        process = subprocess.Popen(
            command, cwd=cwd, env=environment, stdin=subprocess.DEVNULL,
            stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        memory = _Memory(process.pid)
        timed_out = threading.Event()

        def stop() -> None:
            timed_out.set()
            # Those that left its process group too.
            with contextlib.suppress(psutil.NoSuchProcess):
                main = psutil.Process(process.pid)
                for member in [*main.children(recursive=True), main]:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        member.kill()

        timer = threading.Timer(timeout_seconds, stop)
        timer.start()
        memory.start()
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.monotonic() - clock
        timer.cancel()
        memory.over.set()
        memory.join()
        process.returncode = os.waitstatus_to_exitcode(status)  # it has been waited for
    return Measured(
        started=started,
        wall=wall,
        cpu=usage.ru_utime + usage.ru_stime,
        peak=memory.peak / MEGABYTE,
        peak_main=usage.ru_maxrss * 1024 / MEGABYTE,
        exit_code=None if timed_out.is_set() else process.returncode,
    )


class _Memory(threading.Thread):
    """Looks at the memory of a process and its descendants until it is over."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.pid = pid
        self.peak = 0
        self.over = threading.Event()

    def run(self) -> None:
        try:
            main = psutil.Process(self.pid)
            while not self.over.wait(1 / SAMPLES_A_SECOND):
                family = [main, *main.children(recursive=True)]
                self.peak = max(self.peak, sum(map(_resident, family)))
        except psutil.NoSuchProcess:
            pass


def _resident(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.NoSuchProcess:
        return 0
