"""dbt's packages: whether they are installed as the lock says, and why they cannot be."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from gzip import BadGzipFile
from pathlib import Path
from tarfile import ReadError
from typing import Any

import requests
from dbt.clients.git import get_current_sha
from dbt.config.project import Project, load_yml_dict
from dbt.constants import (
    DBT_PROJECT_FILE_NAME,
    DEPENDENCIES_FILE_NAME,
    PACKAGE_LOCK_FILE_NAME,
    PACKAGE_LOCK_HASH_KEY,
    PACKAGES_FILE_NAME,
)
from dbt.exceptions import GitCheckoutError, GitCloningError
from dbt.task.deps import DepsTask, _create_sha1_hash
from dbt_common.exceptions import CommandError

from prefect_flows.core.failure_class import exception_chain
from prefect_flows.transform.monkeypatch import replaced

# Where a project asks for packages.
FILES = (PACKAGES_FILE_NAME, DEPENDENCIES_FILE_NAME)
# Answers of a registry that may be others later: request timeout, too many requests.
TEMPORARY_STATUS = frozenset({408, 429})
# What a download ends with that was cut off, or never began.
DOWNLOAD_ERRORS = (requests.exceptions.RequestException, ReadError, EOFError, BadGzipFile)


@contextmanager
def installed_packages_kept(on_kept: Callable[[], None]) -> Iterator[None]:
    """Let `dbt deps` install nothing where the installed packages match the lock.

    dbt removes the installed packages first, and then downloads them again, which needs the
    registry.
    """
    run = DepsTask.run

    def run_if_needed(self: DepsTask) -> None:
        if are_installed(self.project):
            on_kept()
        else:
            run(self)

    with replaced(DepsTask, run.__name__, run_if_needed):
        yield


def are_installed(project: Project) -> bool:
    """Whether the lock is that of the project's packages, and all of them are installed, no others.

    A package whose version cannot be read from its folder (a tarball, a folder of a git repository)
    counts as not installed.
    """
    root = Path(project.project_root)
    lock = load_yml_dict(str(root / PACKAGE_LOCK_FILE_NAME))  # type: ignore[no-untyped-call]
    if lock.get(PACKAGE_LOCK_HASH_KEY) != _create_sha1_hash(project.packages.packages):
        return False
    folder = root / project.packages_install_path
    entries = {str(entry.get("name")): entry for entry in lock.get("packages") or []}
    found = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    return found == set(entries) and all(
        _is_installed(folder / name, entry, root) for name, entry in entries.items()
    )


def _is_installed(folder: Path, entry: Mapping[str, Any], root: Path) -> bool:
    project_file = folder / DBT_PROJECT_FILE_NAME
    if not project_file.is_file():
        return False
    if "local" in entry:
        return bool(folder.resolve() == (root / str(entry["local"])).resolve())
    if "package" in entry:
        project = load_yml_dict(str(project_file))  # type: ignore[no-untyped-call]
        return bool(str(project.get("version")) == entry.get("version"))
    if (folder / ".git").exists():
        try:
            return bool(get_current_sha(str(folder)) == entry.get("revision"))  # type: ignore[no-untyped-call]
        except CommandError:
            return False
    return False


def may_be_installed_later(error: BaseException) -> bool:
    """Whether `dbt deps` failed for a cause that may pass: a registry or a repository is away.

    git has one exit code for a server that is away and for a repository that does not exist: both
    are tried again.
    """
    for link in exception_chain(error):
        if isinstance(link, requests.exceptions.HTTPError) and link.response is not None:
            status = link.response.status_code
            return status >= 500 or status in TEMPORARY_STATUS
        if isinstance(link, (*DOWNLOAD_ERRORS, GitCloningError, GitCheckoutError)):
            return True
    return False
