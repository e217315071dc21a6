"""Desired and actual state of a Prefect resource, and the protocol of a resource type."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol
from uuid import UUID

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient


@dataclass(frozen=True)
class Desired:
    """Desired state of a resource.

    Attributes:
        kind: name of its resource type.
        data: its fields, including plain-text secrets, which `repr` omits.
        references: field → name of the resource that it refers to.
    """

    kind: str
    name: str
    data: Mapping[str, Any] = field(repr=False)
    references: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Actual:
    """Actual state of a resource; `data` has at least the fields that setup writes."""

    id: UUID
    name: str
    data: Mapping[str, Any] = field(repr=False)
    references: Mapping[str, str] = field(default_factory=dict)


class ResourceType(Protocol):
    """How resources of one type are found, written, shown and removed."""

    @property
    def name(self) -> str:
        """The value of `Desired.kind`."""

    def find(self, client: SyncPrefectClient, name: str) -> Actual | None:
        """Return the resource with this name."""

    def list_owned(self, client: SyncPrefectClient) -> Iterable[Actual]:
        """Return every resource that setup has created, including orphans."""

    def write(
        self,
        client: SyncPrefectClient,
        desired: Desired,
        stored_id: UUID | None,
        ids: Mapping[str, UUID],
    ) -> UUID:
        """Create the resource, or update it if it is stored; return its id.

        Args:
            client: client of the Prefect API.
            desired: desired state.
            stored_id: id of the stored resource, if any.
            ids: ids of resources that were written or found before, by name.
        """

    def remove(self, client: SyncPrefectClient, stored_id: UUID, name: str) -> None:
        """Delete the resource."""

    def is_printable(self, path: tuple[str, ...], value: Any) -> bool:
        """Return whether a plan may print a field's value; others are masked."""
