"""A flow that takes its time and says so to a file, for runs that are under way at a restart."""

from __future__ import annotations

import time
from pathlib import Path

from prefect import flow, get_run_logger


@flow
def slow(seconds: int, said: str) -> None:
    log = get_run_logger()
    for second in range(seconds):
        log.info("second %d", second)
        with Path(said).open("a") as file:
            file.write(f"{second}\n")
        time.sleep(1)
