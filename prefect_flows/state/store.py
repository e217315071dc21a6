"""The state store: files in a local folder, S3 or Google Cloud Storage (fsspec), and the lock file.

    <state_url>/index.html           overview page of all targets
    <state_url>/targets/<target>/    state for the next run, and pages
        manifest.json                dbt's manifest of the last good run
        run_results.json             results of the last run, all stages and attempts merged
        sources.json                 source freshness
        timings.json                 seconds of each node in the last runs
        catalog.json, docs.html      dbt's documentation of the last good run
        report.html                  report of the last run
        history.json                 the last runs in brief
    <state_url>/runs/<target>/<start>-<id>/
        run.json                     parameters, times, status
        journal*.jsonl               each node's result, as it came
        run_results.json, dbt.log, report.html, summary.json

Writes are atomic: in a folder, a temporary file is renamed; an object store shows only complete
objects.

An account that can write a target's folders controls its next run: which nodes run, what
`--changed` compares with, which parameters `--failed` uses. Nothing from the store is executed as
code. SECURITY.md describes what each file can affect.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import fsspec
from fsspec.implementations.local import LocalFileSystem
from pydantic import TypeAdapter

from prefect_flows.core.errors import ConfigurationError, CorruptFileError, StateStoreError
from prefect_flows.core.files import (
    FILE_MODE,
    Warn,
    corrupt_file_name,
    make_folder,
    parse_json_file,
    sync_folder,
    write_file,
)
from prefect_flows.core.project_folder import get_install_command
from prefect_flows.state.object_store_errors import object_store_errors
from prefect_flows.state.state_url import find_url_fault, get_url_fix, without_login

T = TypeVar("T")

FIX = (
    "correct `state_url` in Terraform's outputs and run setup again, or MILLRACE_STATE_URL; "
    "for gs:// and s3:// see that the credentials of this machine may write there"
)


class StateStore:
    """Files under a URL; paths are relative to it, with `/` between their parts.

    Args:
        url: a folder, `gs://bucket/folder` or `s3://bucket/folder`.
        login: arguments of the bucket's fsspec library; None for the default credentials of this
            machine.

    Raises:
        ConfigurationError: the URL is not valid, or its fsspec library is not installed.
        StateStoreError: from any method, if the store cannot be read or written.
    """

    def __init__(self, url: str, login: Mapping[str, Any] | None = None) -> None:
        if (fault := find_url_fault(url)) is not None:
            raise ConfigurationError(
                f"The state store cannot be used: {fault}.",
                where=f"state_url {without_login(url)!r}",
                fix=f"{get_url_fix(url)}; in Terraform's outputs or MILLRACE_STATE_URL",
            )
        self.url = url.rstrip("/") or "/"
        try:
            self._fs, root = fsspec.core.url_to_fs(self.url, **(login or {}))
        except (ImportError, ValueError) as error:
            raise ConfigurationError(
                f"The state store cannot be used: {error}.",
                where=f"state_url {url!r}",
                fix="write a folder or a URL of a known kind; for s3://: "
                f"{get_install_command('s3')}",
            ) from error
        self._root = str(root).rstrip("/")

    @property
    def folder(self) -> Path | None:
        """The local folder of the store; None for an object store."""
        return Path(self._root) if isinstance(self._fs, LocalFileSystem) else None

    def lock_file(self, name: str) -> Path | None:
        """Create a local lock file and return its path; None for an object store."""
        if self.folder is None:
            return None
        with self._convert_errors("locked", path := f"locks/{name}.lock"):
            file = self.folder / path
            make_folder(file.parent)
            file.touch()
        return file

    def read(self, path: str) -> bytes | None:
        """Read a file; None if it does not exist."""
        with self._convert_errors("read", path):
            try:
                return bytes(self._fs.cat_file(self._at(path)))
            except FileNotFoundError:
                return None

    def load(self, path: str, kind: TypeAdapter[T], warn: Warn | None = None) -> T | None:
        """Read and validate a JSON file that Millrace wrote; None if it does not exist.

        Args:
            path: path in the store.
            kind: the schema of the file.
            warn: if given, a corrupt file is renamed with this warning and treated as missing. Only
                a run of the target that the file belongs to may do this.

        Raises:
            CorruptFileError: the file is corrupt, and `warn` is None.
        """
        data = self.read(path)
        if data is None:
            return None
        try:
            return parse_json_file(
                data,
                kind,
                where=f"{self.url}/{path}",
                fix="run the target: its next run continues without the file",
            )
        except CorruptFileError as error:
            if warn is None:
                raise
            where = f"{self.url}/{self.quarantine(path)}"
            warn(f"{error.what} It was renamed; the run continues without it.\n  where: {where}")
            return None

    def quarantine(self, path: str) -> str:
        """Rename a corrupt file, and return its new path."""
        aside = corrupt_file_name(path)
        with self._convert_errors("written", aside):
            self._fs.mv(self._at(path), self._at(aside))
        return aside

    def write(self, path: str, data: bytes) -> None:
        """Write a file atomically."""
        with self._convert_errors("written", path):
            if self.folder is None:
                self._fs.pipe_file(self._at(path), data)
                return
            file = Path(self._at(path))
            make_folder(file.parent)
            write_file(file, data)

    def append(self, path: str, data: bytes, part: int) -> None:
        """Append to a file, with fsync.

        Object stores cannot append. There, each call writes a new object with `part` in its name,
        before the suffix.
        """
        with self._convert_errors("written", path):
            if self.folder is None:
                stem, _, suffix = path.rpartition(".")
                self._fs.pipe_file(self._at(f"{stem}-{part:06d}.{suffix}"), data)
                return
            file = Path(self._at(path))
            make_folder(file.parent)
            is_new = not file.exists()
            descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, FILE_MODE)
            with os.fdopen(descriptor, "ab") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            if is_new:
                sync_folder(file.parent)

    def names(self, path: str) -> list[str]:
        """List the names in a folder, sorted, without hidden ones; empty if there is no folder."""
        with self._convert_errors("listed", path):
            self._fs.invalidate_cache()
            try:
                found = self._fs.ls(self._at(path), detail=False)
            except FileNotFoundError:
                return []
        names = {str(name).rstrip("/").rpartition("/")[2] for name in found}
        return sorted(name for name in names if name and not name.startswith("."))

    def remove(self, path: str) -> None:
        """Remove a folder with all its files, if it exists."""
        with self._convert_errors("removed", path):
            try:
                self._fs.rm(self._at(path), recursive=True)
            except FileNotFoundError:
                return

    def fetch(self, path: str, file: Path) -> bool:
        """Download a file of the store; return whether it exists."""
        data = self.read(path)
        if data is None:
            return False
        make_folder(file.parent)
        write_file(file, data)
        return True

    def put(self, file: Path, path: str) -> None:
        """Upload a local file to the store, if the file exists."""
        if file.exists():
            self.write(path, file.read_bytes())

    def _at(self, path: str) -> str:
        return f"{self._root}/{path}"

    @contextmanager
    def _convert_errors(self, done: str, path: str) -> Iterator[None]:
        try:
            yield
        except object_store_errors() as error:
            raise StateStoreError(
                f"The state store cannot be {done}: {type(error).__name__}: {error}",
                where=f"{self.url}/{path}",
                fix=FIX,
            ) from error
