"""Each way of being somebody at Google: by setup, through the blocks, to BigQuery's stand-in.

Who asks is read from the token of each request that reaches it. Tokens come from stand-ins for
Google's metadata, token and IAM servers, which check what they are shown.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.bigquery.emulator import BigQuery
from tests.support.bigquery.stand_ins import MACHINE_TOKEN, PROJECT
from tests.support.project import SCRATCH_DBT, Project, neighbour

# Its runs load the source of the example.
pytestmark = pytest.mark.example

TARGET = "google"
DBT = f"dbt-google@{PROJECT}.iam.gserviceaccount.com"
LOADER = f"loader@{PROJECT}.iam.gserviceaccount.com"
# No server of metadata: a laptop.
NO_MACHINE = {"GCE_METADATA_HOST": "", "GCE_METADATA_IP": "", "NO_GCE_CHECK": "true"}


@pytest.fixture
def somebody(project: Project, bigquery: BigQuery, tmp_path: Path) -> Project:
    """The small project, in Google's surroundings; its targets are in a project of their own."""
    somebody = neighbour(project, tmp_path / "millrace", SCRATCH_DBT)
    somebody.environment = bigquery.environment
    bigquery.proxy.clear()
    bigquery.google.accounts.clear()
    bigquery.google.may_impersonate.clear()
    return somebody


def set_up(somebody: Project, bigquery: BigQuery, key: Any = None, **target: object) -> None:
    values: dict[str, Any] = {
        "dbt_targets": {TARGET: bigquery.target("scratch", project="credentials", **target)}
    }
    if key is not None:
        values["dbt_target_secrets"] = {TARGET: {"service_account_key": key}}
    outputs = json.dumps({name: {"value": value} for name, value in values.items()})
    done = somebody.setup("--outputs", "-", "--target", TARGET, text=outputs)
    assert done.returncode == 0, done.stdout + done.stderr


def run(somebody: Project) -> subprocess.CompletedProcess[str]:
    """The flow: a source is loaded, and models are made."""
    return somebody.pipeline(
        "--target", TARGET, "--source", "nyc__flights", "--skip", "freshness", "--skip", "docs",
        "--no-resume",
    )  # fmt: skip


def askers(bigquery: BigQuery) -> set[str | None]:
    """The tokens of all requests to BigQuery: those of dlt, of dbt, of the check before."""
    return {asked.headers.get("authorization") for asked in bigquery.proxy.asked}


def files_that_hold(text: str, *folders: Path) -> list[Path]:
    return [
        file
        for folder in folders
        for file in folder.rglob("*")
        if file.is_file() and text in file.read_text(errors="replace")
    ]


@pytest.mark.nightly
def test_the_account_of_the_machine(somebody: Project, bigquery: BigQuery) -> None:
    set_up(somebody, bigquery)
    done = run(somebody)
    assert done.returncode == 0, done.stdout + done.stderr
    assert askers(bigquery) == {f"Bearer {MACHINE_TOKEN}"}


@pytest.mark.parametrize("form", [dict, json.dumps], ids=["object", "text"])
def test_a_key_in_terraform_s_outputs(somebody: Project, bigquery: BigQuery, form: Any) -> None:
    key = bigquery.google.new_key(DBT)
    set_up(somebody, bigquery, form(key))
    done = run(somebody)
    assert done.returncode == 0, done.stdout + done.stderr
    assert askers(bigquery) == {f"Bearer token-of-{DBT}"}
    # In the middle of the key, where no header of its format is.
    secret = key["private_key"].splitlines()[5]
    assert not files_that_hold(secret, somebody.folder / "dbt", somebody.local)
    assert secret not in done.stdout + done.stderr


def test_a_key_file(somebody: Project, bigquery: BigQuery, tmp_path: Path) -> None:
    """Google's own variable names it; where the target has no key it is what the machine offers."""
    file = tmp_path / "key.json"
    file.write_text(json.dumps(bigquery.google.new_key(LOADER)))
    set_up(somebody, bigquery)
    somebody.environment = bigquery.environment | {"GOOGLE_APPLICATION_CREDENTIALS": str(file)}
    done = run(somebody)
    assert done.returncode == 0, done.stdout + done.stderr
    assert askers(bigquery) == {f"Bearer token-of-{LOADER}"}


@pytest.mark.parametrize(
    "by_key",
    [
        pytest.param(False, id="by the machine"),
        pytest.param(True, id="by a key file", marks=pytest.mark.nightly),
    ],
)
def test_an_account_that_is_impersonated(
    somebody: Project, bigquery: BigQuery, tmp_path: Path, by_key: bool
) -> None:
    if by_key:
        file = tmp_path / "key.json"
        file.write_text(json.dumps(bigquery.google.new_key(LOADER)))
        somebody.environment = bigquery.environment | {"GOOGLE_APPLICATION_CREDENTIALS": str(file)}
    bigquery.google.may_impersonate.add(DBT)
    set_up(somebody, bigquery, impersonate_service_account=DBT)
    done = run(somebody)
    assert done.returncode == 0, done.stdout + done.stderr
    assert askers(bigquery) == {f"Bearer token-of-{DBT}"}
    asked = f"POST https://iamcredentials.googleapis.com/v1/projects/-/serviceAccounts/{DBT}"
    assert any(line.startswith(asked) for line in bigquery.google.asked)


def refused(somebody: Project, bigquery: BigQuery) -> str:
    """What the run says; it asked BigQuery for nothing, and did not try twice."""
    done = run(somebody)
    assert done.returncode != 0, done.stdout + done.stderr
    assert not bigquery.proxy.asked
    said = done.stdout + done.stderr
    # Prefect's words for a retry: "Retry 1/3 will start 30 second(s) from now".
    assert "will start" not in said
    return said


def test_a_key_that_is_revoked(somebody: Project, bigquery: BigQuery) -> None:
    key = bigquery.google.new_key(DBT)
    bigquery.google.accounts.clear()
    set_up(somebody, bigquery, key)
    said = refused(somebody, bigquery)
    assert "the key is wrong, revoked or expired" in said
    assert "google_service_account_key.dbt" in said


def test_an_account_that_may_not_be_impersonated(somebody: Project, bigquery: BigQuery) -> None:
    set_up(somebody, bigquery, impersonate_service_account=DBT)
    said = refused(somebody, bigquery)
    assert "roles/iam.serviceAccountTokenCreator" in said
    assert DBT in said


def test_nobody_at_all(somebody: Project, bigquery: BigQuery, tmp_path: Path) -> None:
    """And nobody is logged in on the way: dbt itself would call `gcloud`, which asks a person."""
    called = tmp_path / "called"
    gcloud = tmp_path / "bin" / "gcloud"
    gcloud.parent.mkdir()
    gcloud.write_text(f"#!/bin/sh\ntouch {called}\nsleep 600\n")
    gcloud.chmod(0o755)
    set_up(somebody, bigquery)
    path = somebody.variables()["PATH"]
    somebody.environment = bigquery.environment | NO_MACHINE | {"PATH": f"{gcloud.parent}:{path}"}
    said = refused(somebody, bigquery)
    assert "gcloud auth application-default login" in said
    assert not called.exists()
