"""dbt packages (`dbt deps`): whether they match package-lock.yml, and which errors to retry."""

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
from prefect_flows.transform.monkeypatch import patched

# The files that list a project's packages.
FILES = (PACKAGES_FILE_NAME, DEPENDENCIES_FILE_NAME)
# Request timeout, too many requests.
TEMPORARY_STATUS = frozenset({408, 429})
# What a download raises that fails or breaks off.
DOWNLOAD_ERRORS = (requests.exceptions.RequestException, ReadError, EOFError, BadGzipFile)


@contextmanager
def skip_installed_packages(on_kept: Callable[[], None]) -> Iterator[None]:
    """Let `dbt deps` do nothing if the installed packages match package-lock.yml.

    dbt would remove all packages and download them again, which fails without the registry.

    Args:
        on_kept: called if the packages match.
    """
    run = DepsTask.run

    def run_if_needed(self: DepsTask) -> None:
        if are_installed(self.project):
            on_kept()
        else:
            run(self)

    with patched(DepsTask, run.__name__, run_if_needed):
        yield


def are_installed(project: Project) -> bool:
    """Return whether exactly the packages of an up-to-date package-lock.yml are installed.

    A package whose version cannot be read from its folder (a tarball, a subfolder of a git
    repository) counts as not installed.
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


def is_retryable_deps_error(error: BaseException) -> bool:
    """Return whether `dbt deps` failed because the registry or a git server is unavailable.

    git has the same exit code for an unavailable server and a repository that does not exist, so
    both are retried.
    """
    for link in exception_chain(error):
        if isinstance(link, requests.exceptions.HTTPError) and link.response is not None:
            status = link.response.status_code
            return status >= 500 or status in TEMPORARY_STATUS
        if isinstance(link, (*DOWNLOAD_ERRORS, GitCloningError, GitCheckoutError)):
            return True
    return False
