"""Which version of a target's deployments was put in place when: what a rollback goes back to.

Each release is an artifact in Prefect, with the key `releases-<target>`: a page for people, and in
it, as JSON, the deployments as they were written. They hold references to blocks, and no secret.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING

from infrastructure.prefect_resources.deployments.deployment_resources import DEPLOYMENT
from infrastructure.prefect_resources.reconcile.resources import Desired

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

# How far back a rollback can look.
KEPT = 50
# Why a release is there that was deployed; any other was rolled back to.
DEPLOYED = "deployed"
# Around the JSON, which is one line.
OPENING = "```json\n"
CLOSING = "\n```\n"


@dataclass(frozen=True)
class Release:
    """One version of a target's deployments.

    Attributes:
        image: the image of its runs, or of the worker that runs them; none without containers.
        why: what put it in place, in words.
    """

    target: str
    version: str
    image: str | None
    why: str
    deployments: Sequence[Desired] = field(repr=False)
    at: datetime | None = None


def artifact_key(target: str) -> str:
    """The key of the artifacts that a target's releases are kept in."""
    return f"releases-{target}"


def record(client: SyncPrefectClient, release: Release) -> None:
    """Keep a release; it is the target's current one from now on."""
    from prefect.client.schemas.actions import ArtifactCreate

    client.create_artifact(
        ArtifactCreate(
            key=artifact_key(release.target),
            type="markdown",
            description=f"{release.version}: {release.why}",
            data=_page(release),
            # Short ones only: Prefect cuts what is longer than 500 characters.
            metadata_={
                "version": release.version,
                "image": release.image or "",
                "why": release.why,
            },
        )
    )


def _page(release: Release) -> str:
    lines = [
        f"# {release.target} at {release.version}",
        "",
        f"{release.why.capitalize()}.",
        "",
        "| deployment | image | work pool |",
        "|---|---|---|",
        *(
            f"| {each.name} | {each.data['job_variables'].get('image') or release.image or ''} "
            f"| {each.data['work_pool_name']} |"
            for each in release.deployments
        ),
    ]
    definitions = json.dumps({each.name: dict(each.data) for each in release.deployments})
    return "\n".join(lines) + f"\n\n{OPENING}{definitions}{CLOSING}"


def _deployments(page: str) -> list[Desired]:
    definitions = page.partition(OPENING)[2].removesuffix(CLOSING)
    return [Desired(DEPLOYMENT, name, data) for name, data in json.loads(definitions).items()]


def releases(client: SyncPrefectClient, target: str) -> list[Release]:
    """A target's releases, the current one first."""
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
    from prefect.client.schemas.sorting import ArtifactSort

    found = client.read_artifacts(
        artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[artifact_key(target)])),
        sort=ArtifactSort.CREATED_DESC,
        limit=KEPT,
    )
    return [
        Release(
            target,
            metadata["version"],
            metadata["image"] or None,
            metadata["why"],
            _deployments(str(artifact.data)),
            artifact.created,
        )
        for artifact in found
        for metadata in [artifact.metadata_ or {}]
    ]
