"""An inbox in a bucket: servers that speak S3 and Google's storage, and a file system in memory."""

from __future__ import annotations

import gzip
import io
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from prefect_flows.core.environment import set_variables
from prefect_flows.core.errors import IngestionError
from prefect_flows.ingest.source_load import ingest
from tests.support.object_stores import S3_KEYS, gs_bucket, s3_bucket


@contextmanager
def in_memory(_: object) -> Iterator[str]:
    yield "memory://bucket/millrace"


KINDS = {"s3": s3_bucket, "gs": gs_bucket, "memory": in_memory}


@pytest.fixture(scope="module", params=KINDS)
def bucket(request: pytest.FixtureRequest, tmp_path_factory) -> Iterator[str]:
    with KINDS[request.param](tmp_path_factory.mktemp("bucket")) as url:
        yield url


def put(url: str, content: str | bytes) -> None:
    fs, path = fsspec.core.url_to_fs(url)
    fs.pipe_file(path, content.encode() if isinstance(content, str) else content)


@pytest.mark.sources
def test_a_bucket_is_an_inbox_like_a_folder(database, bucket: str) -> None:
    def load() -> dict[str, int]:
        return ingest("files__inbox", database.profile, url=bucket, min_age_seconds=0).rows

    parquet = io.BytesIO()
    pq.write_table(pa.table({"id": [4, 5]}), parquet)
    put(f"{bucket}/t/1.csv", "id\n1\n")
    put(f"{bucket}/t/2.jsonl.gz", gzip.compress(b'{"id": 2}\n{"id": 3}\n'))
    put(f"{bucket}/t/3.parquet", parquet.getvalue())
    put(f"{bucket}/t/4.csv", "id\nx\n")

    assert load() == {"t": 5, "_files": 4}
    assert load() == {"t": 0, "_files": 0}
    put(f"{bucket}/t/1.csv", "id\n7\n")
    put(f"{bucket}/t/4.csv", "id\n8\n")
    assert load() == {"t": 2, "_files": 2}

    rows = database.query("select id, _file from raw_files__inbox.t order by _file, _row")
    assert rows == [
        (7, "t/1.csv"), (2, "t/2.jsonl.gz"), (3, "t/2.jsonl.gz"),
        (4, "t/3.parquet"), (5, "t/3.parquet"), (8, "t/4.csv"),
    ]  # fmt: skip
    statuses = (
        "select status, reason from raw_files__inbox._files where file = 't/4.csv' order by 2"
    )
    assert database.query(statuses) == [
        ("quarantined", "column 'id': 'x' is not a bigint"), ("loaded", None),
    ]  # fmt: skip


@pytest.mark.sources
def test_credentials_are_given_as_a_secret_and_never_shown(database, tmp_path) -> None:
    with s3_bucket(tmp_path) as url:
        # The one that is kept for this URL knows another server.
        fsspec.get_filesystem_class("s3").clear_instance_cache()
        put(f"{url}/t.csv", "id\n1\n")
        options = {
            "key": "made-up", "secret": "made-up-secret",
            "client_kwargs": {
                "endpoint_url": os.environ["AWS_ENDPOINT_URL"], "region_name": "us-east-1",
            },
        }  # fmt: skip
        given = {"url": url, "min_age_seconds": 0, "storage_options": json.dumps(options)}
        with set_variables(dict.fromkeys(S3_KEYS, "refused")):
            assert ingest("files__inbox", database.profile, **given).rows["t"] == 1
    # The server has ended: it cannot be reached, which may pass, and the secret is not told.
    with pytest.raises(IngestionError) as error:
        ingest("files__inbox", database.profile, **given)
    assert "The inbox cannot be listed: " in str(error.value)
    assert "where: s3://bucket/millrace" in str(error.value)
    assert error.value.retryable
    assert "made-up-secret" not in str(error.value)
    dump = database.query("select t::text from raw_files__inbox._dlt_pipeline_state t")
    assert "made-up-secret" not in str(dump)
