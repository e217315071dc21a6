"""Find and resolve references to Prefect blocks: `{{ prefect.blocks.TYPE.NAME.key }}`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from prefect_flows.core.prefect_api import read_or_none

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

PREFIX = "prefect.blocks."
# JSON schema pattern of exactly one reference.
REFERENCE = r"^\{\{ *prefect\.blocks\.[^{}]+\}\}$"
SECRET = "secret"  # noqa: S105 (the slug of a block type)


@dataclass(frozen=True, order=True)
class Reference:
    """A reference to a block, or to a member of it.

    Attributes:
        slug: Prefect's slug of the block type.
        name: name of the block.
        key: dotted path of the member; empty for the whole block.
    """

    slug: str
    name: str
    key: str

    def __str__(self) -> str:
        return f"{self.slug}/{self.name}" + (f", member {self.key}" if self.key else "")


def is_reference(value: str) -> bool:
    """Return whether the text is exactly one reference to a block."""
    return re.match(REFERENCE, value) is not None


def find_references(value: Any) -> Iterable[Reference]:
    """Yield every reference in a nested value."""
    from prefect.utilities.templating import find_placeholders

    if isinstance(value, Mapping):
        for each in value.values():
            yield from find_references(each)
    elif isinstance(value, list):
        for each in value:
            yield from find_references(each)
    elif isinstance(value, str) and PREFIX in value:
        for placeholder in find_placeholders(value):
            if placeholder.name.startswith(PREFIX):
                slug, name, *key = placeholder.name.removeprefix(PREFIX).split(".", 2)
                yield Reference(slug, name, key[0] if key else "")


def find_missing_blocks(client: SyncPrefectClient, desired: Iterable[Reference]) -> list[str]:
    """Return one line for each reference that a worker could not resolve, with the fix."""
    faults = []
    for reference in sorted(set(desired)):
        fault = _get_fault(client, reference)
        if fault is not None:
            command = f"uv run millrace secret {reference.name}"
            if reference.slug != SECRET:
                command += f" --type {reference.slug}"
            faults.append(f"{reference}: {fault}; {command}")
    return faults


def _get_fault(client: SyncPrefectClient, reference: Reference) -> str | None:
    block = read_or_none(
        client.read_block_document_by_name, reference.name, reference.slug, include_secrets=True
    )
    if block is None:
        return "no such block"
    data: Any = block.data
    # As the worker does: a reference to a Secret starts inside its value.
    if reference.key and set(data) == {"value"} and reference.key.split(".")[0] != "value":
        data = data["value"]
    for part in reference.key.split(".") if reference.key else ():
        if not isinstance(data, Mapping) or part not in data:
            return f"the block has no member {reference.key}"
        data = data[part]
    return None
