"""An object of the Prefect API as it should be, as it is, and a kind of such objects."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol
from uuid import UUID

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient


@dataclass(frozen=True)
class Desired:
    """An object as it should be.

    Attributes:
        kind: the name of its kind.
        data: its fields; secrets in plain, kept out of the representation.
        references: field → name of the object that it refers to.
    """

    kind: str
    name: str
    data: Mapping[str, Any] = field(repr=False)
    references: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Actual:
    """An object as it is; `data` has at least the fields that setup writes."""

    id: UUID
    name: str
    data: Mapping[str, Any] = field(repr=False)
    references: Mapping[str, str] = field(default_factory=dict)


class ResourceType(Protocol):
    """How the objects of one kind are found, written, shown and removed."""

    @property
    def name(self) -> str:
        """What `Desired.kind` says."""

    def find(self, client: SyncPrefectClient, name: str) -> Actual | None:
        """The object of that name."""

    def ours(self, client: SyncPrefectClient) -> Iterable[Actual]:
        """Every object that setup has made, also those that nothing asks for any more."""

    def write(
        self,
        client: SyncPrefectClient,
        wanted: Desired,
        stored_id: UUID | None,
        ids: Mapping[str, UUID],
    ) -> UUID:
        """Create the object, or change it where it is stored; its id.

        Args:
            ids: ids of the objects that were written or found before, by name.
        """

    def remove(self, client: SyncPrefectClient, stored_id: UUID, name: str) -> None:
        """Remove the object."""

    def shows(self, path: tuple[str, ...], value: Any) -> bool:
        """Whether a plan may print the value of a field; a value that may be a secret is masked."""
