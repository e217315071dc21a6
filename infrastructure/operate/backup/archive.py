"""Read and write backup archives: database, manifest and checksums in one tar.gz file.

    prefect-backup-20261121T020000Z-postgres.tar.gz
        manifest.json   versions, time, row counts, location of the blocks' encryption key
        database        SQLite file, or a dump of `pg_dump --format=custom`
        SHA256SUMS      of the two

The file is written atomically, and only its owner can read it, since it contains the secrets of
every block.
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
NAME_PATTERN = re.compile(r"prefect-backup-\d{8}T\d{6}Z-(sqlite|postgres)\.tar\.gz")
PRIVATE = 0o600
CHUNK_BYTES = 1024 * 1024


@dataclass(frozen=True)
class Manifest:
    """Metadata of a backup.

    Attributes:
        made: time of the backup, ISO 8601 in UTC.
        prefect: version of Prefect.
        revision: Alembic revision of the database.
        server: version of the database server, or of SQLite.
        rows: row counts of the main tables.
        key: where the blocks' encryption key is: in this database, or in the server's environment.
        key_sha256: hash of the key, to identify it; None if there is none.
    """

    kind: Kind
    created_at: str
    prefect: str
    revision: str
    server: str
    rows: Mapping[str, int]
    key: Literal["database", "environment"]
    key_sha256: str | None


def write(folder: Path, manifest: Manifest, database: Path) -> Path:
    """Write a backup to a folder, and return the file."""
    moment = datetime.fromisoformat(manifest.created_at).astimezone(UTC)
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
            # Level 1: a Postgres dump is already compressed, and it is enough for a SQLite file.
            with tarfile.open(fileobj=out, mode="w:gz", compresslevel=1) as packed:
                _add_file(packed, MANIFEST, text)
                packed.add(database, DATABASE, filter=_reset_owner)
                _add_file(packed, SUMS, sums)
            out.flush()
            os.fsync(out.fileno())
        draft.rename(file)
    finally:
        draft.unlink(missing_ok=True)
    return file


def read(file: Path, folder: Path) -> tuple[Manifest, Path]:
    """Unpack a backup into a private folder, and verify its checksums.

    Raises:
        BackupError: there is no such file, or it is damaged, or it is not a backup.
    """
    try:
        return _unpack(file, folder)
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
            f"The backup is damaged, or not a Millrace backup: {type(error).__name__}: {error}.",
            where=str(file),
            fix="take another one, or fetch this one again from where it was copied to",
        ) from error


def _unpack(file: Path, folder: Path) -> tuple[Manifest, Path]:
    digests: dict[str, str] = {}
    with tarfile.open(file, "r:gz") as packed:
        for name in (MANIFEST, DATABASE, SUMS):
            member = packed.extractfile(name)
            if member is None:
                raise ValueError(f"{name} is not a file")
            digest = hashlib.sha256()
            with (folder / name).open("xb") as out:
                while piece := member.read(CHUNK_BYTES):
                    digest.update(piece)
                    out.write(piece)
            digests[name] = digest.hexdigest()
        # Read to the end, where gzip has its own checksum.
        while packed.next() is not None:
            pass
    lines = [line.split("  ", 1) for line in (folder / SUMS).read_text().splitlines()]
    sums = {name: digest for digest, name in lines}
    wrong = [name for name in (MANIFEST, DATABASE) if sums[name] != digests[name]]
    if wrong:
        raise ValueError(f"the checksum of {wrong[0]} is not the one it was written with")
    return Manifest(**json.loads((folder / MANIFEST).read_text())), folder / DATABASE


def prune(folder: Path, keep: int) -> list[Path]:
    """Delete the oldest backups of a folder, and keep the newest `keep`."""
    ours = sorted(
        (file for file in folder.iterdir() if NAME_PATTERN.fullmatch(file.name) and file.is_file()),
        key=lambda file: file.name,
    )
    old = ours[:-keep]
    for file in old:
        file.unlink()
    return old


def _reset_owner(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.mode, member.uid, member.gid, member.uname, member.gname = PRIVATE, 0, 0, "", ""
    return member


def _add_file(packed: tarfile.TarFile, name: str, data: bytes) -> None:
    member = _reset_owner(tarfile.TarInfo(name))
    member.size = len(data)
    packed.addfile(member, io.BytesIO(data))
