"""Folder of a target on a host: releases, deliveries, backups and the lock.

millrace/
  .env .local/secrets/      yours
  compose                   `docker compose` of the running release: ./compose ps
  current.json              the last release whose health check passed
  releases/<id>/            compose.yaml, release.json, release.env
  deliveries/<id>/          log, record.json
  draining.json             workers that were asked to stop, and wait for their runs
  backups/                  dumps of Prefect's database from before migrations
  lock                      held while a delivery, or a command that it started, runs
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from infrastructure.delivery.on_host.errors import DeliveryBusy, DeliveryRefused

MAX_RELEASES, MAX_DELIVERIES, MAX_BACKUPS = 5, 50, 5
UNDER_WAY = "under way"
COMPOSE = """\
#!/bin/sh
# `docker compose` of the release that runs here. Made by each delivery.
cd "$(dirname "$0")" || exit 2
exec docker compose --project-directory . --env-file .env --env-file releases/{id}/release.env \\
    --file releases/{id}/compose.yaml "$@"
"""


@dataclass(frozen=True)
class Release:
    """An image, and the compose.yaml of its commit.

    Attributes:
        id: name of its folder.
        image: reference with digest.
        version: version of image and deployments, which names the commit.
        head: Alembic revision to which the image migrates Prefect's database.
    """

    id: str
    image: str
    version: str
    head: str


class Folder:
    """Files of a target on its host, which only their owner can read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.secrets = path / ".local" / "secrets"
        self.backups = path / "backups"

    def get_release_folder(self, name: str) -> Path:
        """Return the folder of a release."""
        return self.path / "releases" / name

    def get_delivery_folder(self, name: str) -> Path:
        """Return the folder of a delivery."""
        return self.path / "deliveries" / name

    def lock(self, delivery: str) -> int:
        """Lock the folder for this process and its child processes; return the file descriptor.

        Raises:
            Busy: another process holds the lock.
        """
        descriptor = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 200).decode().strip() or "unknown"
            os.close(descriptor)
            raise DeliveryBusy(
                f"Another delivery is in progress here, or a command that it left: {holder}.",
                where=f"{self.path}/lock",
                fix=f"wait for it; it writes {self.get_delivery_folder(holder)}/log",
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, delivery.encode(), 0)
        return descriptor

    def add_release(self, release: Release, compose: str, environment: dict[str, str]) -> None:
        """Store a release, so that a later rollback can return to it."""
        folder = self.get_release_folder(release.id)
        folder.mkdir(parents=True, exist_ok=True)
        write(folder / "compose.yaml", compose)
        lines = [f"{name}={value}\n" for name, value in environment.items()]
        write(folder / "release.env", "".join(lines))
        write(folder / "release.json", json.dumps(asdict(release), indent=2))
        (self.path / ".env").touch(0o600)

    def read_release(self, name: str) -> Release:
        """Read a stored release."""
        file = self.get_release_folder(name) / "release.json"
        fix = f"deliver that release again, or another of {file.parent.parent}"
        try:
            return Release(**_read(file, fix))
        except TypeError as error:
            raise _corrupt_file_error(file, str(error), fix) from error

    def list_good_releases(self) -> list[str]:
        """Return the ids of the releases whose health check passed, the current one first."""
        file = self.path / "current.json"
        if not file.exists():
            return []
        releases = file.parent / "releases"
        fix = f'write {{"good": ["ID"]}} there, ID being the release that runs: ls {releases}'
        good = _read(file, fix).get("good")
        if not isinstance(good, list) or not good:
            raise _corrupt_file_error(file, "good is not a list of releases", fix)
        return [str(name) for name in good]

    def get_current_release(self) -> Release | None:
        """Return the last release whose health check passed, or None before the first."""
        good = self.list_good_releases()
        return self.read_release(good[0]) if good else None

    def mark_as_good(self, release: Release) -> list[Release]:
        """Make a release the current one; return the deleted releases whose images are unused."""
        names = [release.id, *(name for name in self.list_good_releases() if name != release.id)]
        write(self.path / "current.json", json.dumps({"good": names[:MAX_RELEASES]}, indent=2))
        write(self.path / "compose", COMPOSE.format(id=release.id), mode=0o700)
        gone = []
        for folder in (self.path / "releases").iterdir():
            if folder.name not in names[:MAX_RELEASES]:
                gone.append(self.read_release(folder.name))
                shutil.rmtree(folder)
        still = {self.read_release(name).image for name in names[:MAX_RELEASES]}
        return [each for each in gone if each.image not in still]

    def read_draining_workers(self) -> set[str]:
        """Return the ids of worker containers that were asked to stop."""
        file = self.path / "draining.json"
        fix = f"see which workers still run (docker ps), stop the old ones, then: rm {file}"
        return set(_read(file, fix, list)) if file.exists() else set()

    def save_draining_workers(self, containers: set[str]) -> None:
        """Store the ids of worker containers that were asked to stop."""
        write(self.path / "draining.json", json.dumps(sorted(containers)))

    def create_record(self, name: str, record: dict[str, Any]) -> None:
        """Create the record of a delivery, and delete the oldest ones."""
        folder = self.path / "deliveries"
        folder.mkdir(exist_ok=True)
        for old in sorted(folder.iterdir())[: -MAX_DELIVERIES + 1]:
            shutil.rmtree(old)
        self.get_delivery_folder(name).mkdir()
        self.save_record(name, record)

    def save_record(self, name: str, record: dict[str, Any]) -> None:
        """Save the record of a delivery."""
        write(self.get_delivery_folder(name) / "record.json", json.dumps(record, indent=2))

    def read_record(self, name: str) -> dict[str, Any] | None:
        """Read the record of a delivery; None if there is none."""
        file = self.get_delivery_folder(name) / "record.json"
        fix = f"read {file.with_name('log')}, then put the record aside: mv {file} {file}.damaged"
        return _read(file, fix) if file.exists() else None

    def find_killed_delivery(self) -> dict[str, Any] | None:
        """Return the record of the latest delivery if it was killed; requires the lock."""
        for folder in sorted((self.path / "deliveries").glob("*"), reverse=True):
            record = self.read_record(folder.name)
            if record is not None:
                return record if record.get("result") == UNDER_WAY else None
        return None


def write(file: Path, text: str, mode: int = 0o600) -> None:
    """Write a file atomically and durably."""
    draft = file.with_name(f".{file.name}.new")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
        with os.fdopen(descriptor, "w") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        draft.replace(file)
    finally:
        draft.unlink(missing_ok=True)
    folder = os.open(file.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _read(file: Path, fix: str, kind: type[Any] = dict) -> Any:
    """Read a JSON file of this folder.

    Raises:
        Refused: the file is corrupt.
    """
    try:
        found = json.loads(file.read_text())
    except ValueError as error:
        raise _corrupt_file_error(file, str(error), fix) from error
    if not isinstance(found, kind):
        raise _corrupt_file_error(file, f"it is not a {kind.__name__}", fix)
    return found


def _corrupt_file_error(file: Path, why: str, fix: str) -> DeliveryRefused:
    return DeliveryRefused(f"A file of this host is damaged: {why}.", where=str(file), fix=fix)
