"""Live progress display of a run in the terminal, drawn with rich.

dbt's threads only record what started and ended; a thread of rich draws it five times a second.
"""

from __future__ import annotations

import io
import logging
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from prefect_flows.core.formatting import format_duration
from prefect_flows.reporting.charts.svg import get_group
from prefect_flows.transform.results import NodeResult

FRAMES_PER_SECOND = 5
MAX_RUNNING = 8
_STYLES = {
    "good": "green",
    "warned": "yellow",
    "failed": "bold red",
    "skipped": "bright_black",
    "other": "default",
}


@dataclass
class _StageProgress:
    total: int
    started: float
    statuses: Counter[str] = field(default_factory=Counter)
    ended: float | None = None


class LiveDisplay:
    """Context manager that shows the progress of stages, running nodes, and counts by status.

    Without a terminal it draws nothing, at no cost. Log lines and printed lines appear above it.

    Args:
        console: where to draw; the standard error by default.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        self.active = self.console.file.isatty() and not self.console.is_dumb_terminal
        self._lock = threading.Lock()
        self._stages: dict[str, _StageProgress] = {}
        self._running: dict[str, tuple[float, str, str]] = {}
        self._contexts = ExitStack()

    def __enter__(self) -> Self:
        if self.active:
            live = Live(
                get_renderable=self.picture,
                console=self.console,
                refresh_per_second=FRAMES_PER_SECOND,
                # Redirect only streams that write to the terminal.
                redirect_stdout=sys.stdout.isatty(),
                redirect_stderr=sys.stderr.isatty(),
            )
            self._contexts.enter_context(_redirect_log_handlers(self.console))
            self._contexts.enter_context(live)
        return self

    def __exit__(self, *exception: object) -> None:
        with self._lock:
            self._running.clear()
        self._contexts.close()

    def stage_started(self, name: str, total: int) -> None:
        """Record the start of an attempt of a stage, with its number of nodes (0 if unknown)."""
        if self.active:
            with self._lock:
                self._running.clear()
                self._stages[name] = _StageProgress(total, time.monotonic())

    def node_started(self, name: str, unique_id: str, resource_type: str, node: str) -> None:  # noqa: ARG002
        """Record the start of a node."""
        if self.active:
            started = time.monotonic()
            with self._lock:
                self._running[unique_id] = (started, node, resource_type)

    def nodes_finished(self, name: str, results: Sequence[NodeResult]) -> None:
        """Record that nodes ended or were skipped."""
        if self.active:
            with self._lock:
                for result in results:
                    self._running.pop(result.unique_id, None)
                    self._stages[name].statuses[result.status] += 1

    def warned(self, text: str) -> None:
        """Ignore warnings, which the log shows above the display."""

    def stage_finished(self, name: str) -> None:
        """Record the end of a stage, which interrupted what was still running."""
        if self.active:
            with self._lock:
                self._running.clear()
                if name in self._stages:
                    self._stages[name].ended = time.monotonic()

    def picture(self) -> RenderableType:
        """Render one line per stage, then one line per running node, longest first."""
        now = time.monotonic()
        with self._lock:
            stages = [
                (name, stage.total, Counter(stage.statuses), (stage.ended or now) - stage.started)
                for name, stage in self._stages.items()
            ]
            ended = {name for name, stage in self._stages.items() if stage.ended is not None}
            running = sorted(self._running.values())
        table = Table.grid(padding=(0, 1))
        for name, total, statuses, elapsed in stages:
            table.add_row(*_stage_row(name, total, statuses, elapsed, name in ended))
        parts: list[RenderableType] = [table]
        for started, name, kind in running[:MAX_RUNNING]:
            line = Text(f"  {format_duration(now - started):>8}  {kind} {name}", no_wrap=True)
            line.truncate(self.console.width, overflow="ellipsis")
            parts.append(line)
        if len(running) > MAX_RUNNING:
            parts.append(Text(f"            and {len(running) - MAX_RUNNING} more"))
        return Group(*parts)


def _stage_row(
    name: str, total: int, statuses: Counter[str], elapsed: float, ended: bool
) -> tuple[RenderableType, ...]:
    finished = sum(statuses.values())
    known = max(total, finished)
    counted = Text(no_wrap=True)
    for status, count in statuses.most_common():
        counted.append(f"{count} {status}  ", style=_STYLES[get_group(status)])
    failed = any(get_group(status) == "failed" for status in statuses)
    bar = ProgressBar(
        total=known or None,
        completed=known if ended and not total else finished,
        width=24,
        pulse=not known and not ended,
        complete_style="red" if failed else "green",
        finished_style="red" if failed else "green",
    )
    progress = f"{finished}/{known}" if known else ""
    return Text(name), bar, Text(progress, justify="right"), Text(format_duration(elapsed)), counted


class _PrintAbove(io.TextIOBase):
    """Stream whose lines are printed above the live display of a console.

    rich redirects `print`. But if a console, such as Prefect's, gets rich's redirected stream, it
    writes to the original stream behind it, into the middle of the display.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._open_line = ""

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        *lines, self._open_line = (self._open_line + text).split("\n")
        if lines:
            self._console.print(Text.from_ansi("\n".join(lines)), soft_wrap=True)
        return len(text)


@contextmanager
def _redirect_log_handlers(console: Console) -> Iterator[None]:
    """Redirect log handlers that write to the terminal to a console, as rich does with `print`.

    A handler keeps the stream that it was created with; Prefect's keeps it in its own console.
    """
    terminals = [stream for stream in (sys.stdout, sys.stderr) if stream.isatty()]
    undo: list[tuple[Any, str, Any]] = []
    for handler in _handlers():
        for owner, name in ((handler, "stream"), (getattr(handler, "console", None), "file")):
            stream = getattr(owner, name, None)
            if any(stream is terminal for terminal in terminals):
                undo.append((owner, name, stream))
                setattr(owner, name, _PrintAbove(console))
    try:
        yield
    finally:
        for owner, name, stream in undo:
            setattr(owner, name, stream)


def _handlers() -> Iterator[logging.Handler]:
    loggers = [logging.getLogger(), *logging.Logger.manager.loggerDict.values()]
    for logger in loggers:
        if isinstance(logger, logging.Logger):
            yield from logger.handlers
