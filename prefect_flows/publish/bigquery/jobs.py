"""Clones and copies of tables, each of which runs once however often it is asked for.

BigQuery refuses a second job with the id of another one. The ids here are built from the id of the
switch, so a run that is retried, or that completes the switch of a killed run, finds the jobs that
were sent before instead of running them again.

Published tables are written by copy jobs and not by `CREATE OR REPLACE TABLE … CLONE`. A copy job
with WRITE_TRUNCATE changes the table in one atomic step and leaves it the same table: its access
policy, its description and labels, its time travel and the materialized views on it stay. A
statement that replaces a table makes a new one. Columns come from the source in both cases, with
their descriptions and policy tags, and so do row access policies. See
https://cloud.google.com/bigquery/docs/table-clones-create,
https://cloud.google.com/bigquery/docs/using-row-level-security-with-features#copy_jobs and the
measurements in https://github.com/dlt-hub/dlt/pull/4130. Besides, BigQuery allows clones of clones
three levels deep only. A copy is an ordinary table, so the clones here are two levels deep at most.

A clone starts with `DROP TABLE`: BigQuery replaces no table with one that has other partitions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from itertools import count

from google.api_core.exceptions import Conflict, NotFound
from google.cloud.bigquery import (
    Client,
    CopyJob,
    CopyJobConfig,
    QueryJob,
    QueryJobConfig,
    Table,
    TableReference,
    WriteDisposition,
)

Job = QueryJob | CopyJob


class TableJobs:
    """The jobs of one switch.

    Args:
        client: BigQuery's client.
        location: where the datasets are.
        id: id of the switch.
    """

    def __init__(self, client: Client, location: str, id: str) -> None:
        self._client = client
        self._location = location
        self._id = id

    def clone(self, source: TableReference, target: TableReference) -> Job:
        """Start to make a table a clone of another one; costs no bytes and no storage at first."""
        statements = (
            f"drop table if exists {quoted(target)};\n"
            f"create table {quoted(target)} clone {quoted(source)};"
        )
        return self._start(
            "clone",
            target,
            lambda job_id: self._client.query(
                statements,
                job_id=job_id,
                location=self._location,
                # The client sends a failed statement again under another id only.
                job_retry=None,
                job_config=QueryJobConfig(use_legacy_sql=False),
            ),
        )

    def copy(self, source: Table, target: TableReference) -> Job:
        """Start to replace the rows and columns of a table with those of another one; is free."""
        config = CopyJobConfig(write_disposition=WriteDisposition.WRITE_TRUNCATE)
        if source.encryption_configuration is not None:
            # Without it, BigQuery encrypts the copy with the dataset's key.
            config.destination_encryption_configuration = source.encryption_configuration
        return self._start(
            "copy",
            target,
            lambda job_id: self._client.copy_table(
                source.reference,
                target,
                job_id=job_id,
                location=self._location,
                job_config=config,
            ),
        )

    def is_copied(self, target: TableReference) -> bool:
        """Return whether the copy job of this switch was sent before and has not failed."""
        for attempt in count(1):
            try:
                job = self._get(self._job_id("copy", target, attempt))
            except NotFound:
                return False
            if job.error_result is None:
                return True
        raise AssertionError

    def _start(self, what: str, target: TableReference, submit: Callable[[str], Job]) -> Job:
        """Return the job that does this, unless all that were sent before have failed a new one."""
        for attempt in count(1):
            job_id = self._job_id(what, target, attempt)
            try:
                return submit(job_id)
            except Conflict:
                job = self._get(job_id)
            if job.error_result is None:
                return job
        raise AssertionError

    def _job_id(self, what: str, target: TableReference, attempt: int) -> str:
        digest = hashlib.sha256(str(target).encode()).hexdigest()[:16]
        return f"millrace_{self._id}_{what}_{digest}_{attempt}"

    def _get(self, job_id: str) -> Job:
        job = self._client.get_job(job_id, location=self._location)
        assert isinstance(job, QueryJob | CopyJob)  # noqa: S101 # no other job has such an id
        return job


def wait_for(jobs: Iterable[Job]) -> None:
    """Wait until jobs are done, all of which run at the same time.

    Raises:
        GoogleAPICallError: a job failed.
    """
    for job in jobs:
        job.result()


def quoted(table: TableReference) -> str:
    """Return the name of a table as SQL has it."""
    return f"`{table.project}`.`{table.dataset_id}`.`{table.table_id}`"
