"""What a run does right now, drawn in the terminal while it runs.

dbt's threads only note what began and ended; a thread of rich draws that five times a second.
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
from types import TracebackType
from typing import Any, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from prefect_flows.reporting.charts.svg import group_of, seconds
from prefect_flows.transform.results import NodeResult

FRAMES_PER_SECOND = 5
MOST_RUNNING = 8
_STYLES = {
    "good": "green",
    "warned": "yellow",
    "failed": "bold red",
    "skipped": "bright_black",
    "other": "default",
}


@dataclass
class _Stage:
    total: int
    began: float
    statuses: Counter[str] = field(default_factory=Counter)
    ended: float | None = None


class LiveDisplay:
    """Stages with their progress, what is running, and counts by status; a context.

    Away from a terminal it draws nothing, and costs nothing. Lines that are logged or printed
    meanwhile appear above it.

    Args:
        console: where it draws; the standard error by default.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        self.active = self.console.file.isatty() and not self.console.is_dumb_terminal
        self._lock = threading.Lock()
        self._stages: dict[str, _Stage] = {}
        self._running: dict[str, tuple[float, str, str]] = {}
        self._contexts = ExitStack()

    def __enter__(self) -> Self:
        if self.active:
            live = Live(
                get_renderable=self.picture,
                console=self.console,
                refresh_per_second=FRAMES_PER_SECOND,
                # A stream that goes to a file stays there.
                redirect_stdout=sys.stdout.isatty(),
                redirect_stderr=sys.stderr.isatty(),
            )
            self._contexts.enter_context(_logged_above(self.console))
            self._contexts.enter_context(live)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._lock:
            self._running.clear()
        self._contexts.close()

    def stage_started(self, name: str, total: int) -> None:
        """A stage, or a further attempt of it, begins with so many nodes to do; 0: not known."""
        if self.active:
            with self._lock:
                self._running.clear()
                self._stages[name] = _Stage(total, time.monotonic())

    def node_started(self, name: str, unique_id: str, resource_type: str, node: str) -> None:  # noqa: ARG002
        """A node begins."""
        if self.active:
            began = time.monotonic()
            with self._lock:
                self._running[unique_id] = (began, node, resource_type)

    def nodes_finished(self, name: str, results: Sequence[NodeResult]) -> None:
        """Nodes end, or are skipped."""
        if self.active:
            with self._lock:
                for result in results:
                    self._running.pop(result.unique_id, None)
                    self._stages[name].statuses[result.status] += 1

    def warned(self, text: str) -> None:
        """The log says it, above."""

    def stage_finished(self, name: str) -> None:
        """A stage ends; what it left running was interrupted."""
        if self.active:
            with self._lock:
                self._running.clear()
                if name in self._stages:
                    self._stages[name].ended = time.monotonic()

    def picture(self) -> RenderableType:
        """What is drawn: one line a stage, then one line a running node, longest first."""
        now = time.monotonic()
        with self._lock:
            stages = [
                (name, stage.total, Counter(stage.statuses), (stage.ended or now) - stage.began)
                for name, stage in self._stages.items()
            ]
            ended = {name for name, stage in self._stages.items() if stage.ended is not None}
            running = sorted(self._running.values())
        table = Table.grid(padding=(0, 1))
        for name, total, statuses, taken in stages:
            table.add_row(*_line(name, total, statuses, taken, name in ended))
        parts: list[RenderableType] = [table]
        for began, name, kind in running[:MOST_RUNNING]:
            line = Text(f"  {seconds(now - began):>8}  {kind} {name}", no_wrap=True)
            line.truncate(self.console.width, overflow="ellipsis")
            parts.append(line)
        if len(running) > MOST_RUNNING:
            parts.append(Text(f"            and {len(running) - MOST_RUNNING} more"))
        return Group(*parts)


def _line(
    name: str, total: int, statuses: Counter[str], taken: float, ended: bool
) -> tuple[RenderableType, ...]:
    done = sum(statuses.values())
    known = max(total, done)
    counted = Text(no_wrap=True)
    for status, count in statuses.most_common():
        counted.append(f"{count} {status}  ", style=_STYLES[group_of(status)])
    failed = any(group_of(status) == "failed" for status in statuses)
    bar = ProgressBar(
        total=known or None,
        completed=known if ended and not total else done,
        width=24,
        pulse=not known and not ended,
        complete_style="red" if failed else "green",
        finished_style="red" if failed else "green",
    )
    progress = f"{done}/{known}" if known else ""
    return Text(name), bar, Text(progress, justify="right"), Text(seconds(taken)), counted


class _Above(io.TextIOBase):
    """A stream whose whole lines are printed above what a console draws.

    Rich's own stand-in for a stream serves `print`. A console that is given it, as Prefect's is,
    writes to the stream behind it instead, into the middle of the picture.
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
def _logged_above(console: Console) -> Iterator[None]:
    """Lead the handlers that write to the terminal through a console, as rich does with `print`.

    A handler keeps the stream that it was made with; Prefect's keeps it in a console of its own.
    """
    terminals = [stream for stream in (sys.stdout, sys.stderr) if stream.isatty()]
    undo: list[tuple[Any, str, Any]] = []
    for handler in _handlers():
        for owner, name in ((handler, "stream"), (getattr(handler, "console", None), "file")):
            stream = getattr(owner, name, None)
            if any(stream is terminal for terminal in terminals):
                undo.append((owner, name, stream))
                setattr(owner, name, _Above(console))
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
