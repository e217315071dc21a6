"""Which URLs a state store may have, how they are shown, and where its login comes from."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import httpx
import pytest

from prefect_flows.core.errors import ConfigurationError
from prefect_flows.state.state_url import find_url_fault, without_login
from prefect_flows.state.store import StateStore
from tests.support.object_stores import server
from tests.support.project import PATIENCE, Project, Scratch


@pytest.mark.parametrize(
    "url",
    ["state", "/srv/millrace", "./a:b", "C:\\state", "/home/somebody@example/state",
     "file:///srv/state", "gs://bucket", "gcs://bucket/a/b", "s3://my.bucket-1/a b/c/"],
)  # fmt: skip
def test_a_folder_or_a_bucket_is_taken(url: str) -> None:
    assert find_url_fault(url) is None


@pytest.mark.parametrize(
    ("url", "fault"),
    [
        ("", "empty"),
        (" gs://bucket", "blank"),
        ("gs://bucket/\n", "printed"),
        # A variable that was not set, and that nothing replaced.
        ("s3://", "the part after s3:// must be the name of a bucket"),
        ("s3:///folder", "the part after s3:// must be the name of a bucket"),
        ("s3://$BUCKET/x", r"in place of \$BUCKET"),
        ("gs://${BUCKET}", r"in place of \$\{BUCKET\}"),
        ("$STATE/x", r"in place of \$STATE"),
        ("%STATE%", "in place of %STATE%"),
        ("s3:", "s3: begins a URL"),
        ("s3:/bucket", "s3: begins a URL"),
        ("gs:bucket", "gs: begins a URL"),
        ("simplecache::s3://bucket", "its URL is not a kind"),
        ("ftp://127.0.0.1/x", "ftp:// is not a kind"),
        ("github://owner:repository/x", "github:// is not a kind"),
        ("zip:///x.zip", "zip:// is not a kind"),
        ("memory://x", "memory:// is not a kind"),
        ("S3://bucket", "S3:// is not a kind"),
        ("file://state", "begin with /"),
        ("gs://b", "name of a bucket"),
        ("gs://-bucket", "name of a bucket"),
        ("gs://bucket//x", "without"),
        ("gs://bucket/x?key=made-up", "without"),
        ("gs://bucket/x#1", "without"),
        ("s3://somebody:made-up@bucket/x", "holds a login"),
        ("s3://AKIA:made/up@bucket/x", "holds a login"),
        ("s3://AKIA:made-up@", "holds a login"),
    ],
)
def test_what_is_none_is_refused_before_anything_is_opened(url: str, fault: str) -> None:
    with pytest.raises(ConfigurationError, match=f"The state store cannot be used: .*{fault}") as e:
        StateStore(url)
    assert "made-up" not in str(e.value)
    assert "made/up" not in str(e.value)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("s3://somebody:made-up@bucket/x", "s3://***@bucket/x"),
        ("s3://AKIA:made/up+@bucket/x?a=made-up", "s3://***@bucket/x"),
        ("/home/somebody@example/state", "/home/somebody@example/state"),
        ("gs://bucket/x", "gs://bucket/x"),
    ],
)
def test_a_url_is_shown_without_its_login(url: str, shown: str) -> None:
    assert without_login(url) == shown


def test_a_run_is_refused_in_words_and_nothing_is_written(scratch: Scratch) -> None:
    for url, fault in (
        ("s3://", "the part after s3:// must be the name of a bucket"),
        ("zip:///x.zip", "zip:// is not a kind of state store"),
        ("s3://somebody:made-up@bucket/x", "where: state_url 's3://***@bucket/x'"),
    ):
        done = scratch.run_pipeline("--no-prefect", MILLRACE_STATE_URL=url)
        assert done.returncode == 2, done.stdout + done.stderr
        assert fault in done.stderr
        assert "Traceback" not in done.stderr
        assert "made-up" not in done.stdout + done.stderr
    assert not list(scratch.folder.glob("s3:*"))
    assert scratch.relations() == set()


@pytest.mark.operations
def test_the_login_of_a_bucket_comes_from_a_block(
    project: Project, scratch: Scratch, tmp_path: Path
) -> None:
    pytest.importorskip("s3fs", reason="SKIPPED: s3:// needs `uv sync --extra s3`")
    command = [sys.executable, "-m", "moto.server", "-p", "0"]
    block = ("-m", "infrastructure.cli", "secret", "state-store-login")
    no_keys = {
        "MILLRACE_STATE_URL": "s3://bucket/millrace",
        "AWS_EC2_METADATA_DISABLED": "true", "AWS_DEFAULT_REGION": "us-east-1",
    }  # fmt: skip
    with server(command, tmp_path / "log", "Running on ") as url:
        httpx.put(f"{url}/bucket", timeout=PATIENCE).raise_for_status()
        try:
            assert scratch.run(*block, text='{"key": "made-up"}').returncode == 0
            done = scratch.run_pipeline("--skip", "docs", **no_keys)
            assert done.returncode == 2, done.stdout + done.stderr
            assert "login of the state store is not valid: secret: this field is" in done.stderr

            login = {"key": "made-up-key", "secret": "made/up+secret", "endpoint_url": url}
            assert scratch.run(*block, text=json.dumps(login)).returncode == 0
            done = scratch.run_pipeline("--skip", "docs", **no_keys)
            assert done.returncode == 0, done.stdout + done.stderr
            assert "made" not in done.stdout + done.stderr
        finally:
            named = {"name": {"any_": ["state-store-login"]}}
            (stored,) = project.asked("block_documents", block_documents=named)
            project.http.delete(f"/block_documents/{stored['id']}").raise_for_status()
        kept = httpx.get(
            f"{url}/bucket?prefix=millrace/runs/{scratch.target}/", timeout=PATIENCE
        ).text
    assert "/run.json" in kept
