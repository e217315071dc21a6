"""Lists and opens the files of an inbox on any fsspec file system: local, S3, GCS."""

from __future__ import annotations

import os
import re
import shutil
import stat
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem
from fsspec.utils import glob_translate

from prefect_flows.core.documents import parse_json
from prefect_flows.core.errors import ConfigurationError, IngestionError
from prefect_flows.core.passwords import remove_login
from prefect_flows.sources.files__inbox.byte_streams import (
    CHUNK,
    HashingStream,
    TextStream,
    open_text,
)
from prefect_flows.state.object_store_errors import object_store_errors

# Keys of fsspec's file information; the first that a file system has is used.
_ETAG_KEYS = ("ETag", "etag", "md5Hash", "generation", "content_md5")
_MODIFIED_KEYS = ("LastModified", "mtime", "updated", "last_modified", "created")
FIX = (
    "correct the parameter `url`; for s3:// and gs:// see that this machine's credentials, or the "
    "secret `storage_options`, may list and read there"
)
_NOT_READABLE = "the user that loads the inbox may not read it; change its owner or mode"
_NOT_LISTABLE = (
    "the user that loads the inbox may not list this folder; change its owner or mode (755)"
)


@dataclass(frozen=True)
class File:
    """A listed file of the inbox.

    Attributes:
        name: path below the inbox, with `/` as separator.
        stamp: changes with the content: the store's ETag, else size and time.
        refusal: why the file is not opened; None if it is.
        is_folder: whether it is a folder that cannot be listed, and may hold files of any table.
    """

    name: str
    path: str
    size: int
    modified_at: datetime
    stamp: str
    refusal: str | None = None
    is_folder: bool = False

    @property
    def is_compressed(self) -> bool:
        """Whether the name ends in `.gz`."""
        return self.name.lower().endswith(".gz")

    @property
    def suffix(self) -> str:
        """File extension in lower case, without `.gz`."""
        name = self.name.lower().removesuffix(".gz")
        return PurePosixPath(name).suffix

    @property
    def default_table(self) -> str:
        """Name of the first folder below the inbox, else of the file up to its first dot."""
        first = PurePosixPath(self.name).parts[0]
        return first if first != self.name else first.split(".")[0]


class Inbox:
    """The files under a URL.

    Args:
        url: a folder, `s3://bucket/folder`, `gs://bucket/folder`, or any other URL of fsspec.
        storage_options: options of the file system, as JSON; secret.

    Raises:
        ConfigurationError: fsspec does not know the URL, or the options are not a JSON object.
        IngestionError: from any method, if the inbox cannot be read.
    """

    def __init__(self, url: str, storage_options: str | None = None) -> None:
        self.url = remove_login(url).rstrip("/")
        options = _parse_options(storage_options, self.url)
        try:
            self._fs, root = fsspec.core.url_to_fs(url, **options)
        except (ImportError, ValueError) as error:
            raise ConfigurationError(
                f"The inbox cannot be used: {error}.",
                where=f"parameter url {self.url!r}",
                fix="write a folder or a URL of a known kind; for s3://: uv sync --extra s3",
            ) from error
        self._root = str(root).rstrip("/")

    def list_files(self) -> list[File]:
        """List all files, sorted by name, without hidden ones and those that begin with `_`."""
        with self.translate_errors("listed"):
            self._fs.invalidate_cache()
            if not self._fs.exists(self._root) and isinstance(self._fs, LocalFileSystem):
                raise FileNotFoundError(self._root)
            found = self._fs.find(self._root, detail=True)
            files = [self._to_file(path, info) for path, info in found.items()]
            files += self._unreadable_folders()
        return sorted(
            (file for file in files if _is_visible(file.name)), key=lambda file: file.name
        )

    def _to_file(self, path: str, info: Mapping[str, Any]) -> File:
        if not isinstance(self._fs, LocalFileSystem):
            return _build_file(self._root, path, info)
        file = _build_file(self._root, path, _follow_link(path, info))
        refusal = _find_refusal(Path(path), Path(self._root))
        if refusal == _NOT_READABLE:
            # `chmod` changes neither size nor time, and afterwards the file has to be read.
            return replace(file, refusal=refusal, stamp=f"{file.stamp}-unreadable")
        return replace(file, refusal=refusal)

    def _unreadable_folders(self) -> list[File]:
        """Return the local folders that cannot be listed, which fsspec leaves out in silence."""
        if not isinstance(self._fs, LocalFileSystem):
            return []
        failed: list[str] = []
        deque(os.walk(self._root, onerror=lambda error: failed.append(error.filename)), maxlen=0)
        return [
            replace(
                _build_file(self._root, path, self._fs.info(path)),
                refusal=_NOT_LISTABLE,
                is_folder=True,
            )
            for path in failed
        ]

    def is_as_listed(self, file: File) -> bool:
        """Return whether a file is unchanged since it was listed; False if it was removed."""
        with self.translate_errors("read", file.name):
            self._fs.invalidate_cache()
            try:
                return self._to_file(file.path, self._fs.info(file.path)).stamp == file.stamp
            except FileNotFoundError:
                return False

    def open_content(self, file: File, folder: Path) -> Content:
        """Return the content of a file; `folder` holds a local copy if a reader needs one."""
        return Content(self._fs, file, folder)

    @contextmanager
    def translate_errors(self, done: str, name: str = "") -> Iterator[None]:
        """Turn errors of the store into IngestionErrors that name the file.

        They are retryable unless the file is missing or access is denied.
        """
        try:
            yield
        except object_store_errors() as error:
            missing = isinstance(error, (FileNotFoundError, NotADirectoryError, PermissionError))
            raise IngestionError(
                f"The inbox cannot be {done}: {type(error).__name__}: {error}",
                where=f"{self.url}/{name}".rstrip("/"),
                fix=FIX,
                retryable=not missing,
            ) from error


