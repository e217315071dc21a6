"""The inbox: its files, by any file system that fsspec knows, and the content of one of them."""

from __future__ import annotations

import os
import re
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import fsspec
from fsspec.implementations.local import LocalFileSystem
from fsspec.utils import glob_translate

from prefect_flows.core.documents import parse_json
from prefect_flows.core.errors import ConfigurationError, IngestionError
from prefect_flows.sources.files__inbox.byte_streams import CHUNK, Hashed, Text, text
from prefect_flows.state.object_store_errors import errors_of_stores

# What an object store says of an object's content; the first that it gives.
_ETAGS = ("ETag", "etag", "md5Hash", "generation", "content_md5")
_TIMES = ("LastModified", "mtime", "updated", "last_modified", "created")
FIX = (
    "correct the parameter `url`; for s3:// and gs:// see that this machine's credentials, or the "
    "secret `storage_options`, may list and read there"
)


@dataclass(frozen=True)
class File:
    """A file of the inbox as it was listed.

    Attributes:
        name: path below the inbox, with `/` between its parts.
        stamp: changes when the content does: the store's own tag, else size and time.
        refusal: why it is not even opened; none where it is.
    """

    name: str
    path: str
    size: int
    modified_at: datetime
    stamp: str
    refusal: str | None = None

    @property
    def is_compressed(self) -> bool:
        """Whether its name says so."""
        return self.name.lower().endswith(".gz")

    @property
    def suffix(self) -> str:
        """The ending that says what the file is, in lower case, without `.gz`."""
        name = self.name.lower().removesuffix(".gz")
        return PurePosixPath(name).suffix

    @property
    def default_table(self) -> str:
        """The first folder below the inbox, else the file's name before its first dot."""
        first = PurePosixPath(self.name).parts[0]
        return first if first != self.name else first.split(".")[0]


class Inbox:
    """The files under a URL.

    Args:
        url: a folder, `s3://bucket/folder`, `gs://bucket/folder`, or any other URL of fsspec.
        storage_options: of the file system, as JSON; secret.

    Raises:
        ConfigurationError: the URL is of no known kind, or the options are no JSON object.
        IngestionError: from any method, when the inbox cannot be read.
    """

    def __init__(self, url: str, storage_options: str | None = None) -> None:
        self.url = _without_password(url)
        options = _options(storage_options, self.url)
        try:
            self._fs, root = fsspec.core.url_to_fs(url, **options)
        except (ImportError, ValueError) as error:
            raise ConfigurationError(
                f"The inbox cannot be used: {error}.",
                where=f"parameter url {self.url!r}",
                fix="write a folder or a URL of a known kind; for s3://: uv sync --extra s3",
            ) from error
        self._root = str(root).rstrip("/")

    def files(self) -> list[File]:
        """All files, sorted by name; hidden ones and those that begin with `_` left out."""
        with self.said("listed"):
            self._fs.invalidate_cache()
            if not self._fs.exists(self._root) and isinstance(self._fs, LocalFileSystem):
                raise FileNotFoundError(self._root)
            found = self._fs.find(self._root, detail=True)
            files = [self._listed(path, info) for path, info in found.items()]
        return sorted(
            (file for file in files if _is_visible(file.name)), key=lambda file: file.name
        )

    def _listed(self, path: str, info: Mapping[str, Any]) -> File:
        if not isinstance(self._fs, LocalFileSystem):
            return _file(self._root, path, info)
        file = _file(self._root, path, _followed(path, info))
        return replace(file, refusal=_refusal(Path(path), Path(self._root)))

    def is_as_listed(self, file: File) -> bool:
        """Whether a file is still the one that was listed; not where it was changed or removed."""
        with self.said("read", file.name):
            self._fs.invalidate_cache()
            try:
                return self._listed(file.path, self._fs.info(file.path)).stamp == file.stamp
            except FileNotFoundError:
                return False

    def content(self, file: File, folder: Path) -> Content:
        """What is in a file; `folder` takes a copy where a reader needs one."""
        return Content(self._fs, file, folder)

    @contextmanager
    def said(self, done: str, name: str = "") -> Iterator[None]:
        """Say which file cannot be read; a connection may be there again later."""
        try:
            yield
        except errors_of_stores() as error:
            missing = isinstance(error, (FileNotFoundError, NotADirectoryError, PermissionError))
            raise IngestionError(
                f"The inbox cannot be {done}: {type(error).__name__}: {error}",
                where=f"{self.url}/{name}".rstrip("/"),
                fix=FIX,
                retryable=not missing,
            ) from error


