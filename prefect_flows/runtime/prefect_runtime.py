"""The runtime of a Prefect flow run: tasks, artifacts, progress, concurrency lease, blocks."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any
from uuid import UUID

from prefect import get_run_logger
from prefect.artifacts import create_markdown_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import ConcurrencyLeaseHolder
from prefect.concurrency.asyncio import ConcurrencySlotAcquisitionError
from prefect.concurrency.sync import concurrency
from prefect.context import FlowRunContext
from prefect.exceptions import ObjectNotFound
from prefect.utilities.urls import url_for

from prefect_flows.core.bounded_waits import ApiRetryLimit
from prefect_flows.core.errors import ConfigurationError, PrefectUnreachable
from prefect_flows.core.logger import Logger
from prefect_flows.core.names import SETUP_COMMAND, concurrency_limit, notify_block
from prefect_flows.core.notification_preferences import NotificationPreferences
from prefect_flows.core.prefect_api import (
    block_address,
    list_notification_blocks,
    prefect_client,
    read_secret,
)
from prefect_flows.core.settings import StagePolicy
from prefect_flows.runtime.base import WAIT_LOG_SECONDS, Holder, target_busy_error
from prefect_flows.runtime.cancellation import CancellationHandler
from prefect_flows.runtime.progress import API_ERRORS, ProgressReporter, is_api_healthy
from prefect_flows.runtime.stages import Work, run_as_task
from prefect_flows.transform.event_listener import EventListener

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun

# The lease of a killed run expires after this time; Prefect allows no shorter one.
LEASE_SECONDS = 60
# Timeout of one attempt to acquire the lease.
LEASE_ATTEMPT_SECONDS = 5
# How long the result of an API health check is reused.
HEALTH_CHECK_VALID_SECONDS = 5


class PrefectRuntime:
    """The runtime of the flow run that creates it.

    Attributes:
        deployment_version: version of the deployment that started the run; None without one.
    """

    def __init__(
        self,
        flow_run: FlowRun,
        target: str,
        preferences: NotificationPreferences,
        log: Logger,
        patience: ApiRetryLimit,
    ) -> None:
        self.run_id = str(flow_run.id)
        self.url = url_for("flow-run", obj_id=flow_run.id)
        self.log = log
        self.unreported: list[str] = []
        self.preferences: NotificationPreferences | None = preferences
        self._flow_run_id: UUID = flow_run.id
        self.deployment_version: str | None = flow_run.deployment_version
        self._deployment_id: UUID | None = flow_run.deployment_id
        self._target = target
        self._patience = patience
        self._checked_at, self._is_healthy = -float(HEALTH_CHECK_VALID_SECONDS), False
        self.stop = CancellationHandler()
        self._progress = ProgressReporter(flow_run.id, target, self.stop, self.unreported.append)

    @classmethod
    def from_flow_run_context(
        cls, target: str, preferences: NotificationPreferences, patience: ApiRetryLimit
    ) -> PrefectRuntime:
        """Create the runtime of the flow run in whose body this is called."""
        context = FlowRunContext.get()
        assert context is not None  # noqa: S101
        assert context.flow_run is not None  # noqa: S101
        return cls(context.flow_run, target, preferences, get_run_logger(), patience)

    @property
    def listeners(self) -> Sequence[EventListener]:
        """The progress reporter, which sends node results to Prefect every few seconds."""
        return (self._progress,)

    @contextmanager
    def stopping(self) -> Iterator[None]:
        """Handle Ctrl-C, SIGTERM, and a cancellation in Prefect."""
        with self.stop.handle_signals(), self._progress:
            yield

    def run_stage(self, name: str, policy: StagePolicy, work: Work) -> dict[str, Any]:
        """Run a stage as a Prefect task."""
        try:
            return run_as_task(name, policy, work, self.stop)
        finally:
            # Only waits after the last stage count towards the limit: dbt needs no API.
            self._patience.reset()

    def publish(self, key: str, markdown: str, description: str | None = None) -> None:
        """Create a Markdown artifact of the flow run, if the API answers."""
        now = time.monotonic()
        if now - self._checked_at > HEALTH_CHECK_VALID_SECONDS:
            self._checked_at, self._is_healthy = now, is_api_healthy()
        if not self._is_healthy:
            self.unreported.append(f"artifact {key}: the API does not answer")
            return
        try:
            create_markdown_artifact(markdown, key=key, description=description)
        except API_ERRORS as error:
            self.unreported.append(f"artifact {key}: {type(error).__name__}: {error}")

    def deployment(self) -> str | None:
        """Return the name of the deployment, if one started the run and the API answers."""
        if self._deployment_id is None or not is_api_healthy():
            return None
        try:
            with get_client(sync_client=True) as client:
                return client.read_deployment(self._deployment_id).name
        except (*API_ERRORS, ObjectNotFound) as error:
            self.unreported.append(f"name of the deployment: {type(error).__name__}")
            return None

    def secret(self, block: str) -> Any | None:
        """Return the value of a `Secret` block; None if there is no such block."""
        with prefect_client() as client:
            return read_secret(client, block)

    def recipients(self) -> list[str]:
        """Return the notification blocks of the target.

        Raises:
            PrefectUnreachable: the Prefect API does not answer.
        """
        if not is_api_healthy():
            raise PrefectUnreachable(
                "The Prefect API does not answer.",
                where=f"blocks {notify_block(self._target)} of the Prefect API",
                fix="start it again; the next run sends the notifications",
            )
        with prefect_client() as client:
            blocks = list_notification_blocks(client, self._target)
            return [block_address(block) for block in blocks]

    @contextmanager
    def lease(self, target: str, holder: Holder, *, wait: bool) -> Iterator[None]:
        """Hold the only slot of the target's global concurrency limit, which setup creates.

        Raises:
            ConfigurationError: the concurrency limit does not exist.
            PrefectUnreachable: the Prefect API does not answer.
            TargetBusy: another run holds the target, and `wait` is false.
        """
        name = concurrency_limit(target)
        with ExitStack() as stack:
            logged_at = -float(WAIT_LOG_SECONDS)
            while True:
                try:
                    stack.enter_context(self._slot(name))
                    break
                except ConcurrencySlotAcquisitionError as error:
                    self._require_limit(name, target)
                    raise PrefectUnreachable(
                        f"Cannot acquire the lease of target {target!r}: {error}",
                        where=f"concurrency limit {name} of the Prefect API",
                        fix=f"see that the API answers; if the limit is gone: {SETUP_COMMAND} "
                        f"--target {target}",
                    ) from error
                except TimeoutError as error:
                    if not wait:
                        raise target_busy_error(
                            target, holder(), f"concurrency limit {name}"
                        ) from error
                    if time.monotonic() - logged_at > WAIT_LOG_SECONDS:
                        self.log.info("Target %r is locked; waiting for %s.", target, holder())
                        logged_at = time.monotonic()
            try:
                yield
            finally:
                self._release_lease(target, stack)

    def _require_limit(self, name: str, target: str) -> None:
        with get_client(sync_client=True) as client:
            try:
                client.read_global_concurrency_limit_by_name(name)
            except ObjectNotFound as error:
                raise ConfigurationError(
                    f"The concurrency limit {name!r} does not exist.",
                    where=f"the Prefect API at {client.api_url}",
                    fix=f"{SETUP_COMMAND} --target {target}",
                ) from error

    def _release_lease(self, target: str, lease: ExitStack) -> None:
        try:
            lease.close()
        except API_ERRORS as error:
            self.log.warning(
                "Cannot release the lease of target %r (%s); it expires in %d s.",
                target,
                type(error).__name__,
                LEASE_SECONDS,
            )

    def _slot(self, name: str) -> Any:
        return concurrency(
            name,
            timeout_seconds=LEASE_ATTEMPT_SECONDS,
            lease_duration=LEASE_SECONDS,
            strict=True,
            # dbt continues while the API is down; the progress reporter reports that.
            raise_on_lease_renewal_failure=False,
            holder=ConcurrencyLeaseHolder(type="flow_run", id=self._flow_run_id),
        )
