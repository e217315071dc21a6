"""The bytes of a file on their way: hashed as they are stored, unpacked, and seen to be text."""

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

from prefect_flows.sources.files__inbox.file_errors import Malformed

CHUNK = 1 << 20
_MARK = ord('"')


class Readable(Protocol):
    """What bytes are read from."""

    def read(self, size: int = -1, /) -> bytes:
        """The next bytes."""
        ...


class _Stream(io.RawIOBase):
    """What a stream needs to be one, beside `read`."""

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read into memory that is there."""
        data = self.read(len(buffer)) or b""
        buffer[: len(data)] = data
        return len(data)


class Hashed(_Stream):
    """A stream that knows the SHA-256 of what was read from it."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._hash = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        """The next bytes."""
        data = self._stream.read(size)
        self._hash.update(data)
        return data

    def digest(self) -> str:
        """The SHA-256 of the whole file; what nobody read of it is read now."""
        while self.read(CHUNK):
            pass
        return self._hash.hexdigest()


class Text(_Stream):
    """A stream of UTF-8, without a byte order mark, which always ends in a line's end.

    Attributes:
        lines: ends of lines read so far.

    Raises:
        Malformed: from `read`, where a byte is no UTF-8 or is zero, which no warehouse keeps.
    """

    def __init__(self, stream: Readable) -> None:
        self._stream = stream
        self._pushed = b""
        self._undecoded = b""
        self._last = b"\n"
        self.lines = 0
        first = self._next(CHUNK)
        self.is_empty = not first
        self.give_back(first.removeprefix(b"\xef\xbb\xbf"))

    def give_back(self, data: bytes) -> None:
        """Have these bytes read next."""
        self._pushed = data + self._pushed

    def read(self, size: int = -1) -> bytes:
        """The next bytes."""
        if self._pushed:
            size = len(self._pushed) if size < 0 else size
            data, self._pushed = self._pushed[:size], self._pushed[size:]
            return data
        data = self._next(size)
        if not data and self._last != b"\n":
            self._last = b"\n"
            return b"\n"
        return data

    def _next(self, size: int) -> bytes:
        try:
            data = self._stream.read(size)
        except EOFError as error:
            raise Malformed("its compressed data ends in the middle: it is cut off") from error
        except (gzip.BadGzipFile, zlib.error) as error:
            raise Malformed(f"its compressed data is damaged: {error}") from error
        if data:
            self._check(data)
            self.lines += data.count(b"\n")
            self._last = data[-1:]
        elif self._undecoded:
            raise Malformed("the text is no UTF-8: it ends within a character", self.lines + 1)
        return data

    def _check(self, data: bytes) -> None:
        if self._undecoded or not data.isascii():
            self._decode(self._undecoded + data)
        if (at := data.find(0)) >= 0:
            raise Malformed("it holds a zero byte", self._line(data, at))

    def _decode(self, data: bytes) -> None:
        try:
            data.decode()
            self._undecoded = b""
        except UnicodeDecodeError as error:
            if error.reason != "unexpected end of data":
                raise Malformed(
                    f"byte 0x{data[error.start]:02x} is no UTF-8 (convert the file to UTF-8)",
                    self._line(data, error.start),
                ) from error
            self._undecoded = data[error.start :]

    def _line(self, data: bytes, at: int) -> int:
        return self.lines + data.count(b"\n", 0, at) + 1


class Quoted(_Stream):
    """The text of a CSV on its way, its quotation marks looked at: pyarrow takes any.

    Args:
        delimiter: between values.
        escape: makes the character after it an ordinary one; none where nothing does.

    Attributes:
        is_regular: of what was read, each mark opens a value, closes one, or is doubled inside one.
        is_open: what was read ends inside a value.
    """

    def __init__(self, stream: Readable, delimiter: str, escape: str | None) -> None:
        self._stream = stream
        self._escaped = re.compile(re.escape(escape.encode()) + b".", re.DOTALL) if escape else None
        self._escape = b""
        self._is_around = np.zeros(256, bool)
        self._is_around[list(f'{delimiter}\r\n"'.encode())] = True
        # The last two characters; the second one's neighbour comes with the next ones.
        self._last = b"\n"
        self.is_regular = True
        self.is_open = False

    def read(self, size: int = -1) -> bytes:
        """The next bytes."""
        data = self._stream.read(size)
        # In pieces: a position takes eight times the memory of its character.
        for start in range(0, len(data), CHUNK):
            self._look_at(data[start : start + CHUNK])
        return data

    def _look_at(self, data: bytes) -> None:
        if self._escaped is not None:
            data = self._escaped.sub(b"xx", self._escape + data)
            self._escape = data[-1:] if self._escaped.match(data[-1:] + b"x") else b""
            data = data.removesuffix(self._escape)
        data = self._last + data
        self._last = data[-2:]
        characters = np.frombuffer(data, np.uint8)
        marks = np.flatnonzero(characters[1:-1] == _MARK) + 1
        opening, closing = marks[self.is_open :: 2], marks[not self.is_open :: 2]
        outside = np.concatenate([characters[opening - 1], characters[closing + 1]])
        self.is_regular &= bool(self._is_around[outside].all())
        self.is_open ^= bool(len(marks) % 2)


@contextmanager
def text(raw: _Stream, *, compressed: bool) -> Iterator[Text]:
    """The text of a file, unpacked where it is compressed.

    Raises:
        Malformed: the file is empty.
    """
    if compressed:
        with gzip.GzipFile(fileobj=raw, mode="rb") as unpacked:
            stream = Text(unpacked)
            _refuse_empty(stream)
            yield stream
    else:
        stream = Text(raw)
        _refuse_empty(stream)
        yield stream


def _refuse_empty(stream: Text) -> None:
    if stream.is_empty:
        raise Malformed("the file is empty")
