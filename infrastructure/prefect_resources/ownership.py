"""Determine which project owns a target, by a marker in its profile block (decision 13).

A clone stores the ids of its projects in `.local/projects`, its own first. If it finds a target at
the same place, it joins the project of that target. `MILLRACE_PROJECT` sets the project where no
local file lasts.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from infrastructure.local.files import make_writable_folder, write_local
from infrastructure.prefect_resources.reconcile.plan import Action, Step
from infrastructure.prefect_resources.reconcile.resources import Desired
from prefect_flows.core import names
from prefect_flows.core.errors import ConfigurationError
from prefect_flows.core.names import SETUP_COMMAND
from prefect_flows.core.prefect_api import read_or_none, read_state_url
from prefect_flows.core.profiles import Profile, profile_from_block
from prefect_flows.core.projects import OWNER_FIELD, Projects, read_project_ids
from prefect_flows.state.state_url import without_login

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

# Profile fields that identify where a target's tables are.
LOCATION_FIELDS = ("type", "host", "port", "dbname", "project", "schema")


def save_projects(projects: Projects, ids: Iterable[str]) -> None:
    """Add ids to the clone's file, unless a setting names the project."""
    if projects.is_from_setting:
        return
    existing = read_project_ids(projects.file)
    new = [each for each in ids if each not in existing]
    if new:
        make_writable_folder(projects.file.parent)
        write_local(projects.file, "\n".join([*existing, *new]) + "\n")


def read_owners(client: SyncPrefectClient) -> dict[str, str | None]:
    """Return existing targets with the project that owns each; None without a marker."""
    prefix = names.profile_block("")
    # None if setup has never been run.
    blocks = read_or_none(client.read_block_documents_by_type, names.PROFILE_TYPE) or []
    return {
        block.data.get("target") or str(block.name).removeprefix(prefix): block.data.get(
            OWNER_FIELD
        )
        for block in blocks
        if str(block.name).startswith(prefix)
    }


@dataclass(frozen=True)
class Ownership:
    """What setup may write.

    Attributes:
        blocks: desired blocks; each profile has its marker.
        others: targets that other projects own.
        projects: ids for the clone to store.
    """

    blocks: list[Desired]
    others: frozenset[str]
    projects: Sequence[str]


def claim(
    client: SyncPrefectClient,
    projects: Projects,
    blocks: Iterable[Desired],
    profiles: Iterable[Profile],
    *,
    take_over: bool,
) -> Ownership:
    """Mark the profiles as this project's.

    Args:
        client: client of the Prefect API.
        projects: projects of this clone.
        blocks: desired blocks.
        profiles: profiles of the targets.
        take_over: also claim targets of other projects.

    Raises:
        ConfigurationError: another project owns a target of this name at another place, or its
            targets share the state store's URL that would change.
    """
    profiles, blocks, stored = list(profiles), list(blocks), read_owners(client)
    known = list(projects.ids)
    for profile in profiles:
        mark = stored.get(profile.target)
        if mark is None or mark in known or take_over:
            continue
        place = _get_block_place(client, profile.target)
        if place != _get_place(profile.output):
            raise _owned_by_other_error(profile, mark, place, client)
        known.append(mark)
    # A clone that joins a project does not get an id of its own.
    known = known or [str(uuid.uuid4())]
    marked = {
        names.profile_block(profile.target): mark if mark in known else known[0]
        for profile in profiles
        for mark in [stored.get(profile.target)]
    }
    others = {target for target, mark in stored.items() if mark is not None and mark not in known}
    others -= {profile.target for profile in profiles}
    if others and not take_over:
        _refuse_other_store(client, blocks, others)
        _refuse_other_login(client, blocks, others)
    return Ownership(
        [
            replace(block, data=dict(block.data) | {OWNER_FIELD: marked[block.name]})
            if block.name in marked
            else block
            for block in blocks
        ],
        frozenset(others),
        known,
    )


def without_others(steps: Iterable[Step], others: Iterable[str]) -> list[Step]:
    """Remove steps that would orphan what other projects still need."""
    others = list(others)
    needed = {
        name
        for target in others
        for name in (
            names.profile_block(target),
            names.target_configs_block("postgres", target),
            names.target_configs_block("bigquery", target),
            names.postgres_credentials_block(target),
            names.gcp_credentials_block(target),
            names.gcp_credentials_block(),
            names.concurrency_limit(target),
            names.notification_variable(target),
            names.STATE_URL_VARIABLE,
        )
    }
    notify_prefixes = tuple(names.notify_block(target, "") for target in others)
    return [
        step
        for step in steps
        if step.action is not Action.ORPHANED
        or not (step.name in needed or step.name.startswith(notify_prefixes))
    ]


def _refuse_other_login(
    client: SyncPrefectClient, blocks: Iterable[Desired], others: Iterable[str]
) -> None:
    """Raise an error if the Google login that targets of other projects share would change."""
    shared = names.gcp_credentials_block()
    for block in blocks:
        if block.name != shared:
            continue
        stored = read_or_none(
            partial(client.read_block_document_by_name, include_secrets=True), shared, block.kind
        )
        if stored is not None and any(stored.data.get(k) != v for k, v in block.data.items()):
            raise ConfigurationError(
                f"Targets of another project ({', '.join(sorted(others))}) use the block "
                f"{shared!r}, and setup would replace its login with this project's.",
                where=f"block {shared} at {client.api_url}",
                fix="use a Prefect server of your own; or give two of your BigQuery targets "
                "different keys in Terraform, so that each target has a block of its own",
            )


def _get_place(output: Mapping[str, Any]) -> dict[str, Any]:
    return {key: output[key] for key in LOCATION_FIELDS if key in output}


def _get_block_place(client: SyncPrefectClient, target: str) -> dict[str, Any] | None:
    """Return the place of the stored target; None if setup did not write its blocks."""
    document = client.read_block_document_by_name(
        names.profile_block(target), names.PROFILE_TYPE, include_secrets=True
    )
    try:
        return _get_place(profile_from_block(document.data).output)
    except (KeyError, TypeError, ValueError):
        return None


def _owned_by_other_error(
    profile: Profile, mark: str, place: Mapping[str, Any] | None, client: SyncPrefectClient
) -> ConfigurationError:
    location = ", ".join(f"{key} {value}" for key, value in (place or {}).items()) or "not readable"
    return ConfigurationError(
        f"Another project ({mark}) made the target {profile.target!r} ({location}). Its runs would "
        f"write to this project's warehouse ({profile.address}).",
        where=f"block {names.profile_block(profile.target)} at {client.api_url}",
        fix="give the target another name in Terraform, or use a Prefect server of your own; if "
        f"this clone belongs to that project: MILLRACE_PROJECT={mark} in .env; to take the target "
        f"over all the same: {SETUP_COMMAND} --target {profile.target} --take-over",
    )


def _refuse_other_store(
    client: SyncPrefectClient, blocks: Iterable[Desired], others: Iterable[str]
) -> None:
    """Raise an error if the state store's URL would change for targets of other projects."""
    before = read_state_url(client)
    shown = without_login(before or "")
    for block in blocks:
        if block.name == names.STATE_URL_VARIABLE and before not in (None, block.data["value"]):
            raise ConfigurationError(
                f"Targets of another project ({', '.join(sorted(others))}) keep their state in "
                f"{shown}, and setup would change that to {block.data['value']}.",
                where=f"variable {names.STATE_URL_VARIABLE} at {client.api_url}",
                fix="give Terraform the same state_url, set MILLRACE_STATE_URL for this project's "
                "runs instead, or use a Prefect server of your own",
            )
