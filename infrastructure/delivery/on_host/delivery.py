"""Run the steps of a delivery, and roll back if one fails.

    before    health check and blocks, before anything changes
    backup    if the release migrates Prefect's database; workers and server stop first
    server    replaced in place; clients in flow runs retry meanwhile
    pools     the job templates contain the image
    worker    a new one starts next to the old one, until it is healthy
    deploy    old workers are asked to stop; the deployments of the target change
    automations   of the target; they only observe, and stay after a rollback
    check     health check, ignoring faults from before the delivery

Every step is idempotent. If a delivery was killed, the next one of the same release continues it;
one of another release rolls it back first.
"""

from __future__ import annotations

import json
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infrastructure.delivery.on_host import database
from infrastructure.delivery.on_host.engine import Engine, Log
from infrastructure.delivery.on_host.errors import StepFailed, collect_failure, refuse_new_faults
from infrastructure.delivery.on_host.folder import UNDER_WAY, Folder, Release
from infrastructure.delivery.on_host.workers import Workers

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

DELIVERED, ROLLED_BACK, REFUSED, STUCK = "delivered", "rolled back", "refused", "stuck"
POOL_OPTIONS = ["--pool", "default-pool", "--pool", "docker-pool"]
CONTAINER_CLI = ["python", "-m", "infrastructure.delivery.container_cli"]
CHECK_BLOCKS = [
    "millrace", "setup", "--blocks-only", "--outputs", "/run/secrets/terraform-outputs",
]  # fmt: skip


