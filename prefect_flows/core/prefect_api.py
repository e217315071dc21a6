"""Reads from the Prefect API: the client, a target's profile, secrets, targets, notify blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from prefect_flows.core.errors import (
    BlockMissing,
    ConfigurationError,
    PrefectUnreachable,
    after_changes,
    did_you_mean,
)
from prefect_flows.core.names import (
    LOCAL_UP_COMMAND,
    PROFILE_TYPE,
    SETUP_COMMAND,
    STATE_URL_VARIABLE,
    concurrency_limit,
    notify_block,
    profile_block,
    receiver_name,
)
from prefect_flows.core.notification_preferences import load_preferences
from prefect_flows.core.passwords import remove_login
from prefect_flows.core.profiles import Profile, profile_from_block
from prefect_flows.core.projects import OWNER_FIELD, Projects

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

T = TypeVar("T")

# The most that Prefect's API returns in one page.
PAGE_SIZE = 200
# The capability of Prefect's notification block types.
NOTIFY_CAPABILITY = "notify"


@contextmanager
def prefect_client() -> Iterator[SyncPrefectClient]:
    """Open a client of the configured Prefect API, after a health check.

    Raises:
        ConfigurationError: no API is configured. Prefect would start a temporary server, which has
            no blocks.
        PrefectUnreachable: the API does not answer, or refuses a request.
    """
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL

    url = PREFECT_API_URL.value()
    if url is None:
        raise ConfigurationError(
            "No Prefect API is configured.",
            where="PREFECT_API_URL, the Prefect profile, and prefect.toml in this folder",
            fix=f"in the project's folder: {LOCAL_UP_COMMAND}; or set PREFECT_API_URL",
        )
    with get_client(sync_client=True) as client:
        failure = client.api_healthcheck()
        if failure is not None:
            raise PrefectUnreachable(
                f"The Prefect API does not answer: {type(failure).__name__}: {failure}.",
                where=f"PREFECT_API_URL={remove_login(url)}",
                fix=f"start it ({LOCAL_UP_COMMAND}), correct PREFECT_API_URL, "
                "or run the pipeline with --no-prefect",
            ) from failure
        with api_errors(client):
            yield client


@contextmanager
def api_errors(client: SyncPrefectClient) -> Iterator[None]:
    """Turn the errors of a client into expected errors.

    Raises:
        PrefectUnreachable: the API does not answer any more, or refuses a request.
    """
    import httpx
    from prefect.exceptions import PrefectHTTPStatusError

    try:
        yield
    except PrefectHTTPStatusError as error:
        raise PrefectUnreachable(
            f"The Prefect API refuses: {error.response.status_code} "
            f"{error.response.reason_phrase} for {error.request.method} {error.request.url}.",
            where=_where(client),
            fix="401 and 403: set PREFECT_API_AUTH_STRING to the server's user:password, for "
            "Prefect Cloud PREFECT_API_KEY to a key that may read and write blocks; for the "
            "local server of this folder, unset both, and PREFECT_API_URL; "
            "404: correct PREFECT_API_URL, which ends in /api",
        ) from error
    except httpx.TransportError as error:
        raise PrefectUnreachable(
            f"The Prefect API does not answer any more: {type(error).__name__}: {error}.",
            where=_where(client),
            fix=f"start it ({LOCAL_UP_COMMAND}), and repeat the command, which does what is left",
        ) from error


def _where(client: SyncPrefectClient) -> str:
    return f"PREFECT_API_URL={remove_login(str(client.api_url))}"


@contextmanager
def api_changes(client: SyncPrefectClient) -> Iterator[None]:
    """Do the same, for requests that change something: exit code 2 would say that nothing was."""
    with after_changes(), api_errors(client):
        yield


def read_all(read: Callable[..., list[T]], **filters: Any) -> list[T]:
    """Return all pages of a list, from a method of the client that takes `limit` and `offset`."""
    found: list[T] = []
    while True:
        page = read(**filters, limit=PAGE_SIZE, offset=len(found))
        found += page
        if len(page) < PAGE_SIZE:
            return found


def read_or_none(read: Callable[..., T], *arguments: Any, **options: Any) -> T | None:
    """Return what a method of the client reads; None if the API knows no such object."""
    from prefect.exceptions import ObjectNotFound

    try:
        return read(*arguments, **options)
    except ObjectNotFound:
        return None


def load_profile(
    client: SyncPrefectClient, target: str, projects: Projects | None = None
) -> Profile:
    """Load the profile of a target from its blocks, including secrets.

    Args:
        client: client of the Prefect API.
        target: name of the target.
        projects: projects of this clone, which then refuses the targets of others.

    Raises:
        BlockMissing: setup has not been run for this target; the message lists existing targets.
        ConfigurationError: the block is not valid, or another project made the target.
    """
    from prefect.exceptions import ObjectNotFound

    name = profile_block(target)
    fix = f"{SETUP_COMMAND} --target {target}"
    try:
        document = client.read_block_document_by_name(name, PROFILE_TYPE, include_secrets=True)
    except ObjectNotFound as error:
        raise _block_missing(client, target) from error
    mark = document.data.get(OWNER_FIELD)
    if projects is not None and projects.belongs_to_another(mark):
        raise ConfigurationError(
            f"Another project ({mark}) made the target {target!r}, and this folder has the code of "
            f"{projects.ids[0]}.",
            where=f"block {name} at {client.api_url}; {projects.file}",
            fix="start the run in a clone of that project, and give the workers of each project a "
            "work pool of their own (documentation/several_teams.md); if this clone belongs to "
            f"that project: MILLRACE_PROJECT={mark} in .env",
        )
    try:
        return profile_from_block(document.data)
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigurationError(
            f"Block {name!r} is not valid: {type(error).__name__}: {error}.",
            where=f"the Prefect API at {client.api_url}",
            fix=fix,
        ) from error


def require_target(client: SyncPrefectClient, target: str) -> None:
    """Check that setup has been run for a target, before a flow run is created.

    A target with a concurrency limit but no block passes: the run fails and notifies the owners.

    Raises:
        BlockMissing: setup has not been run for this target; the message lists existing targets.
    """
    from prefect.exceptions import ObjectNotFound

    try:
        client.read_global_concurrency_limit_by_name(concurrency_limit(target))
    except ObjectNotFound as error:
        if target not in list_targets(client):
            raise _block_missing(client, target) from error


def _block_missing(client: SyncPrefectClient, target: str) -> BlockMissing:
    existing = list_targets(client)
    known = f"targets that exist: {', '.join(existing)}" if existing else "no target exists yet"
    similar = did_you_mean(target, existing)
    setup = f"{SETUP_COMMAND} --target {target}"
    return BlockMissing(
        f"Block {profile_block(target)!r} does not exist: setup has not been run for target "
        f"{target!r} ({known}).{similar}",
        where=f"the Prefect API at {client.api_url}",
        fix=f"correct the name of the target; or, if it is right: {setup}" if similar else setup,
    )


def read_secret(client: SyncPrefectClient, name: str) -> Any | None:
    """Return the value of a `Secret` block; None if there is no such block."""
    document = read_or_none(
        client.read_block_document_by_name, name, "secret", include_secrets=True
    )
    if document is None:
        return None
    return document.data["value"]


def read_state_url(client: SyncPrefectClient) -> str | None:
    """Return the state store's URL from Terraform's outputs; None if they have none."""
    variable = client.read_variable_by_name(STATE_URL_VARIABLE)
    return None if variable is None else str(variable.value)


def list_targets(client: SyncPrefectClient) -> list[str]:
    """Return the names of the targets that have a `DbtCliProfile` block, sorted."""
    prefix = profile_block("")
    # None if setup has never been run, and so has not registered the block type.
    documents = read_or_none(client.read_block_documents_by_type, PROFILE_TYPE) or []
    return sorted(
        # The name of a block has no underscores.
        document.data.get("target") or document.name.removeprefix(prefix)
        for document in documents
        if document.name is not None and document.name.startswith(prefix)
    )


def list_notification_blocks(client: SyncPrefectClient, target: str) -> list[dict[str, Any]]:
    """Return the documents of a target's notification blocks, of all block types, sorted."""
    alone = notify_block(target)
    found = client.request(
        "POST",
        "/block_documents/filter",
        json={"block_documents": {"name": {"like_": alone}}, "include_secrets": False},
    )
    return sorted(
        (
            document
            for document in found.json()
            if (document["name"] == alone or document["name"].startswith(notify_block(target, "")))
            and NOTIFY_CAPABILITY in document["block_schema"]["capabilities"]
        ),
        key=lambda document: (document["name"], document["block_type"]["slug"]),
    )


def list_default_blocks(client: SyncPrefectClient, target: str) -> list[dict[str, Any]]:
    """Return the notification blocks of a target whose receivers get everything.

    Raises:
        ConfigurationError: the notification preferences of the target are not valid.
    """
    routes = load_preferences(client, target).routes
    blocks = list_notification_blocks(client, target)
    return [block for block in blocks if receiver_name(block["name"]) not in routes]


def block_address(document: Mapping[str, Any]) -> str:
    """Return the slug by which Prefect loads a block: `<type>/<name>`."""
    return f"{document['block_type']['slug']}/{document['name']}"
