"""Replace workers without downtime: the new one starts before the old one stops.

When the new worker is healthy, the old one gets SIGTERM. It then accepts no more runs, and exits
when the runs that it has started have finished (`millrace worker`), even if the delivery is over.
"""

from __future__ import annotations

import subprocess

from infrastructure.delivery.on_host.engine import Container, Engine, Log
from infrastructure.delivery.on_host.folder import Folder, Release

SERVICES = ("worker", "docker-worker")


class Workers:
    """The worker containers of one folder, of any release."""

    def __init__(self, engine: Engine, folder: Folder, log: Log) -> None:
        self._engine = engine
        self._folder = folder
        self._log = log
        # Asked to stop by this delivery or an earlier one; they accept no more runs.
        self._leaving = folder.leaving()

    def services(self, release: Release) -> list[str]:
        """Return the worker services that the Compose profiles of this host enable."""
        enabled = self._engine.compose(release, "config", "--services", quiet=True).stdout.split()
        return [name for name in SERVICES if name in enabled]

    def clear(self, release: Release) -> None:
        """Remove containers that have exited, since Compose would start them again."""
        running = set()
        for service in SERVICES:
            for each in self._engine.containers(release, service):
                if each.running:
                    running.add(each.id)
                else:
                    self._engine.run(
                        "docker", "rm", "--volumes", each.id, passes=(0, 1), quiet=True
                    )
        self._leaving &= running
        self._folder.leave(self._leaving)

    def others(self, release: Release, service: str, kept: Release | None) -> list[Container]:
        """Return running containers of other releases that were not asked to stop yet.

        Args:
            kept: the previous release. If it has the same image, the containers of the two look
                alike, and all count as previous.
        """
        alike = kept is not None and kept.id != release.id and kept.image == release.image
        return [
            each
            for each in self._engine.containers(release, service)
            if each.running and each.id not in self._leaving
            and (alike or each.image != release.image)
        ]  # fmt: skip

    def bring(self, release: Release, service: str, kept: Release | None, seconds: float) -> None:
        """Start a worker of this release next to the others, and wait until it is healthy.

        Raises:
            StepFailed: it does not become healthy. The other workers still accept runs.
        """
        self.clear(release)
        existing = self._engine.containers(release, service)
        others = {each.id for each in self.others(release, service, kept)} | self._leaving
        if any(each.id not in others for each in existing):
            self._log.say(f"{service}: one of {release.version} is there")
        else:
            self._engine.compose(
                release, "up", "--detach", "--no-deps", "--no-recreate",
                "--scale", f"{service}={len(existing) + 1}", service,
            )  # fmt: skip
        self._engine.until_healthy(release, service, list(others), seconds)

    def dismiss(self, release: Release, kept: Release | None, drain_seconds: int) -> int:
        """Ask the workers of other releases to stop; return their number."""
        count = 0
        for service in SERVICES:
            for each in self.others(release, service, kept):
                # The container may have exited meanwhile.
                self._engine.run(
                    "docker", "kill", "--signal", "TERM", each.id, passes=(0, 1), quiet=True
                )
                self._log.say(
                    f"{service} {each.id[:12]} takes no more runs, and waits for those it has "
                    f"begun, {drain_seconds} s at most"
                )
                self._leaving.add(each.id)
                self._folder.leave(self._leaving)
                count += 1
                # A separate process without the lock, so that it does not block the next delivery.
                subprocess.Popen(
                    ["sh", "-c", 'docker wait "$1" && docker rm --volumes "$1"', "sh", each.id],
                    stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL, start_new_session=True,
                )  # fmt: skip
        return count

    def stop(self, release: Release, drain_seconds: int) -> None:
        """Stop all workers after their runs have finished; needed before a database migration."""
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
