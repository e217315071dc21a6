"""The live display, on a real terminal and away from one."""

from __future__ import annotations

import io
import logging
import os
import pty
import re
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from prefect.logging.handlers import PrefectConsoleHandler
from rich.console import Console

from prefect_flows.reporting.run_report.live_display import LiveDisplay
from tests.support.reporting.synthetic import facts

RESULTS = facts(50).results


class Terminal:
    """A pseudo-terminal; what is written to `file` is read into `text`."""

    def __init__(self) -> None:
        self._main, other = pty.openpty()
        self.file = os.fdopen(other, "w", buffering=1)
        self._read = b""
        self._reader = threading.Thread(target=self._drain, daemon=True)
        self._reader.start()

    def _drain(self) -> None:
        while True:
            try:
                chunk = os.read(self._main, 65536)
            except OSError:  # the other end is closed
                return
            self._read += chunk

    def end(self) -> str:
        self.file.close()
        self._reader.join()
        os.close(self._main)
        return self._read.decode()


@contextmanager
def standard_error(terminal: Terminal) -> Iterator[None]:
    before, sys.stderr = sys.stderr, terminal.file
    try:
        yield
    finally:
        sys.stderr = before


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    monkeypatch.setenv("TERM", "xterm")
    return Terminal()


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


def test_stages_and_counts_are_drawn(terminal: Terminal) -> None:
    with LiveDisplay(Console(file=terminal.file, width=120)) as display:
        assert display.active
        display.stage_started("dbt-run", 20)
        display.node_started("dbt-run", "model.p.a", "model", "stg_people")
        time.sleep(0.5)
        for result in RESULTS:
            if result.stage == "dbt-run":
                display.nodes_finished("dbt-run", [result])
        display.stage_finished("dbt-run")
    text = plain(terminal.end())
    assert "model stg_people" in text
    assert "20/20" in text
    assert "20 success" in text.splitlines()[-1] or "20 success" in text


def test_away_from_a_terminal_nothing_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    file = io.StringIO()
    threads = threading.active_count()
    with LiveDisplay(Console(file=file)) as display:
        display.stage_started("dbt-run", 2)
        display.node_started("dbt-run", "a", "model", "a")
        display.nodes_finished("dbt-run", [RESULTS[0]])
        display.stage_finished("dbt-run")
        assert threading.active_count() == threads
    assert file.getvalue() == ""


@pytest.mark.parametrize("prefects", [True, False])
def test_log_lines_stand_above_it(terminal: Terminal, prefects: bool) -> None:
    log = logging.getLogger("a.log.of.its.own")
    log.setLevel(logging.INFO)
    with standard_error(terminal):
        handler: logging.Handler = (
            PrefectConsoleHandler(stream=sys.stderr) if prefects else logging.StreamHandler()
        )
        log.addHandler(handler)
        try:
            with LiveDisplay(Console(file=terminal.file, width=100)) as display:
                display.stage_started("dbt-run", 1)
                time.sleep(0.3)
                log.info("a line of the log")
                time.sleep(0.3)
            log.info("a line after it")
        finally:
            log.removeHandler(handler)
    text = terminal.end()
    lines = plain(text).replace("\r", "\n").splitlines()
    assert "a line of the log" in [line.strip() for line in lines]
    assert "a line after it" in [line.strip() for line in lines]
    last_drawn = max(i for i, line in enumerate(lines) if line.startswith("dbt-run"))
    assert last_drawn > next(i for i, line in enumerate(lines) if "a line of the log" in line)


def test_many_threads_lose_no_node_and_take_no_time(terminal: Terminal) -> None:
    with LiveDisplay(Console(file=terminal.file, width=100)) as display:
        display.stage_started("dbt-run", 8000)

        def work(thread: int) -> None:
            for i in range(1000):
                display.node_started("dbt-run", f"{thread}.{i}", "model", f"n{i}")
                display.nodes_finished("dbt-run", [RESULTS[i % len(RESULTS)]])

        began = time.monotonic()
        threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        taken = time.monotonic() - began
        picture = io.StringIO()
        Console(file=picture, width=120).print(display.picture())
    terminal.end()
    assert "8000/8000" in picture.getvalue()
    assert "and 7992 more" in picture.getvalue()
    assert taken < 2


def test_an_error_of_the_run_passes_through_and_the_terminal_is_given_back(
    terminal: Terminal,
) -> None:
    before = (sys.stdout, sys.stderr)

    def interrupted() -> None:
        with LiveDisplay(Console(file=terminal.file, width=100)) as display:
            display.stage_started("dbt-run", 1)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert (sys.stdout, sys.stderr) == before
    assert "\x1b[?25h" in terminal.end(), "the cursor is shown again"