class Content:
    """Content of a file, which can be opened several times.

    Attributes:
        digest: SHA-256 of the stored file, known once it was read to its end.
    """

    def __init__(self, fs: Any, file: File, folder: Path) -> None:
        self._fs = fs
        self._file = file
        self._folder = folder
        self.digest = ""

    @contextmanager
    def open_text(self) -> Iterator[TextStream]:
        """Open the file's text, decompressed.

        Raises:
            MalformedFile: the file is empty; from reading: it is truncated, or not UTF-8.
        """
        with self._fs.open(self._file.path, "rb") as stored:
            raw = HashingStream(stored)
            with open_text(raw, compressed=self._file.is_compressed) as stream:
                yield stream
            self.digest = raw.digest()

    @contextmanager
    def open_local(self) -> Iterator[Path]:
        """Provide the file as a local file, for readers that need random access."""
        with self._fs.open(self._file.path, "rb") as stored:
            raw = HashingStream(stored)
            if isinstance(self._fs, LocalFileSystem):
                self.digest = raw.digest()
                yield Path(self._file.path)
                return
            copy = self._folder / "copy"
            try:
                with copy.open("wb") as target:
                    shutil.copyfileobj(raw, target, CHUNK)
                self.digest = raw.digest()
                yield copy
            finally:
                copy.unlink(missing_ok=True)


def _parse_options(options_json: str | None, url: str) -> dict[str, Any]:
    try:
        options = parse_json(options_json or "{}")
    except ValueError:
        options = None
    if not isinstance(options, dict):
        # Outside the `except`, since that error quotes the secret.
        raise ConfigurationError(
            "The secret `storage_options` is not a JSON object.",
            where=f"inbox {url}",
            fix='write it as in {"key": "…", "secret": "…"}',
        )
    return options


def compile_glob(glob: str) -> re.Pattern[str]:
    """Compile a glob pattern: `*` matches within a folder, `**` across folders."""
    return re.compile(glob_translate(glob))


def _build_file(root: str, path: str, info: Mapping[str, Any]) -> File:
    modified = next((info[key] for key in _MODIFIED_KEYS if info.get(key) is not None), None)
    etag = next((info[key] for key in _ETAG_KEYS if info.get(key)), None)
    size = int(info.get("size") or 0)
    at = _to_datetime(modified)
    return File(
        # A file name is bytes, and need not be UTF-8.
        name=os.fsencode(path).decode(errors="backslashreplace").removeprefix(root).lstrip("/"),
        path=path,
        size=size,
        modified_at=at,
        stamp=str(etag).strip('"') if etag else f"{size}-{at.timestamp():.6f}",
    )


def _find_refusal(path: Path, root: Path) -> str | None:
    """Return why a local file must not be read; None if it may be.

    A link could give a person who can write to the inbox access to files that only this process may
    read. Pipes, sockets and devices have no end.
    """
    try:
        mode = path.lstat().st_mode
        if stat.S_ISLNK(mode):
            real = path.resolve(strict=True)
            if not real.is_relative_to(root.resolve()):
                return "it is a link out of the inbox; put the file itself there"
            mode = real.stat().st_mode
    except (OSError, RuntimeError):
        return "it is a link that leads nowhere" if path.is_symlink() else None  # it is gone
    if stat.S_ISDIR(mode):
        return "it is a link to a folder, which is not followed; put the files themselves there"
    if not stat.S_ISREG(mode):
        return "it is not a regular file, but a pipe, a socket or a device"
    return _NOT_READABLE if _is_denied(path) else None


def _is_denied(path: Path) -> bool:
    try:
        path.open("rb").close()
    except PermissionError:
        return True
    except FileNotFoundError:
        return False
    return False


def _follow_link(path: str, info: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return size and time of a link's target; fsspec returns those of the link, or a mixture."""
    if not Path(path).is_symlink() or not Path(path).is_file():
        return info
    found = Path(path).stat()
    return {**info, "size": found.st_size, "mtime": found.st_mtime}


def _to_datetime(modified: Any) -> datetime:
    if isinstance(modified, datetime):
        return modified if modified.tzinfo else modified.replace(tzinfo=UTC)
    if isinstance(modified, str):
        return _to_datetime(datetime.fromisoformat(modified))
    return datetime.fromtimestamp(modified or 0, UTC)


def _is_visible(name: str) -> bool:
    return not any(part.startswith((".", "_")) for part in PurePosixPath(name).parts)
