"""Record the releases of a target in Prefect artifacts, which a rollback reads.

Each release is an artifact with the key `releases-<target>`: a Markdown page that also contains the
deployments as JSON. They contain references to blocks, but no secret.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING

from infrastructure.prefect_resources.deployments.deployment_resources import DEPLOYMENT
from infrastructure.prefect_resources.reconcile.resources import Desired
from prefect_flows.core.markup import markdown_table
from prefect_flows.core.names import dashed

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

# Number of releases that a rollback can choose from.
MAX_RELEASES = 50
# Value of `Release.why` for a deployment; any other value is a rollback.
DEPLOYED = "deployed"
# Delimiters of the JSON, which is one line.
OPENING = "```json\n"
CLOSING = "\n```\n"


@dataclass(frozen=True)
class Release:
    """A version of a target's deployments.

    Attributes:
        image: image of its runs, or of the worker that runs them; None without containers.
        why: `deployed`, or which version it was rolled back from.
        at: when it was recorded.
    """

    target: str
    version: str
    image: str | None
    why: str
    deployments: Sequence[Desired] = field(repr=False)
    deployed_at: datetime | None = None


def artifact_key(target: str) -> str:
    """Return the artifact key of a target's releases."""
    return f"releases-{dashed(target)}"


def record_release(client: SyncPrefectClient, release: Release) -> None:
    """Record a release, which becomes the target's current one."""
    from prefect.client.schemas.actions import ArtifactCreate

    client.create_artifact(
        ArtifactCreate(
            key=artifact_key(release.target),
            type="markdown",
            description=f"{release.version}: {release.why}",
            data=_format_page(release),
            # Only short values: Prefect truncates them to 500 characters.
            metadata_={
                "version": release.version,
                "image": release.image or "",
                "why": release.why,
            },
        )
    )


def _format_page(release: Release) -> str:
    rows = [
        (
            each.name,
            each.data["job_variables"].get("image") or release.image or "",
            str(each.data["work_pool_name"]),
        )
        for each in release.deployments
    ]
    definitions = json.dumps({each.name: dict(each.data) for each in release.deployments})
    return "\n\n".join(
        [
            f"# {release.target} at {release.version}",
            f"{release.why.capitalize()}.",
            markdown_table(("deployment", "image", "work pool"), rows),
            f"{OPENING}{definitions}{CLOSING}",
        ]
    )


def _parse_deployments(page: str) -> list[Desired]:
    definitions = page.partition(OPENING)[2].removesuffix(CLOSING)
    return [Desired(DEPLOYMENT, name, data) for name, data in json.loads(definitions).items()]


def list_releases(client: SyncPrefectClient, target: str) -> list[Release]:
    """Return a target's releases, the current one first."""
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
    from prefect.client.schemas.sorting import ArtifactSort

    found = client.read_artifacts(
        artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[artifact_key(target)])),
        sort=ArtifactSort.CREATED_DESC,
        limit=MAX_RELEASES,
    )
    return [
        Release(
            target,
            metadata["version"],
            metadata["image"] or None,
            metadata["why"],
            _parse_deployments(str(artifact.data)),
            artifact.created,
        )
        for artifact in found
        for metadata in [artifact.metadata_ or {}]
    ]
