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
        self._draining = folder.read_draining_workers()

    def list_enabled_services(self, release: Release) -> list[str]:
        """Return the worker services that the Compose profiles of this host enable."""
        enabled = self._engine.compose(release, "config", "--services", quiet=True).stdout.split()
        return [name for name in SERVICES if name in enabled]

    def remove_exited(self, release: Release) -> None:
        """Remove containers that have exited, since Compose would start them again."""
        running = set()
        for service in SERVICES:
            for each in self._engine.list_containers(release, service):
                if each.running:
                    running.add(each.id)
                else:
                    self._engine.run(
                        "docker", "rm", "--volumes", each.id, ok_codes=(0, 1), quiet=True
                    )
        self._draining &= running
        self._folder.save_draining_workers(self._draining)

    def list_old_workers(
        self, release: Release, service: str, previous: Release | None
    ) -> list[Container]:
        """Return running containers of other releases that were not asked to stop yet.

        Args:
            kept: the previous release. If it has the same image, the containers of the two look
                alike, and all count as previous.
        """
        alike = (
            previous is not None and previous.id != release.id and previous.image == release.image
        )
        return [
            each
            for each in self._engine.list_containers(release, service)
            if each.running and each.id not in self._draining
            and (alike or each.image != release.image)
        ]  # fmt: skip

    def start(
        self, release: Release, service: str, previous: Release | None, seconds: float
    ) -> None:
        """Start a worker of this release next to the others, and wait until it is healthy.

        Raises:
            StepFailed: it does not become healthy. The other workers still accept runs.
        """
        self.remove_exited(release)
        existing = self._engine.list_containers(release, service)
        others = {
            each.id for each in self.list_old_workers(release, service, previous)
        } | self._draining
        if any(each.id not in others for each in existing):
            self._log.write_line(f"{service}: one of {release.version} is there")
        else:
            self._engine.compose(
                release, "up", "--detach", "--no-deps", "--no-recreate",
                "--scale", f"{service}={len(existing) + 1}", service,
            )  # fmt: skip
        self._engine.wait_until_healthy(release, service, list(others), seconds)

    def start_draining(self, release: Release, previous: Release | None, drain_seconds: int) -> int:
        """Ask the workers of other releases to stop; return their number."""
        count = 0
        for service in SERVICES:
            for each in self.list_old_workers(release, service, previous):
                # The container may have exited meanwhile.
                self._engine.run(
                    "docker", "kill", "--signal", "TERM", each.id, ok_codes=(0, 1), quiet=True
                )
                self._log.write_line(
                    f"{service} {each.id[:12]} takes no more runs, and waits for those it has "
                    f"begun, {drain_seconds} s at most"
                )
                self._draining.add(each.id)
                self._folder.save_draining_workers(self._draining)
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
            for each in self._engine.list_containers(release, service)
            if each.running
        ]
        if names:
            seconds = drain_seconds + 90
            self._engine.run(
                "docker", "stop", "--time", str(seconds), *names, seconds=seconds + 60, quiet=True
            )
        self.remove_exited(release)
