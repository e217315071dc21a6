"""The interface of a runtime (`Runtime`), and the runtime without Prefect (`LocalRuntime`)."""

from __future__ import annotations

import logging
import os
import uuid
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

from prefect_flows.core.errors import TargetBusy
from prefect_flows.core.logger import Logger
from prefect_flows.core.names import secret_block_variable
from prefect_flows.core.notification_preferences import NotificationPreferences
from prefect_flows.core.settings import StagePolicy
from prefect_flows.runtime.cancellation import CancellationHandler
from prefect_flows.runtime.stages import Work, run_as_function
from prefect_flows.transform.event_listener import EventListener

# Describes the run that holds the target.
Holder = Callable[[], str]

# How often a run that waits for its target logs which run holds it.
WAIT_LOG_SECONDS = 300


def target_busy_error(target: str, holder: str, where: str) -> TargetBusy:
    """Build the error for a run with `--no-wait` whose target another run holds."""
    return TargetBusy(
        f"Target {target!r} is locked by {holder}.",
        where=where,
        fix="wait for it to end, or start this one without --no-wait",
    )


class Runtime(Protocol):
    """What a run needs from its surroundings: a Prefect flow run, or a process without Prefect.

    Attributes:
        run_id: id of the run in the state store.
        url: URL of the flow run; None without Prefect.
        log: the log of the run.
        unreported: one line for each thing that could not be reported to Prefect.
        preferences: notification preferences of the target; None if this runtime sends none.
        stop: handles the cancellation of the run.
    """

    run_id: str
    url: str | None
    log: Logger
    unreported: list[str]
    preferences: NotificationPreferences | None
    stop: CancellationHandler

    @property
    def listeners(self) -> Sequence[EventListener]:
        """Listeners for the events of the dbt stages."""

    def lease(self, target: str, holder: Holder, *, wait: bool) -> AbstractContextManager[None]:
        """Hold the target, so that no other run of it starts on any machine.

        Args:
            target: name of the target.
            holder: describes the run that holds the target now.
            wait: whether to wait for another run.

        Raises:
            TargetBusy: another run holds the target, and `wait` is false.
        """

    def stopping(self) -> AbstractContextManager[None]:
        """Handle cancellation while the context is open.

        Raises:
            RunCancelled: the run was cancelled.
        """

    def run_stage(self, name: str, policy: StagePolicy, work: Work) -> dict[str, Any]:
        """Run a stage with its retries and timeout, and return its record."""

    def publish(self, key: str, markdown: str, description: str | None = None) -> None:
        """Publish a Markdown text with the run, and what a list of texts says of it."""

    def deployment(self) -> str | None:
        """Return the name of the deployment that started the run, if one did and it is known."""

    def secret(self, block: str) -> Any | None:
        """Return the value of a `Secret` block; None if there is no such block."""

    def recipients(self) -> list[str]:
        """Return the notification blocks of the target.

        Raises:
            PrefectUnreachable: the Prefect API does not answer.
        """


class LocalRuntime:
    """The runtime of `--no-prefect`: a run in this process, with only its log and state store."""

    def __init__(self) -> None:
        self.run_id = str(uuid.uuid4())
        self.url: str | None = None
        self.log: Logger = logging.getLogger("millrace")
        self.unreported: list[str] = []
        self.preferences: NotificationPreferences | None = None
        self.listeners: Sequence[EventListener] = ()
        self.stop = CancellationHandler()

    def lease(
        self,
        target: str,  # noqa: ARG002
        holder: Holder,  # noqa: ARG002
        *,
        wait: bool,  # noqa: ARG002
    ) -> AbstractContextManager[None]:
        """Hold nothing; the lock file of the state store separates runs on this machine only."""
        return nullcontext()

    def stopping(self) -> AbstractContextManager[None]:
        """Handle Ctrl-C and SIGTERM."""
        return self.stop.handle_signals()

    def run_stage(self, name: str, policy: StagePolicy, work: Work) -> dict[str, Any]:
        """Run a stage as a plain function."""
        return run_as_function(name, policy, work, self.stop)

    def publish(self, key: str, markdown: str, description: str | None = None) -> None:
        """Do nothing: there is no Prefect UI."""

    def deployment(self) -> str | None:
        """Return None: no deployment started the run."""
        return None

    def secret(self, block: str) -> str | None:
        """Return the variable that replaces the block; None if it is not set or empty."""
        return os.environ.get(secret_block_variable(block)) or None

    def recipients(self) -> list[str]:
        """Return no blocks: the caller of the process sees how the run ended."""
        return []