class Content:
    """What is in a file. It is opened again where it has to be looked through again.

    Attributes:
        digest: SHA-256 of the file as it is stored, known when it was read to its end.
    """

    def __init__(self, fs: Any, file: File, folder: Path) -> None:
        self._fs = fs
        self._file = file
        self._folder = folder
        self.digest = ""

    @contextmanager
    def text(self) -> Iterator[Text]:
        """The file's text, unpacked.

        Raises:
            Malformed: the file is empty; from reading: it is cut off, or no UTF-8.
        """
        with self._fs.open(self._file.path, "rb") as stored:
            raw = Hashed(stored)
            with text(raw, compressed=self._file.is_compressed) as stream:
                yield stream
            self.digest = raw.digest()

    @contextmanager
    def on_this_machine(self) -> Iterator[Path]:
        """The file as a file of this machine, for readers that jump to and fro."""
        with self._fs.open(self._file.path, "rb") as stored:
            raw = Hashed(stored)
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


def _options(given: str | None, url: str) -> dict[str, Any]:
    try:
        options = parse_json(given or "{}")
    except ValueError:
        options = None
    if not isinstance(options, dict):
        # After the `except`, since its error quotes the secret.
        raise ConfigurationError(
            "The secret `storage_options` is no JSON object.",
            where=f"inbox {url}",
            fix='write it as in {"key": "…", "secret": "…"}',
        )
    return options


def pattern(glob: str) -> re.Pattern[str]:
    """The names that a glob pattern means: `*` within a folder, `**` over folders."""
    return re.compile(glob_translate(glob))


def _file(root: str, path: str, info: Mapping[str, Any]) -> File:
    modified = next((info[key] for key in _TIMES if info.get(key) is not None), None)
    etag = next((info[key] for key in _ETAGS if info.get(key)), None)
    size = int(info.get("size") or 0)
    at = _time(modified)
    return File(
        # A name is bytes, and need not be UTF-8.
        name=os.fsencode(path).decode(errors="backslashreplace").removeprefix(root).lstrip("/"),
        path=path,
        size=size,
        modified_at=at,
        stamp=str(etag).strip('"') if etag else f"{size}-{at.timestamp():.6f}",
    )


def _refusal(path: Path, root: Path) -> str | None:
    """Why a file of this machine is not read.

    A person who can put a link into the inbox may not have the right to read what it leads to, and
    this process may have it. Pipes, sockets and devices have no end.
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
    return None if stat.S_ISREG(mode) else "it is no file: a pipe, a socket or a device"


def _followed(path: str, info: Mapping[str, Any]) -> Mapping[str, Any]:
    """Size and time of what a link leads to; fsspec gives its own, or one of each."""
    if not Path(path).is_symlink() or not Path(path).is_file():
        return info
    found = Path(path).stat()
    return {**info, "size": found.st_size, "mtime": found.st_mtime}


def _time(modified: Any) -> datetime:
    if isinstance(modified, datetime):
        return modified if modified.tzinfo else modified.replace(tzinfo=UTC)
    if isinstance(modified, str):
        return _time(datetime.fromisoformat(modified))
    return datetime.fromtimestamp(modified or 0, UTC)


def _is_visible(name: str) -> bool:
    return not any(part.startswith((".", "_")) for part in PurePosixPath(name).parts)


def _without_password(url: str) -> str:
    """A URL to be shown: whoever wrote a password into it gets it back as nothing."""
    parts = urlsplit(url)
    if "@" not in parts.netloc:
        return url.rstrip("/")
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl().rstrip("/")
