"""One delivery to a namespace at a time, and which revisions work: a Lease of Kubernetes.

A Lease is made and replaced atomically. One that was not renewed for longer than it says was left
by a delivery that was killed; the next takes it over, and finds in it what worked before.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from infrastructure.delivery.kubectl import ClusterRefuses, Kubectl
from prefect_flows.core.errors import TargetBusy

NAME = "millrace-delivery"
GOOD = "millrace.io/good"
FORMAT = "%Y-%m-%dT%H:%M:%S.%fZ"
FREE = ""


class Lease:
    """The lease of a namespace, taken for one delivery.

    Attributes:
        good: revision of each Deployment, as the last delivery that passed left it.
        killed: the delivery from which it was taken over.
    """

    def __init__(self, cluster: Kubectl, holder: str, seconds: int) -> None:
        self._cluster = cluster
        self._holder = holder
        self._seconds = seconds
        self.good: dict[str, int] = {}
        self.killed = ""

    def take(self) -> None:
        """Take it.

        Raises:
            TargetBusy: another delivery has it.
        """
        found = self._cluster.get("lease", NAME)
        if found is None:
            try:
                self._cluster.put(self._manifest({}), "create")
            except ClusterRefuses as error:
                if "AlreadyExists" not in error.what:
                    raise
                raise self._busy("one that began just now") from error
            return
        spec = found["spec"]
        self.good = json.loads(found["metadata"].get("annotations", {}).get(GOOD, "{}"))
        holder = spec.get("holderIdentity") or FREE
        if holder:
            renewed = datetime.strptime(spec["renewTime"], FORMAT).replace(tzinfo=UTC)
            if datetime.now(UTC) - renewed < timedelta(seconds=spec["leaseDurationSeconds"]):
                raise self._busy(holder)
            self.killed = holder
        self._replace(found, self._holder)

    def renew(self) -> None:
        """Say that the delivery goes on; before every step.

        Raises:
            TargetBusy: it was taken over, since it was not renewed for too long.
        """
        found = self._cluster.get("lease", NAME)
        if found is None or found["spec"].get("holderIdentity") != self._holder:
            raise self._busy("one that took this one for dead")
        self._replace(found, self._holder)

    def free(self, good: Mapping[str, int] | None) -> None:
        """Give it back, with what works now where that is another."""
        self.good = dict(good) if good is not None else self.good
        found = self._cluster.get("lease", NAME)
        if found is not None and found["spec"].get("holderIdentity") == self._holder:
            self._replace(found, FREE)

    def _replace(self, found: dict[str, Any], holder: str) -> None:
        # With the version that was read: somebody who was quicker makes it fail.
        manifest = self._manifest({"resourceVersion": found["metadata"]["resourceVersion"]})
        manifest["spec"]["holderIdentity"] = holder
        self._cluster.put(manifest, "replace")

    def _manifest(self, metadata: dict[str, str]) -> dict[str, Any]:
        now = datetime.now(UTC).strftime(FORMAT)
        return {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {
                "name": NAME,
                "namespace": self._cluster.namespace,
                "annotations": {GOOD: json.dumps(self.good)},
                **metadata,
            },
            "spec": {
                "holderIdentity": self._holder,
                "leaseDurationSeconds": self._seconds,
                "renewTime": now,
            },
        }

    def _busy(self, holder: str) -> TargetBusy:
        return TargetBusy(
            f"Another delivery is under way: {holder}.",
            where=f"lease {NAME}, context {self._cluster.context}, namespace "
            f"{self._cluster.namespace}",
            fix=f"wait for it; one that was killed is taken over after {self._seconds} s",
        )
