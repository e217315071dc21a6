"""Byte streams of a file: SHA-256, gzip, UTF-8 check, and check of CSV quotation marks."""

from __future__ import annotations

import gzip
import hashlib
import io
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any, Protocol

import numpy as np

from prefect_flows.sources.files__inbox.file_errors import MalformedFile

CHUNK = 1 << 20
_QUOTE = ord('"')


class Readable(Protocol):
    """Object that bytes are read from."""

    def read(self, size: int = -1, /) -> bytes:
        """Read the next bytes."""
        ...


class _Stream(io.RawIOBase):
    """Base of the streams here, which only define `read`."""

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read into an existing buffer."""
        data = self.read(len(buffer)) or b""
        buffer[: len(data)] = data
        return len(data)


class HashingStream(_Stream):
    """Stream that computes the SHA-256 of what is read from it."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._hash = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        """Read the next bytes."""
        data = self._stream.read(size)
        self._hash.update(data)
        return data

    def digest(self) -> str:
        """Return the SHA-256 of the whole file, after reading the rest of it."""
        while self.read(CHUNK):
            pass
        return self._hash.hexdigest()


class TextStream(_Stream):
    """Stream of UTF-8 text without a byte order mark, which always ends with a line break.

    Attributes:
        lines: line breaks read so far.

    Raises:
        MalformedFile: from `read`, for a byte that is not UTF-8, or a zero byte, which no warehouse
            accepts.
    """

    def __init__(self, stream: Readable) -> None:
        self._stream = stream
        self._pushed_back = b""
        self._undecoded = b""
        self._last = b"\n"
        self.lines = 0
        first = self._read_checked(CHUNK)
        self.is_empty = not first
        self.unread(first.removeprefix(b"\xef\xbb\xbf"))

    def unread(self, data: bytes) -> None:
        """Push bytes back, to be read next."""
        self._pushed_back = data + self._pushed_back

    def read(self, size: int = -1) -> bytes:
        """Read the next bytes."""
        if self._pushed_back:
            size = len(self._pushed_back) if size < 0 else size
            data, self._pushed_back = self._pushed_back[:size], self._pushed_back[size:]
            return data
        data = self._read_checked(size)
        if not data and self._last != b"\n":
            self._last = b"\n"
            return b"\n"
        return data

    def _read_checked(self, size: int) -> bytes:
        try:
            data = self._stream.read(size)
        except EOFError as error:
            raise MalformedFile("its compressed data ends in the middle: it is cut off") from error
        except (gzip.BadGzipFile, zlib.error) as error:
            raise MalformedFile(f"its compressed data is damaged: {error}") from error
        if data:
            self._check(data)
            self.lines += data.count(b"\n")
            self._last = data[-1:]
        elif self._undecoded:
            raise MalformedFile("the text is not UTF-8: it ends within a character", self.lines + 1)
        return data

    def _check(self, data: bytes) -> None:
        if self._undecoded or not data.isascii():
            self._decode(self._undecoded + data)
        if (at := data.find(0)) >= 0:
            raise MalformedFile("it holds a zero byte", self._line(data, at))

    def _decode(self, data: bytes) -> None:
        try:
            data.decode()
            self._undecoded = b""
        except UnicodeDecodeError as error:
            if error.reason != "unexpected end of data":
                raise MalformedFile(
                    f"byte 0x{data[error.start]:02x} is not UTF-8 (convert the file to UTF-8)",
                    self._line(data, error.start),
                ) from error
            self._undecoded = data[error.start :]

    def _line(self, data: bytes, at: int) -> int:
        return self.lines + data.count(b"\n", 0, at) + 1


class QuoteChecker(_Stream):
    """Stream that checks the quotation marks of a CSV file, since pyarrow accepts any.

    Args:
        delimiter: character between values.
        escape: escape character; None if the file has none.

    Attributes:
        is_regular: whether each mark so far opens a value, closes one, or is doubled inside one.
        is_open: whether the text so far ends inside a value.
    """

    def __init__(self, stream: Readable, delimiter: str, escape: str | None) -> None:
        self._stream = stream
        self._escaped = re.compile(re.escape(escape.encode()) + b".", re.DOTALL) if escape else None
        self._escape = b""
        self._is_boundary = np.zeros(256, bool)
        self._is_boundary[list(f'{delimiter}\r\n"'.encode())] = True
        # The last two characters: the neighbour of the second one comes with the next chunk.
        self._last = b"\n"
        self.is_regular = True
        self.is_open = False

    def read(self, size: int = -1) -> bytes:
        """Read the next bytes."""
        data = self._stream.read(size)
        # In chunks: a position takes eight times the memory of its character.
        for start in range(0, len(data), CHUNK):
            self._check_marks(data[start : start + CHUNK])
        return data

    def _check_marks(self, data: bytes) -> None:
        if self._escaped is not None:
            data = self._escaped.sub(b"xx", self._escape + data)
            self._escape = data[-1:] if self._escaped.match(data[-1:] + b"x") else b""
            data = data.removesuffix(self._escape)
        data = self._last + data
        self._last = data[-2:]
        characters = np.frombuffer(data, np.uint8)
        marks = np.flatnonzero(characters[1:-1] == _QUOTE) + 1
        opening, closing = marks[self.is_open :: 2], marks[not self.is_open :: 2]
        outside = np.concatenate([characters[opening - 1], characters[closing + 1]])
        self.is_regular &= bool(self._is_boundary[outside].all())
        self.is_open ^= bool(len(marks) % 2)


@contextmanager
def open_text(raw: _Stream, *, compressed: bool) -> Iterator[TextStream]:
    """Open the text of a file, decompressed if it is compressed.

    Raises:
        MalformedFile: the file is empty.
    """
    if compressed:
        with gzip.GzipFile(fileobj=raw, mode="rb") as unpacked:
            stream = TextStream(unpacked)
            _refuse_empty(stream)
            yield stream
    else:
        stream = TextStream(raw)
        _refuse_empty(stream)
        yield stream


def _refuse_empty(stream: TextStream) -> None:
    if stream.is_empty:
        raise MalformedFile("the file is empty")
