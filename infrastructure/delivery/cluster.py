"""Deliver a release to Kubernetes, and roll back if a step fails.

    lease     one delivery per namespace at a time
    backup    dump Prefect's database to its own volume
    apply     apply the kustomization, with the image by digest
    rollout   of server and worker; flow runs are separate Jobs and keep running
    version   check that the image was built from this commit
    blocks    check that they match Terraform's outputs, if given
    pool, deployments, automations, check

Commands that talk to Prefect run on this machine, through a forwarded port. If `apply` or a later
step fails, the rollouts are undone to the last good revisions, and work pool and deployments are
restored. Automations only observe, so they stay.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from infrastructure.delivery.kubectl import Kubectl, KubectlError
from infrastructure.delivery.lease import Lease
from infrastructure.delivery.manifests import CAUSE, SERVER, WORKER, Manifests
from infrastructure.delivery.on_host.delivery import DELIVERED, REFUSED, ROLLED_BACK, STUCK
from infrastructure.delivery.on_host.engine import Log
from infrastructure.delivery.on_host.errors import StepFailed, collect_failure, refuse_new_faults
from infrastructure.delivery.prefect_calls import (
    CLI,
    CONTAINER_CLI,
    ClusterRequest,
    PrefectCommands,
)

REVISION = "deployment.kubernetes.io/revision"
DUMP_SCRIPT = (
    "set -eu; umask 077; mkdir -p /var/lib/postgresql/data/backups; "
    "cd /var/lib/postgresql/data/backups; pg_dump --username=prefect --format=custom "
    '--file="$1.new" prefect; mv "$1.new" "$1"; ls -t | tail -n +6 | xargs -r rm -f; du -h "$1"'
)
# Server-side apply keeps fields that other managers own.
APPLY = ["apply", "--server-side", "--force-conflicts", "--field-manager=millrace-delivery"]
FAILURES = (StepFailed, KubectlError)


class ClusterDelivery:
    """A delivery to a namespace."""

    def __init__(
        self, cluster: Kubectl, manifests: Manifests, request: ClusterRequest, name: str
    ) -> None:
        self._cluster, self._manifests, self._request = cluster, manifests, request
        # Longer than the longest step, so that nobody takes over while it waits.
        self._lease = Lease(cluster, name, request.health_seconds + 300)
        self._name = name
        self._log = Log()
        self._pool_before: dict[str, Any] | None = None
        self._known: dict[str, str] = {}
        self._deployed = ""
        self.record: dict[str, Any] = {
            "id": name, "target": request.target, "image": request.image,
            "version": request.version,
            "result": "under way", "why": None, "steps": [],
        }  # fmt: skip

    def run(self) -> str:
        """Deliver, or roll back; return the result."""
        self._lease.acquire()
        before = self._lease.good_revisions or self._revisions()
        was = self._get_version(SERVER)
        if self._lease.killed_holder:
            self._log.write_line(
                f"{self._lease.killed_holder} was killed; what worked before it: {before}"
            )
        good: dict[str, int] | None = None
        self._log.write_line(
            f"{self._request.target}: {was or 'nothing'} → {self._request.version}"
        )
        try:
            try:
                self._deliver(first=not before)
                good = self._revisions()
            except FAILURES as error:
                result = self._handle_failure(before, str(error).partition("\n")[0])
                if result == ROLLED_BACK:
                    # `rollout undo` creates a new revision, and removes the old one.
                    good = self._revisions()
                return result
            self._notify(f"is at {self._request.version}", f"It was at {was}." if was else "")
            return DELIVERED
        finally:
            self._lease.release(good)

    def _deliver(self, *, first: bool) -> None:
        if not first:
            with self._prefect() as prefect:
                self._known = prefect.find_faults(0, ())
                self._pool_before = prefect.read_pool()
            for each in self._known.values():
                self._log.write_line(f"wrong before this delivery: {each}")
            with self._step("backup", "Prefect's database, on its own volume"):
                file = f"prefect-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}.dump"
                self._log.write_output(
                    self._cluster.run(
                        "exec", "statefulset/prefect-database", "--container", "postgres", "--",
                        "sh", "-c", DUMP_SCRIPT, "sh", file,
                    )
                )  # fmt: skip
        with self._step("apply", self._request.image):
            listed = {"apiVersion": "v1", "kind": "List", "items": self._manifests.objects}
            self._log.write_output(
                self._cluster.run(*APPLY, "--filename", "-", text=json.dumps(listed))
            )
        self._rollout(SERVER)
        with self._step("version", "is the image of this commit?"):
            self._check_version()
        with self._prefect() as prefect:
            self._setup(prefect)
        # The worker waits for its work pool, which the first delivery has just created.
        self._rollout(WORKER)
        with self._step("check", "the health check"), self._prefect() as prefect:
            refuse_new_faults(
                prefect.find_faults(self._request.health_seconds, self._known), self._known
            )

    def _setup(self, prefect: PrefectCommands) -> None:
        if self._request.outputs is None:
            self._log.write_line("blocks: not looked at; --outputs names Terraform's outputs")
        else:
            with self._step("blocks", "are they as Terraform's outputs say?"):
                self._log.write_output(
                    prefect.run(
                        CLI, "setup", "--outputs", "-", "--blocks-only", "--check",
                        text=self._request.outputs,
                    )
                )  # fmt: skip
        with self._step("pool", self._request.pool):
            self._log.write_output(prefect.run(CLI, "pools", "--pool", self._request.pool))
        self._deployed = prefect.run(CONTAINER_CLI, "deployed", self._request.target).strip()
        with self._step("deploy", "the deployments of the target"):
            self._log.write_output(
                prefect.run(
                    CLI, "deploy", self._request.target, "--image", self._request.image,
                    "--pool", self._request.pool,
                )
            )  # fmt: skip
        with self._step("automations", "what finds late, stuck and killed runs"):
            self._log.write_output(
                prefect.run(CLI, "automations", "--target", self._request.target)
            )

    def _check_version(self) -> None:
        pod = ["exec", f"deployment/{SERVER}", "--container", "server", "--"]
        version = self._cluster.run(*pod, "printenv", "MILLRACE_VERSION").strip()
        if version != self._request.version:
            raise StepFailed(
                f"the image is of {version}, and this folder of {self._request.version}"
            )

    def _rollout(self, name: str, *undo: str) -> None:
        with self._step("rollout", name):
            if undo:
                self._log.write_output(
                    self._cluster.run("rollout", "undo", f"deployment/{name}", *undo)
                )
            timeout = f"--timeout={self._request.health_seconds}s"
            self._log.write_output(
                self._cluster.run("rollout", "status", f"deployment/{name}", timeout)
            )

    def _handle_failure(self, before: dict[str, int], why: str) -> str:
        self.record["why"] = why
        self._log.write_line(f"FAILED: {why}")
        started_steps = [each["name"] for each in self.record["steps"]]
        if "apply" not in started_steps:
            self._log.write_line("Nothing was changed.")
            return REFUSED
        if not before:
            self._log.write_line(
                "There is no release before it: everything is left as it is for inspection."
            )
            return STUCK
        faults = self._roll_back(before, started_steps)
        was = self._get_version(SERVER)
        if faults:
            self.record["why"] += "; and the rollback fails: " + "; ".join(faults)
            self._notify("needs manual intervention", str(self.record["why"]))
            return STUCK
        self._notify(f"was rolled back to {was}", f"{self._request.version} failed: {why}")
        return ROLLED_BACK

    def _roll_back(self, before: dict[str, int], started_steps: Sequence[str]) -> list[str]:
        faults: list[str] = []
        now = self._revisions()
        for name, revision in before.items():
            if now.get(name) != revision:
                with collect_failure(faults, FAILURES):
                    self._rollout(name, f"--to-revision={revision}")
        with collect_failure(faults, FAILURES), self._prefect() as prefect:
            if "pool" in started_steps and self._pool_before is not None:
                with self._step("back: pool", "as it was"):
                    prefect.restore_pool(self._pool_before)
            if "deploy" in started_steps and self._deployed:
                with self._step("back: deploy", f"the deployments at {self._deployed}"):
                    self._log.write_output(
                        prefect.run(CONTAINER_CLI, "back", self._request.target, self._deployed)
                    )
            with self._step("back: check", "the health check"):
                refuse_new_faults(
                    prefect.find_faults(self._request.health_seconds, self._known), self._known
                )
        return faults

    def _revisions(self) -> dict[str, int]:
        found = {name: self._cluster.get("deployment", name) for name in (SERVER, WORKER)}
        return {
            name: int(each["metadata"]["annotations"][REVISION])
            for name, each in found.items()
            if each is not None
        }

    def _get_version(self, name: str) -> str:
        """Return the version annotation of a Deployment, or an empty string if there is none."""
        found = self._cluster.get("deployment", name)
        return found["metadata"].get("annotations", {}).get(CAUSE, "") if found else ""

    @contextmanager
    def _prefect(self) -> Iterator[PrefectCommands]:
        given = self._cluster.read_secret("prefect-api-auth", "auth-string")
        with self._cluster.forward_port(SERVER, 4200) as port:
            yield PrefectCommands(f"http://127.0.0.1:{port}/api", given, self._request)

    def _notify(self, what: str, text: str) -> None:
        try:
            with self._prefect() as prefect:
                subject = f"Millrace: {self._request.target} {what}"
                output = prefect.run(
                    CONTAINER_CLI, "notify", self._request.target, subject, text=text
                )
        except FAILURES as error:
            output = str(error)
        self._log.write_line(f"notice: {output.strip()}")

    @contextmanager
    def _step(self, name: str, says: str) -> Iterator[None]:
        self._lease.renew()
        self._log.write_line(f"{name}: {says}")
        step = {"name": name, "seconds": 0.0}
        self.record["steps"].append(step)
        began = time.monotonic()
        try:
            yield
        finally:
            step["seconds"] = round(time.monotonic() - began, 1)
