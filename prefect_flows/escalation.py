"""Faults of a system are told at once, through Prefect's notification blocks.

A fault of data, code or configuration stops the run with its report, and waits for whoever wrote
it. A server that does not answer, a cause that should have passed and did not, or a stage without
end may hit the next run too: the block `notify-<target>`, of any of Prefect's notification types,
is told when there is one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx

from prefect_flows.errors import MillraceError
from prefect_flows.targets import notify_block, prefect_client

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

    from prefect_flows.runtime import Runtime


def escalate(error: MillraceError, target: str, runtime: Runtime) -> None:
    """Tell of a fault of a system; of no other. What could not be told is in the run's log."""
    if not (error.retryable or error.of_a_system):
        return
    link = "" if runtime.url is None else f"\n{runtime.url}"
    unsent = runtime.notify(f"Millrace: target {target} needs a look", f"{error}{link}")
    if unsent is not None:
        runtime.log.warning("Nobody could be told by block %r: %s", notify_block(target), unsent)


def receivers(client: SyncPrefectClient, target: str) -> list[dict[str, Any]]:
    """The documents of the blocks that are told for a target: none, or one a type."""
    found = client.request(
        "POST",
        "/block_documents/filter",
        json={"block_documents": {"name": {"any_": [notify_block(target)]}}},
    )
    return list(found.json())


def send(target: str, subject: str, body: str) -> str | None:
    """Send a notice through the block of a target, if there is one.

    Returns:
        Why it was not sent; none where it was, or where there is no block.
    """
    from prefect.blocks import notifications  # noqa: F401 # makes its types known
    from prefect.blocks.abstract import NotificationBlock, NotificationError
    from prefect.blocks.core import Block
    from prefect.exceptions import PrefectException

    name = notify_block(target)
    try:
        with prefect_client() as client:
            found = receivers(client, target)
        for document in found:
            block = Block.load(f"{document['block_type']['slug']}/{name}")
            if isinstance(block, NotificationBlock):
                with block.raise_on_failure():
                    block.notify(body, subject)  # type: ignore[unused-coroutine] # sync here
    except (
        NotificationError, PrefectException, httpx.HTTPError, MillraceError,
        KeyError, ValueError,  # a block whose type is not installed, or that is not as it should be
    ) as error:  # fmt: skip
        return f"{type(error).__name__}: {error}"
    return None
