"""Logs what failed or warned in a stage, and one line for the whole stage."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from prefect_flows.core.formatting import format_duration, one_line
from prefect_flows.core.logger import Logger
from prefect_flows.transform.results import SKIPPED, NodeResult, summarize_error


class NodeLog:
    """A listener that logs failed nodes as errors, warned and skipped ones as warnings.

    Args:
        log: the log of the stage.
        compiled: returns the path of a node's compiled SQL, or None.
        reasons: node id → why the run executes it.
        verbose: log nodes that pass as info, not only for debugging.
    """

    def __init__(
        self,
        log: Logger,
        compiled: Callable[[str], str | None],
        reasons: Mapping[str, str],
        *,
        verbose: bool,
    ) -> None:
        self._log = log
        self._compiled = compiled
        self._reasons = reasons
        self._log_passed = log.info if verbose else log.debug
        self._total = 0
        self._done = 0
        self._statuses: Counter[str] = Counter()
        self._started = time.monotonic()

    def stage_started(self, name: str, total: int) -> None:  # noqa: ARG002
        """Start counting from one."""
        self._total, self._done = total, 0
        self._statuses.clear()
        self._started = time.monotonic()

    def node_started(self, *_: Any) -> None:
        """Do nothing: only finished nodes are logged."""

    def nodes_finished(self, name: str, results: Sequence[NodeResult]) -> None:  # noqa: ARG002
        """Log one line per node; failures with the path of their compiled SQL."""
        for result in results:
            self._done += 1
            self._statuses[result.status] += 1
            log = self._log_passed
            if result.failed:
                log = self._log.error
            elif result.status in ("warn", SKIPPED):
                log = self._log.warning
            path = self._compiled(result.unique_id) if result.failed else None
            log(
                "%d of %d  %-8s %s %s  %s  %.2f s%s%s",
                self._done,
                self._total,
                result.status,
                result.resource_type,
                result.name,
                (summarize_error if result.failed else one_line)(result.message or ""),
                result.seconds,
                f", because {reason}" if (reason := self._reasons.get(result.unique_id)) else "",
                f"\n  compiled: {path}" if path else "",
            )

    def warned(self, text: str) -> None:
        """Log a warning of dbt that is not the result of a node."""
        self._log.warning("dbt: %s", text)

    def stage_finished(self, name: str) -> None:
        """Log one line for the stage, for example `dbt-test: 140 pass, 1 warn in 3.1 s`."""
        counts = ", ".join(f"{n:,} {status}" for status, n in self._statuses.most_common())
        elapsed = format_duration(time.monotonic() - self._started)
        self._log.info("%s: %s in %s", name, counts or "no node ran", elapsed)
