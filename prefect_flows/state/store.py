"""The state store: files under one URL of any file system that fsspec knows.

    <state_url>/index.html           the page over all targets
    <state_url>/targets/<target>/    what the next run starts from, and what people look at
        manifest.json                the project at the last good run
        run_results.json             results of the last run, all stages and attempts merged
        sources.json                 freshness of the sources
        timings.json                 seconds of each node in the last runs
        catalog.json, docs.html      dbt's documentation of the last good run
        report.html                  the report of the last run
        history.json                 the last runs in short
    <state_url>/runs/<target>/<start>-<id>/
        run.json                     parameters, times, and how it ended
        journal*.jsonl               each node's result, as it came
        run_results.json, dbt.log, report.html, summary.json

A reader sees a file as it was or as it is, never in between: a folder gets each file under another
name first and renames it, an object store shows an object when it is whole.

Who may write the folders of a target decides what its next run does: which nodes run, what is
compared, with which parameters `--failed` runs. Nothing that is read from the store is run as code;
SECURITY.md has what each file can do.
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

from prefect_flows.core.errors import ConfigurationError, DamagedFile, StateStoreError
from prefect_flows.core.files import (
    FILE_MODE,
    Warn,
    aside_name,
    make_folder,
    sync_folder,
    validated,
    write_file,
)
from prefect_flows.state.object_store_errors import errors_of_stores
from prefect_flows.state.state_url import fix_of_url, url_fault, without_login

T = TypeVar("T")

FIX = (
    "correct `state_url` in Terraform's outputs and run setup again, or MILLRACE_STATE_URL; "
    "for gs:// and s3:// see that the credentials of this machine may write there"
)


class StateStore:
    """Files under a URL; paths are relative to it, with `/` between their parts.

    Args:
        url: a folder, `gs://bucket/folder` or `s3://bucket/folder`.
        login: of a bucket, as its library of fsspec takes it; none for the machine's own.

    Raises:
        ConfigurationError: the URL is of no known kind, or the library for it is not installed.
        StateStoreError: from any method, when the store cannot be read or written.
    """

    def __init__(self, url: str, login: Mapping[str, Any] | None = None) -> None:
        if (fault := url_fault(url)) is not None:
            raise ConfigurationError(
                f"The state store cannot be used: {fault}.",
                where=f"state_url {without_login(url)!r}",
                fix=f"{fix_of_url(url)}; in Terraform's outputs or MILLRACE_STATE_URL",
            )
        self.url = url.rstrip("/") or "/"
        try:
            self._fs, root = fsspec.core.url_to_fs(self.url, **(login or {}))
        except (ImportError, ValueError) as error:
            raise ConfigurationError(
                f"The state store cannot be used: {error}.",
                where=f"state_url {url!r}",
                fix="write a folder or a URL of a known kind; for s3://: uv sync --extra s3",
            ) from error
        self._root = str(root).rstrip("/")

    @property
    def folder(self) -> Path | None:
        """The folder of this machine that holds the store; none for an object store."""
        return Path(self._root) if isinstance(self._fs, LocalFileSystem) else None

    def lock_file(self, name: str) -> Path | None:
        """A file of this machine to hold while a run has the store; none for an object store."""
        if self.folder is None:
            return None
        with self._said("locked", path := f"locks/{name}.lock"):
            file = self.folder / path
            make_folder(file.parent)
            file.touch()
        return file

    def read(self, path: str) -> bytes | None:
        """The content of a file; none when there is no such file."""
        with self._said("read", path):
            try:
                return bytes(self._fs.cat_file(self._at(path)))
            except FileNotFoundError:
                return None

    def load(self, path: str, kind: TypeAdapter[T], warn: Warn | None = None) -> T | None:
        """The content of a JSON file of ours; none when there is no such file.

        Every file that a run or a page reads comes through here.

        Args:
            warn: a damaged file is set aside with this warning, and counts as none: for a run of
                the target that the file belongs to, where nothing is lost without it.

        Raises:
            DamagedFile: it does not hold what it should, and `warn` is none.
        """
        data = self.read(path)
        if data is None:
            return None
        try:
            return validated(
                data,
                kind,
                where=f"{self.url}/{path}",
                fix="run the target: its next run goes on without the file",
            )
        except DamagedFile as error:
            if warn is None:
                raise
            where = f"{self.url}/{self.set_aside(path)}"
            warn(f"{error.what} It is set aside, and the run goes on without it.\n  where: {where}")
            return None

    def set_aside(self, path: str) -> str:
        """Rename a damaged file; its new path."""
        aside = aside_name(path)
        with self._said("written", aside):
            self._fs.mv(self._at(path), self._at(aside))
        return aside

    def write(self, path: str, data: bytes) -> None:
        """Write a file whole."""
        with self._said("written", path):
            if self.folder is None:
                self._fs.pipe_file(self._at(path), data)
                return
            file = Path(self._at(path))
            make_folder(file.parent)
            write_file(file, data)

    def append(self, path: str, data: bytes, part: int) -> None:
        """Add to a file that grows, and see that it outlives this machine's power.

        An object store has no appending: there each addition is an object of its own, `part` in
        its name before the suffix.
        """
        with self._said("written", path):
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
        """Names of the files and folders in a folder, sorted; none when there is no such folder."""
        with self._said("listed", path):
            self._fs.invalidate_cache()
            try:
                found = self._fs.ls(self._at(path), detail=False)
            except FileNotFoundError:
                return []
        names = {str(name).rstrip("/").rpartition("/")[2] for name in found}
        return sorted(name for name in names if name and not name.startswith("."))

    def remove(self, path: str) -> None:
        """Remove a folder and all in it."""
        with self._said("removed", path):
            try:
                self._fs.rm(self._at(path), recursive=True)
            except FileNotFoundError:
                return

    def fetch(self, path: str, file: Path) -> bool:
        """Copy a file of the store to this machine; whether there is one."""
        data = self.read(path)
        if data is None:
            return False
        make_folder(file.parent)
        write_file(file, data)
        return True

    def put(self, file: Path, path: str) -> None:
        """Copy a file of this machine into the store, where it exists."""
        if file.exists():
            self.write(path, file.read_bytes())

    def _at(self, path: str) -> str:
        return f"{self._root}/{path}"

    @contextmanager
    def _said(self, done: str, path: str) -> Iterator[None]:
        try:
            yield
        except errors_of_stores() as error:
            raise StateStoreError(
                f"The state store cannot be {done}: {type(error).__name__}: {error}",
                where=f"{self.url}/{path}",
                fix=FIX,
            ) from error
