"""A backup's file: the database, what stands in it, and the checksums of both, in one archive.

    prefect-backup-20261121T020000Z-postgres.tar.gz
        manifest.json   versions, time, rows of the main tables, where the key of the blocks is
        database        SQLite's file, or a dump of `pg_dump --format=custom`
        SHA256SUMS      of the two

It appears under its name when it is whole, and only its owner reads it: whoever has it has every
secret of every block.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import tarfile
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from prefect_flows.core.errors import BackupError

Kind = Literal["sqlite", "postgres"]

MANIFEST, DATABASE, SUMS = "manifest.json", "database", "SHA256SUMS"
NAME = re.compile(r"prefect-backup-\d{8}T\d{6}Z-(sqlite|postgres)\.tar\.gz")
PRIVATE = 0o600
PIECE = 1024 * 1024


@dataclass(frozen=True)
class Manifest:
    """What stands in a backup.

    Attributes:
        made: when, ISO 8601 in UTC.
        prefect: version of Prefect that made it.
        revision: Alembic's revision of the database.
        server: version of the database server, or of SQLite.
        rows: rows of the main tables.
        key: where the key of the blocks is: in this database, or in the server's environment.
        key_sha256: of the key, so that another one is not taken for it; none where no block is
            closed.
    """

    kind: Kind
    made: str
    prefect: str
    revision: str
    server: str
    rows: Mapping[str, int]
    key: Literal["database", "environment"]
    key_sha256: str | None


def write(folder: Path, manifest: Manifest, database: Path) -> Path:
    """Pack a backup into a folder; the file that appeared there."""
    moment = datetime.fromisoformat(manifest.made).astimezone(UTC)
    file = folder / f"prefect-backup-{moment:%Y%m%dT%H%M%SZ}-{manifest.kind}.tar.gz"
    if file.exists():
        raise BackupError(
            "There is a backup of this second already.", where=str(file), fix="run this again"
        )
    text = (json.dumps(asdict(manifest), indent=2) + "\n").encode()
    with database.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    sums = f"{hashlib.sha256(text).hexdigest()}  {MANIFEST}\n{digest}  {DATABASE}\n".encode()
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        with os.fdopen(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, PRIVATE), "wb") as out:
            # Level 1: a dump is compressed already, and SQLite's file shrinks well enough.
            with tarfile.open(fileobj=out, mode="w:gz", compresslevel=1) as packed:
                _add(packed, MANIFEST, text)
                packed.add(database, DATABASE, filter=_plain)
                _add(packed, SUMS, sums)
            out.flush()
            os.fsync(out.fileno())
        draft.rename(file)
    finally:
        draft.unlink(missing_ok=True)
    return file


def read(file: Path, folder: Path) -> tuple[Manifest, Path]:
    """Unpack a backup into a private folder, and see that it is as it was written.

    Raises:
        BackupError: there is no such file, or it is damaged, or none of ours.
    """
    try:
        return _unpacked(file, folder)
    except FileNotFoundError as error:
        raise BackupError(
            "There is no such backup.", where=str(file), fix=f"ls {file.parent}"
        ) from error
    except (
        tarfile.TarError,
        zlib.error,
        OSError,
        EOFError,
        LookupError,
        TypeError,
        ValueError,
    ) as error:
        raise BackupError(
            f"The backup is damaged, or none of ours: {type(error).__name__}: {error}.",
            where=str(file),
            fix="take another one, or fetch this one again from where it was copied to",
        ) from error


def _unpacked(file: Path, folder: Path) -> tuple[Manifest, Path]:
    digests: dict[str, str] = {}
    with tarfile.open(file, "r:gz") as packed:
        for name in (MANIFEST, DATABASE, SUMS):
            member = packed.extractfile(name)
            if member is None:
                raise ValueError(f"{name} is no file")
            digest = hashlib.sha256()
            with (folder / name).open("xb") as out:
                while piece := member.read(PIECE):
                    digest.update(piece)
                    out.write(piece)
            digests[name] = digest.hexdigest()
        # To its end, where gzip keeps a checksum of its own.
        while packed.next() is not None:
            pass
    lines = [line.split("  ", 1) for line in (folder / SUMS).read_text().splitlines()]
    sums = {name: digest for digest, name in lines}
    wrong = [name for name in (MANIFEST, DATABASE) if sums[name] != digests[name]]
    if wrong:
        raise ValueError(f"the checksum of {wrong[0]} is not the one it was written with")
    return Manifest(**json.loads((folder / MANIFEST).read_text())), folder / DATABASE


def remove_beyond(folder: Path, keep: int) -> list[Path]:
    """Remove the oldest backups of a folder beyond so many; nothing else in it is touched."""
    ours = sorted(
        (file for file in folder.iterdir() if NAME.fullmatch(file.name) and file.is_file()),
        key=lambda file: file.name,
    )
    old = ours[:-keep]
    for file in old:
        file.unlink()
    return old


def _plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.mode, member.uid, member.gid, member.uname, member.gname = PRIVATE, 0, 0, "", ""
    return member


def _add(packed: tarfile.TarFile, name: str, data: bytes) -> None:
    member = _plain(tarfile.TarInfo(name))
    member.size = len(data)
    packed.addfile(member, io.BytesIO(data))
