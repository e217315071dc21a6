"""Read and write automations through Prefect's API."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any
from uuid import UUID

from infrastructure.prefect_resources.automations.triggers import Finding
from infrastructure.prefect_resources.deployments.deployment_resources import TAG
from infrastructure.prefect_resources.reconcile.resources import Actual, Desired
from prefect_flows.core.names import automation, run_tag
from prefect_flows.core.prefect_api import read_all

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.events.schemas.automations import Automation, AutomationCore

AUTOMATION = "automation"
# Fields of our actions. A plan masks any other field, since it was added by hand.
PRINTED = frozenset({"type", "block_document_id", "subject", "body", "state", "message"})
UNORDERED = ("after", "expect", "for_each")


def build_desired(target: str | None, finding: Finding, blocks: Mapping[str, UUID]) -> Desired:
    """Build the automation of a finding.

    Args:
        target: the target; None for an automation of the server.
        finding: trigger and texts.
        blocks: id of each notification block; unused if the finding notifies nobody.
    """
    if finding.body:
        actions: list[dict[str, Any]] = [
            {
                "type": "send-notification",
                "block_document_id": str(block),
                "subject": finding.subject,
                "body": finding.body,
            }
            for block in blocks.values()
        ]
    else:
        actions = [{
            "type": "change-flow-run-state", "state": "CRASHED", "name": "Crashed",
            "message": "Its heartbeats stopped: its process is gone.",
        }]  # fmt: skip
    return Desired(
        AUTOMATION,
        automation(target, finding.name),
        normalize({
            "description": finding.description,
            "tags": [TAG] if target is None else [TAG, run_tag(target)],
            "trigger": finding.trigger,
            "actions": actions,
        }),
    )  # fmt: skip


class AutomationKind:
    """Automations. Their paused state belongs to the operator and is never changed.

    Args:
        targets: targets whose automations may be orphaned; all if empty.
        others: targets of other projects, whose automations are never orphaned.
    """

    name = AUTOMATION

    def __init__(self, targets: Iterable[str], others: Iterable[str] = ()) -> None:
        self._others = tuple(automation(target, "") for target in others)
        self._prefixes = [automation(target, "") for target in targets] or [automation(None, "")]
        self._all: list[Automation] | None = None

    def find(self, client: SyncPrefectClient, name: str) -> Actual | None:
        """Return the automation with this name."""
        return next((_to_actual(each) for each in self._read(client) if each.name == name), None)

    def list_owned(self, client: SyncPrefectClient) -> Iterable[Actual]:
        """Return every automation of the targets that has our tag and name prefix."""
        return [
            _to_actual(each)
            for each in self._read(client)
            if TAG in each.tags and each.name.startswith(tuple(self._prefixes))
            if not each.name.startswith(self._others)
        ]

    def write(
        self,
        client: SyncPrefectClient,
        desired: Desired,
        stored_id: UUID | None,
        ids: Mapping[str, UUID],  # noqa: ARG002
    ) -> UUID:
        """Create or update the automation. An update restarts the windows of its trigger."""
        written = _core(desired.name, desired.data)
        if stored_id is None:
            return client.create_automation(written)
        client.update_automation(stored_id, written)
        return stored_id

    def remove(self, client: SyncPrefectClient, stored_id: UUID, name: str) -> None:  # noqa: ARG002
        """Delete the automation."""
        client.delete_automation(stored_id)

    def is_printable(self, path: tuple[str, ...], value: Any) -> bool:
        """Return False for actions that were added by hand: a webhook's may contain a secret."""
        return path[0] != "actions" or (path[-1] in PRINTED and not isinstance(value, Mapping))

    def paused(self, client: SyncPrefectClient) -> set[str]:
        """Return the names of paused automations."""
        return {each.name for each in self._read(client) if not each.enabled}

    def _read(self, client: SyncPrefectClient) -> list[Automation]:
        """Read all automations once, since a plan looks up many."""
        if self._all is None:
            self._all = read_all(client.read_automations)
        return self._all


def normalize(data: Mapping[str, Any]) -> dict[str, Any]:
    """Normalize an automation's fields: fill in Prefect's defaults, and sort sets.

    Actions become a mapping by their position, so that a plan names the field that changes.
    """
    given = _core("", data).model_dump(mode="json")
    trigger = given["trigger"]
    for key in UNORDERED:
        if key in trigger:
            trigger[key] = sorted(trigger[key])
    if not isinstance(trigger.get("match_related", []), list):
        trigger["match_related"] = [trigger["match_related"]]
    return {
        "description": given["description"],
        "tags": sorted(given["tags"]),
        "trigger": trigger,
        "actions": {
            str(place): {key: value for key, value in action.items() if value is not None}
            for place, action in enumerate(given["actions"], start=1)
        },
    }


def _core(name: str, data: Mapping[str, Any]) -> AutomationCore:
    """Build the request body; `enabled` is not set, so that it does not change."""
    from prefect.events.schemas.automations import AutomationCore

    actions = data["actions"]
    listed = list(actions.values()) if isinstance(actions, Mapping) else actions
    return AutomationCore.model_validate(dict(data) | {"name": name, "actions": listed})


def _to_actual(found: Automation) -> Actual:
    return Actual(found.id, found.name, normalize(found.model_dump(mode="json")))
