"""What a run asks of the place that it runs in: Prefect's flow run, or a bare process."""

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
from prefect_flows.runtime.stages import Work, as_function
from prefect_flows.transform.event_listener import EventListener

# Says which run holds the target.
Holder = Callable[[], str]

# How often a waiting run says for whom it waits.
SAY_SECONDS = 300


def busy(target: str, holder: str, where: str) -> TargetBusy:
    """The error of a run that is not to wait for another."""
    return TargetBusy(
        f"Target {target!r} is taken by {holder}.",
        where=where,
        fix="wait for it to end, or start this one without --no-wait",
    )


class Runtime(Protocol):
    """Where a run runs.

    Attributes:
        run_id: the run's name in the state store.
        url: where a person looks at the run; none without Prefect.
        unreported: what could not be told to Prefect, a line each.
        wishes: what is told of the target; none where nobody is told from here.
        watchers: see the dbt stages go by.
        stop: tells the run to stop.
    """

    run_id: str
    url: str | None
    log: Logger
    unreported: list[str]
    wishes: NotificationPreferences | None
    stop: CancellationHandler

    @property
    def watchers(self) -> Sequence[EventListener]:
        """See the dbt stages go by."""

    def lease(self, target: str, holder: Holder, *, wait: bool) -> AbstractContextManager[None]:
        """Hold the target, so that no other run of it begins.

        Args:
            holder: says which run holds it now.

        Raises:
            TargetBusy: another run holds it, and this one is not to wait.
        """

    def stopping(self) -> AbstractContextManager[None]:
        """Hear whatever tells the run to stop.

        Raises:
            RunCancelled: the run was told to stop.
        """

    def run_stage(self, name: str, policy: StagePolicy, work: Work) -> dict[str, Any]:
        """Run a stage with its retries and its timeout."""

    def publish(self, key: str, markdown: str) -> None:
        """Show a text with the run."""

    def secret(self, block: str) -> Any | None:
        """The value of a Secret block; none where there is no such block."""

    def receivers(self) -> list[str]:
        """The blocks that are told of the target.

        Raises:
            PrefectUnreachable: the Prefect API cannot be asked.
        """


class LocalRuntime:
    """A run in a bare process: nothing is shown but the log and the state store."""

    def __init__(self) -> None:
        self.run_id = str(uuid.uuid4())
        self.url: str | None = None
        self.log: Logger = logging.getLogger("millrace")
        self.unreported: list[str] = []
        self.wishes: NotificationPreferences | None = None
        self.watchers: Sequence[EventListener] = ()
        self.stop = CancellationHandler()

    def lease(
        self,
        target: str,  # noqa: ARG002
        holder: Holder,  # noqa: ARG002
        *,
        wait: bool,  # noqa: ARG002
    ) -> AbstractContextManager[None]:
        """The lock of the state store's folder has to serve: other machines are not seen."""
        return nullcontext()

    def stopping(self) -> AbstractContextManager[None]:
        """Hear Ctrl-C and SIGTERM."""
        return self.stop.heard()

    def run_stage(self, name: str, policy: StagePolicy, work: Work) -> dict[str, Any]:
        """Run a stage as a function."""
        return as_function(name, policy, work, self.stop)

    def publish(self, key: str, markdown: str) -> None:
        """Nobody would see it."""

    def secret(self, block: str) -> str | None:
        """The value of the variable that stands for the block; none where it is not set."""
        return os.environ.get(secret_block_variable(block)) or None

    def receivers(self) -> list[str]:
        """Whoever called the process sees how it ended."""
        return []
