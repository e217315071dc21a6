"""Workers, replaced one beside the other: no run ends, and runs that come due do not wait.

A worker of the new release comes up beside the old one. When it is healthy, the old one is told to
stop: it takes nothing new, and waits for the runs that it has begun (`millrace worker`). When
they have ended it ends, whoever watches or not.
"""

from __future__ import annotations

import subprocess

from infrastructure.delivery.on_host.engine import Container, Engine, Log
from infrastructure.delivery.on_host.folder import Folder, Release

SERVICES = ("worker", "docker-worker")


class Workers:
    """The workers of one folder, of whichever release."""

    def __init__(self, engine: Engine, folder: Folder, log: Log) -> None:
        self._engine = engine
        self._folder = folder
        self._log = log
        # Told to stop, by this delivery or one before: they take no more runs.
        self._leaving = folder.leaving()

    def services(self, release: Release) -> list[str]:
        """The services of workers that this host runs: those of its profiles."""
        said = self._engine.compose(release, "config", "--services", quiet=True).stdout.split()
        return [name for name in SERVICES if name in said]

    def clear(self, release: Release) -> None:
        """Remove containers that have ended, or Compose would start them again."""
        there = set()
        for service in SERVICES:
            for each in self._engine.containers(release, service):
                if each.running:
                    there.add(each.id)
                else:
                    self._engine.run(
                        "docker", "rm", "--volumes", each.id, passes=(0, 1), quiet=True
                    )
        self._leaving &= there
        self._folder.leave(self._leaving)

    def others(self, release: Release, service: str, kept: Release | None) -> list[Container]:
        """Running containers that are not of this release, and not leaving already.

        Args:
            kept: the release before. Where it has the same image, no container tells which it is
                of, and all are taken for the one before.
        """
        alike = kept is not None and kept.id != release.id and kept.image == release.image
        return [
            each
            for each in self._engine.containers(release, service)
            if each.running and each.id not in self._leaving
            and (alike or each.image != release.image)
        ]  # fmt: skip

    def bring(self, release: Release, service: str, kept: Release | None, seconds: float) -> None:
        """A healthy worker of this release, beside those that are there.

        Raises:
            StepFailed: it does not become healthy. Those that were there take runs as before.
        """
        self.clear(release)
        there = self._engine.containers(release, service)
        strange = {each.id for each in self.others(release, service, kept)} | self._leaving
        if any(each.id not in strange for each in there):
            self._log.say(f"{service}: one of {release.version} is there")
        else:
            self._engine.compose(
                release, "up", "--detach", "--no-deps", "--no-recreate",
                "--scale", f"{service}={len(there) + 1}", service,
            )  # fmt: skip
        self._engine.until_healthy(release, service, list(strange), seconds)

    def dismiss(self, release: Release, kept: Release | None, drain_seconds: int) -> int:
        """Tell the workers that are not of this release to stop; how many were told."""
        told = 0
        for service in SERVICES:
            for each in self.others(release, service, kept):
                # One that has ended meanwhile is no fault.
                self._engine.run(
                    "docker", "kill", "--signal", "TERM", each.id, passes=(0, 1), quiet=True
                )
                self._log.say(
                    f"{service} {each.id[:12]} takes no more runs, and waits for those it has "
                    f"begun, {drain_seconds} s at most"
                )
                self._leaving.add(each.id)
                self._folder.leave(self._leaving)
                told += 1
                # A process of its own, without the lock: the next delivery need not wait for it.
                subprocess.Popen(
                    ["sh", "-c", 'docker wait "$1" && docker rm --volumes "$1"', "sh", each.id],
                    stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL, start_new_session=True,
                )  # fmt: skip
        return told

    def stop(self, release: Release, drain_seconds: int) -> None:
        """Stop all of them, when their runs have ended: before a migration of the database."""
        names = [
            each.id
            for service in SERVICES
            for each in self._engine.containers(release, service)
            if each.running
        ]
        if names:
            seconds = drain_seconds + 90
            self._engine.run(
                "docker", "stop", "--time", str(seconds), *names, seconds=seconds + 60, quiet=True
            )
        self.clear(release)
