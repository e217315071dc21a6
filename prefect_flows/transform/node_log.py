"""One log line a finished node, as dbt's own command line says it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from prefect_flows.core.logger import Logger
from prefect_flows.transform.results import SKIPPED, NodeResult


class NodeLog:
    """A watcher that logs: passed ones as info, warnings as warning, failures as error.

    Args:
        compiled: node's id → path of its compiled SQL, where there is one.
    """

    def __init__(self, log: Logger, compiled: Callable[[str], str | None]) -> None:
        self._log = log
        self._compiled = compiled
        self._total = 0
        self._done = 0

    def stage_started(self, name: str, total: int) -> None:  # noqa: ARG002
        """Count from one again."""
        self._total, self._done = total, 0

    def node_started(self, *_: Any) -> None:
        """Nothing is said of a node that begins."""

    def nodes_finished(self, name: str, results: Sequence[NodeResult]) -> None:  # noqa: ARG002
        """One line a node, failures with the path of the SQL that ran."""
        for result in results:
            self._done += 1
            say = self._log.info
            if result.failed:
                say = self._log.error
            elif result.status in ("warn", SKIPPED):
                say = self._log.warning
            path = self._compiled(result.unique_id) if result.failed else None
            say(
                "%d of %d  %-8s %s %s  %s  %.2f s%s",
                self._done,
                self._total,
                result.status,
                result.resource_type,
                result.name,
                " ".join((result.message or "").split()),
                result.seconds,
                f"\n  compiled: {path}" if path else "",
            )

    def warned(self, text: str) -> None:
        """A warning of dbt about something else than a node."""
        self._log.warning("dbt: %s", text)

    def stage_finished(self, name: str) -> None:
        """The stage's own line is logged with its record."""
