"""The notification blocks of a target: whom its automations tell."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

from prefect_flows.targets import notify_block

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

# Between the name of a target's block and what tells several apart. No target's name has it.
SEPARATOR = "--"
NOTIFIES = "notify"
PAGE = 200


def receivers(client: SyncPrefectClient, target: str) -> dict[str, UUID]:
    """Name and type of each block that is told for a target → its id, in the order of the names.

    Blocks of any type that can notify: `notify-<target>`, and `notify-<target>--<name>`.
    """
    name = notify_block(target)
    found: dict[str, UUID] = {}
    offset = 0
    while True:
        answer = client.request(
            "POST",
            "/block_documents/filter",
            json={
                "block_documents": {"name": {"like_": name}},
                "limit": PAGE,
                "offset": offset,
                "include_secrets": False,
            },
        )
        page = answer.json()
        for block in page:
            ours = block["name"] == name or block["name"].startswith(f"{name}{SEPARATOR}")
            if ours and NOTIFIES in block["block_schema"]["capabilities"]:
                key = f"{block['block_type']['slug']}/{block['name']}"
                found[key] = UUID(block["id"])
        if len(page) < PAGE:
            return dict(sorted(found.items()))
        offset += PAGE