class Delivery:
    """A delivery to a target on this host.

    Args:
        record: request and progress, saved at every step.
    """

    def __init__(
        self, folder: Folder, log: Log, lock: int, name: str, record: dict[str, Any]
    ) -> None:
        self._folder, self._log, self._name, self.record = folder, log, name, record
        self._engine = Engine(folder, log, lock)
        self._workers = Workers(self._engine, folder, log)
        self._target = str(record["target"])
        self._wait = float(record["health_seconds"])
        self._drain = int(record["drain_seconds"])
        self._known: dict[str, str] = {}

    def run(self) -> str:
        """Deliver, or roll back; return the result."""
        release = self._folder.read_release(self.record["release"])
        before = self._folder.get_current_release()
        self._log.write_line(
            f"{self._target}: {before.version if before else 'nothing'} → {release.version}"
        )
        killed = self.record.pop("killed", None)
        if killed:
            self._take_over(killed, release, before)
        try:
            if before is None:
                self._deliver_first(release)
            else:
                self._deliver_update(release, before)
        except StepFailed as error:
            return self._handle_failure(release, before, str(error))
        return self._handle_success(release, before)

    def _take_over(self, killed: dict[str, Any], release: Release, before: Release | None) -> None:
        where = (killed["begun"] or ["its beginning"])[-1]
        self._log.write_line(
            f"The delivery before, {killed['id']}, was killed in this step: {where}"
        )
        self.record["begun"] += killed["begun"]
        self.record |= {"backup": killed["backup"], "deployed": killed["deployed"]}
        if before is None or killed["release"] == release.id:
            return
        self._log.write_line("It delivered another release; rolling it back first.")
        # Ignored here: the same fault makes a step below fail.
        faults = self._roll_back(before)
        self._log.write_line(f"Rolled back{': ' + '; '.join(faults) if faults else ''}.")
        self.record |= {"begun": [], "backup": None, "deployed": ""}

    @contextmanager
    def _step(self, name: str, says: str) -> Iterator[None]:
        self._log.write_line(f"{name}: {says}")
        self.record["begun"].append(name)
        self._save_record()
        began = time.monotonic()
        try:
            yield
        finally:
            took = round(time.monotonic() - began, 1)
            self.record["steps"].append({"name": name, "seconds": took})

    def _save_record(self) -> None:
        self._folder.save_record(self._name, self.record)

    def _deliver_first(self, release: Release) -> None:
        with self._step("up", "database, server and workers, for the first time"):
            up = ["up", "--detach", "--wait", "--wait-timeout", f"{self._wait:.0f}"]
            self._engine.compose(release, *up, seconds=self._wait + 60)
        with self._step("setup", "secrets, blocks, work pools, deployments, automations"):
            setup = "/opt/millrace/infrastructure/platforms/docker/setup"
            self._engine.run_in_setup_container(release, setup, self._target)
        self._check(release)

    def _deliver_update(self, release: Release, before: Release) -> None:
        self._known = self._faults(before, 0)
        for each in self._known.values():
            self._log.write_line(f"wrong before this delivery: {each}")
        with self._step("before", "are the blocks as Terraform's outputs say?"):
            self._blocks(release)
        migrates = release.head != database.get_revision(self._engine, before)
        if migrates and self.record["back"]:
            raise StepFailed(
                "the releases have different database migrations, and the previous server does not "
                "know the newer one; restore the backup from before it (documentation/delivery.md)"
            )
        if migrates or self.record["always_backup"]:
            self._backup(before, migrates=migrates)
        with self._step("server", f"{release.image}"):
            self._server(release)
        if self.record["apply_blocks"]:
            with self._step("blocks", "as Terraform's outputs say"):
                self._engine.run_in_setup_container(release, *CHECK_BLOCKS)
        with self._step("pools", "work pools and their templates"):
            self._engine.run_in_setup_container(release, "millrace", "pools", *POOL_OPTIONS)
        for service in self._workers.list_enabled_services(release):
            with self._step(service, "one of the release, beside those that are there"):
                self._workers.start(release, service, before, self._wait)
        was = self._engine.run_in_setup_container(
            release, *CONTAINER_CLI, "deployed", self._target, quiet=True
        ).stdout
        # Another target on this host may run another version than the workers.
        self.record["deployed"] = self.record["deployed"] or was.strip()
        with self._step("deploy", "the old workers stop, the deployments change"):
            self._workers.start_draining(release, before, self._drain)
            self._deploy(release)
        if not self.record["back"]:
            with self._step("automations", "what finds late, stuck and killed runs"):
                self._engine.run_in_setup_container(
                    release, "millrace", "automations", "--target", self._target
                )
        self._check(release)

    def _blocks(self, release: Release) -> None:
        done = self._engine.run_in_setup_container(
            release, *CHECK_BLOCKS, "--check", ok_codes=(0, 1)
        )
        if done.returncode and not self.record["apply_blocks"]:
            raise StepFailed(
                "the blocks differ from Terraform's outputs, as listed; deliver with "
                "--apply-blocks to write them, or correct the file"
            )

    def _backup(self, before: Release, *, migrates: bool) -> None:
        if self.record["backup"] and migrates:
            self._log.write_line(f"The backup is there: {self.record['backup']}")
            return
        says = (
            "the release migrates Prefect's database; runs end first"
            if migrates
            else "requested with --backup"
        )
        with self._step("migration" if migrates else "backup", says):
            if migrates:
                # Nothing writes to the database until the server starts again, so nothing is lost.
                self._workers.stop(before, self._drain)
                self._engine.compose(before, "stop", "server")
            file = database.dump(self._engine, self._folder, self._log, before)
            self.record["backup"] = str(file)
            self._save_record()

    def _server(self, release: Release) -> None:
        self._engine.compose(release, "up", "--detach", "--no-deps", "server")
        self._engine.wait_until_healthy(release, "server", [], self._wait)

    def _deploy(self, release: Release) -> None:
        if self.record["back"]:
            self._engine.run_in_setup_container(
                release, *CONTAINER_CLI, "back", self._target, release.version
            )
            return
        image = ["--image", release.image]
        self._engine.run_in_setup_container(release, "millrace", "deploy", self._target, *image)

    def _faults(
        self, release: Release, seconds: float, known: Iterable[str] = ()
    ) -> dict[str, str]:
        """Return the faults that the health check of the target finds, by check and subject."""
        output = self._engine.run_in_setup_container(
            release, *CONTAINER_CLI, "faults", self._target, "--seconds", f"{seconds:.0f}",
            "--known", json.dumps(list(known)), quiet=True, seconds=seconds + 300,
        ).stdout  # fmt: skip
        return dict(json.loads(output.strip().splitlines()[-1]))

    def _check(self, release: Release, name: str = "check") -> None:
        with self._step(name, "the health check"):
            refuse_new_faults(self._faults(release, self._wait, self._known), self._known)

    def _handle_failure(self, release: Release, before: Release | None, why: str) -> str:
        self.record["why"] = why
        self._log.write_line(f"FAILED: {why}")
        begun = self.record["begun"]
        if before is None:
            self._log.write_line(
                "There is no release before it: everything is left as it is for inspection."
            )
            return STUCK
        if not set(begun) - {"before"}:
            self._log.write_line(f"Nothing was changed; {before.version} runs on.")
            return REFUSED
        self._log.write_line(f"Back to {before.version}")
        faults = self._roll_back(before)
        if faults:
            self.record["why"] += "; and the rollback fails: " + "; ".join(faults)
            for each in faults:
                self._log.write_line(f"FAILED: {each}")
            self._notify(
                before,
                "needs manual intervention",
                f"{release.version} failed: {self.record['why']}",
            )
            return STUCK
        text = f"{release.version} failed: {why}\nIt is at {before.version} again, and healthy."
        self._notify(before, f"was rolled back to {before.version}", text)
        return ROLLED_BACK

    def _roll_back(self, before: Release) -> list[str]:
        """Roll back every step that was begun; return the faults.

        If one step fails, the others are still rolled back.
        """
        begun = set(self.record["begun"])
        faults: list[str] = []

        @contextmanager
        def each(name: str, says: str) -> Iterator[None]:
            with collect_failure(faults), self._step(f"back: {name}", says):
                yield

        with each("server", before.image):
            if "migration" in begun and self.record["backup"]:
                self._workers.stop(before, self._drain)
                self._engine.compose(before, "stop", "server")
                if database.get_revision(self._engine, before) != before.head:
                    self._log.write_line(f"The database as it was: {self.record['backup']}")
                    database.restore(self._engine, before, Path(self.record["backup"]))
            self._server(before)
        for service in self._workers.list_enabled_services(before):
            with each(service, "one of the release before"):
                self._workers.start(before, service, None, self._wait)
        with each("workers", "of the failed release stop"):
            self._workers.start_draining(before, None, self._drain)
        if begun & {"pools", "deploy"}:
            with each("pools", "as they were"):
                self._engine.run_in_setup_container(before, "millrace", "pools", *POOL_OPTIONS)
        if "deploy" in begun and self.record["deployed"]:
            with each("deploy", f"the deployments at {self.record['deployed']}"):
                back = [*CONTAINER_CLI, "back", self._target, self.record["deployed"]]
                self._engine.run_in_setup_container(before, *back)
        with collect_failure(faults):
            self._check(before, "back: check")
        return faults

    def _handle_success(self, release: Release, before: Release | None) -> str:
        for removed in self._folder.mark_as_good(release):
            # An image that a container still uses cannot be removed; a later delivery removes it.
            self._engine.run("docker", "image", "rm", removed.image, ok_codes=(0, 1), quiet=True)
        text = f"It was at {before.version}." if before else "It is the first."
        self._notify(release, f"is at {release.version}", text)
        self._log.write_line(
            f"{self._target} is at {release.version}, and the health check passes."
        )
        return DELIVERED

    def _notify(self, release: Release, what: str, text: str) -> None:
        """Notify the owners of the target; a notification that fails does not fail the delivery."""
        took = f"\nDelivery {self._name}, by {self.record['by']}."
        try:
            output = self._engine.run_in_setup_container(
                release, *CONTAINER_CLI, "notify", self._target, f"Millrace: {self._target} {what}",
                text=text + took, quiet=True,
            ).stdout.strip()  # fmt: skip
        except StepFailed as error:
            output = str(error)
        self.record["notice"] = output.splitlines()[-1] if output else ""
        self._log.write_line(f"notice: {self.record['notice']}")


def record_end(folder: Folder, name: str, record: dict[str, Any], result: str) -> None:
    """Record the end of a delivery."""
    assert result != UNDER_WAY  # noqa: S101 # otherwise the next delivery would treat it as killed
    record |= {"result": result, "ended": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
    folder.save_record(name, record)
