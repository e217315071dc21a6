"""Lock a BigQuery dataset with a lease in its labels, using etags for compare-and-swap.

BigQuery has no locks, but rejects an update with a stale etag (`If-Match`), so only one of two
processes that see the lease free gets it. The clocks of two machines may differ by at most the
time that is left of the lease when it is renewed.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from google.api_core.exceptions import GoogleAPICallError, PreconditionFailed
from google.cloud import bigquery

from prefect_flows.core.errors import TargetBusy

LEASE_SECONDS = 120
RENEW_SECONDS = 30
ATTEMPTS = 5
HOLDER, UNTIL = "millrace-holder", "millrace-until"


class Lease:
    """The lease of one dataset, held by one process."""

    def __init__(self, client: bigquery.Client, dataset: bigquery.DatasetReference) -> None:
        self._client = client
        self._dataset = dataset
        self._id = uuid.uuid4().hex
        self._lost: str | None = None

    def acquire(self) -> bool:
        """Acquire or extend the lease; return whether this process holds it."""
        # The etag also changes when something other than the lease changes, so try again.
        for _ in range(ATTEMPTS):
            dataset = self._client.get_dataset(self._dataset)
            is_ours = dataset.labels.get(HOLDER) == self._id
            if not is_ours and float(dataset.labels.get(UNTIL, 0)) > time.time():
                return False
            if self._write(dataset, LEASE_SECONDS):
                return True
        return False

    @contextmanager
    def keep_renewed(self) -> Iterator[None]:
        """Renew the lease in a background thread, and release it at the end.

        Raises:
            TargetBusy: the lease was lost, so another process may have used the dataset.
        """
        over = threading.Event()
        thread = threading.Thread(target=self._renew, args=(over,), name="lease", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            self._release()
        if self._lost is not None:
            raise TargetBusy(
                f"The hold of dataset {self._dataset.dataset_id} was lost: {self._lost}.",
                where=f"bigquery {self._dataset}",
                fix="try again",
            )

    def _renew(self, over: threading.Event) -> None:
        held_until = time.monotonic() + LEASE_SECONDS
        while not over.wait(RENEW_SECONDS):
            try:
                if not self.acquire():
                    self._lost = "another one has it"
                    return
                held_until = time.monotonic() + LEASE_SECONDS
            except GoogleAPICallError as error:
                # The error may be transient: further attempts follow before the lease expires.
                if time.monotonic() > held_until:
                    self._lost = f"it could not be renewed: {type(error).__name__}"
                    return

    def _release(self) -> None:
        try:
            dataset = self._client.get_dataset(self._dataset)
            if dataset.labels.get(HOLDER) == self._id:
                self._write(dataset, 0)
        except GoogleAPICallError:  # the dataset was dropped, or the lease will expire
            return

    def _write(self, dataset: bigquery.Dataset, seconds: float) -> bool:
        until = str(round(time.time() + seconds)) if seconds else "0"
        dataset.labels = {**dataset.labels, HOLDER: self._id, UNTIL: until}
        try:
            self._client.update_dataset(dataset, ["labels"])
        except PreconditionFailed:
            return False
        return True
