"""Kubernetes Lease: one delivery per namespace at a time, and the last good revisions.

A Lease is created and replaced atomically. If it was not renewed for its duration, the delivery
that held it was killed: the next delivery takes it over and reads the last good revisions from it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from infrastructure.delivery.kubectl import Kubectl, KubectlError
from prefect_flows.core.errors import TargetBusy

LEASE_NAME = "millrace-delivery"
GOOD = "millrace.io/good"
TIME_FORMAT = "%Y-%m-%dT%H:%M:%S.%fZ"
NO_HOLDER = ""


class Lease:
    """The Lease of a namespace, held by one delivery.

    Attributes:
        good: revision of each Deployment after the last successful delivery.
        killed: holder that it was taken over from; empty if none.
    """

    def __init__(self, cluster: Kubectl, holder: str, seconds: int) -> None:
        self._cluster = cluster
        self._holder = holder
        self._seconds = seconds
        self.good_revisions: dict[str, int] = {}
        self.killed_holder = ""

    def acquire(self) -> None:
        """Acquire the Lease.

        Raises:
            TargetBusy: another delivery holds it.
        """
        found = self._cluster.get("lease", LEASE_NAME)
        if found is None:
            try:
                self._cluster.put(self._manifest({}), "create")
            except KubectlError as error:
                if "AlreadyExists" not in error.what:
                    raise
                raise self._busy("one that has just started") from error
            return
        spec = found["spec"]
        self.good_revisions = json.loads(found["metadata"].get("annotations", {}).get(GOOD, "{}"))
        holder = spec.get("holderIdentity") or NO_HOLDER
        if holder:
            renewed = datetime.strptime(spec["renewTime"], TIME_FORMAT).replace(tzinfo=UTC)
            if datetime.now(UTC) - renewed < timedelta(seconds=spec["leaseDurationSeconds"]):
                raise self._busy(holder)
            self.killed_holder = holder
        self._replace(found, self._holder)

    def renew(self) -> None:
        """Renew the Lease; called before every step.

        Raises:
            TargetBusy: another delivery took it over, because it was not renewed in time.
        """
        found = self._cluster.get("lease", LEASE_NAME)
        if found is None or found["spec"].get("holderIdentity") != self._holder:
            raise self._busy("a delivery that took over this lease")
        self._replace(found, self._holder)

    def release(self, good: Mapping[str, int] | None) -> None:
        """Release the Lease, and store the good revisions if they are given."""
        self.good_revisions = dict(good) if good is not None else self.good_revisions
        found = self._cluster.get("lease", LEASE_NAME)
        if found is not None and found["spec"].get("holderIdentity") == self._holder:
            self._replace(found, NO_HOLDER)

    def _replace(self, found: dict[str, Any], holder: str) -> None:
        # With the `resourceVersion` that was read, the replacement fails if somebody was faster.
        manifest = self._manifest({"resourceVersion": found["metadata"]["resourceVersion"]})
        manifest["spec"]["holderIdentity"] = holder
        self._cluster.put(manifest, "replace")

    def _manifest(self, metadata: dict[str, str]) -> dict[str, Any]:
        now = datetime.now(UTC).strftime(TIME_FORMAT)
        return {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {
                "name": LEASE_NAME,
                "namespace": self._cluster.namespace,
                "annotations": {GOOD: json.dumps(self.good_revisions)},
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
            f"Another delivery is in progress: {holder}.",
            where=f"lease {LEASE_NAME}, context {self._cluster.context}, namespace "
            f"{self._cluster.namespace}",
            fix=f"wait for it; one that was killed is taken over after {self._seconds} s",
        )
