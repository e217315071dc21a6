"""Causes of BigQuery's errors: raised by its real client, which a local server answers.

The server speaks as Google's does: with its JSON for an error of a call, and with a job that has
ended in an error for a query that fails, which is how most of them come back.
"""

from __future__ import annotations

import http.server
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from google.api_core.exceptions import GoogleAPICallError
from google.auth.credentials import AnonymousCredentials
from google.auth.exceptions import DefaultCredentialsError, RefreshError, TransportError
from google.cloud.bigquery import Client
from google.oauth2 import service_account
from requests.exceptions import ConnectionError as RequestsConnectionError

from prefect_flows.core.failure_class import FailureClass, bigquery_cause, classify
from tests.support.project import REPOSITORY, SCRATCH_DBT, Project, serving

JSON = dict[str, Any]

# Where the server puts the rows of each query that passes.
ANSWER = {"projectId": "made-up", "datasetId": "scratch", "tableId": "answer"}
SCHEMA = {"fields": [{"name": "id", "type": "INTEGER"}]}


class Google(http.server.BaseHTTPRequestHandler):
    """A BigQuery and a token server whose answers a test sets."""

    # HTTP status and body of an answer to a query; the error of its job; the answer to who asks
    # for a token; and what a query has to hold to fail.
    failure: tuple[int, bytes] | None = None
    job_error: JSON | None = None
    fails_on: str = ""
    token: tuple[int, JSON] = (200, {"access_token": "made-up", "expires_in": 3600})

    def do_GET(self) -> None:
        if "/jobs/" in self.path or "/queries/" in self.path:
            self.answer_job(fails=not type(self).fails_on)
        elif self.path.split("?")[0].endswith("/datasets"):
            reference = {"projectId": "made-up", "datasetId": "scratch"}
            self.answer(200, {"datasets": [{"datasetReference": reference}]})
        elif self.path.split("?")[0].endswith("/tables"):
            self.answer(200, {"tables": []})
        elif "/tables/answer" in self.path:
            self.answer(200, {"tableReference": ANSWER, "schema": SCHEMA, "numRows": "0"})
        elif "/tables/" in self.path:
            self.answer(404, error_of(404, "notFound"))
        else:
            self.answer(200, {"datasetReference": {"projectId": "made-up", "datasetId": "scratch"}})

    def do_POST(self) -> None:
        text = self.rfile.read(int(self.headers["Content-Length"])).decode()
        if self.path.startswith("/token"):
            self.answer(*type(self).token)
            return
        self.answer_job(json.loads(text).get("jobReference"), fails=type(self).fails_on in text)

    def answer_job(self, reference: JSON | None = None, *, fails: bool) -> None:
        failure, job_error = type(self).failure, type(self).job_error
        if failure is not None and fails:
            self.answer(*failure)
            return
        status: JSON = {"state": "DONE"}
        if job_error is not None and fails:
            status |= {"errorResult": job_error, "errors": [job_error]}
        job_id = re.sub(r".*/(jobs|queries)/|\?.*", "", self.path)
        self.answer(
            200,
            {
                "kind": "bigquery#job",
                "jobReference": reference or {"projectId": "made-up", "jobId": job_id},
                "configuration": {"query": {"query": "select 1", "destinationTable": ANSWER}},
                "status": status,
                "statistics": {"query": {"statementType": "SELECT"}},
                "jobComplete": True,
                "schema": SCHEMA,
                "totalRows": "0",
            },
        )

    def answer(self, status: int, body: JSON | bytes) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def error_of(status: int, reason: str) -> JSON:
    """An error as Google's APIs describe it."""
    detail = {"message": "Made up.", "domain": "global", "reason": reason}
    return {"error": {"code": status, "message": "Made up.", "errors": [detail]}}


@pytest.fixture
def google() -> type[Google]:
    """The server's answers, to be set by a test."""
    return type("Answers", (Google,), {})


@pytest.fixture
def client(google: type[Google]) -> Iterator[Client]:
    with serving(google) as url:
        # The server is a subclass of its own; what a test sets on `google` is inherited by it.
        client = Client(
            project="made-up",
            credentials=AnonymousCredentials(),
            client_options={"api_endpoint": url},
        )
        yield client
        client.close()


def failing_query(client: Client) -> Exception:
    """The error of a query, which the client tries once."""
    with pytest.raises(Exception) as error:  # noqa: PT011 which one it is, the tests ask
        client.query("select 1", retry=None, job_retry=None).result(retry=None, job_retry=None)
    return error.value


@pytest.mark.parametrize(
    ("status", "reason", "cause"),
    [
        (403, "rateLimitExceeded", FailureClass.TRANSIENT),
        (403, "quotaExceeded", FailureClass.TRANSIENT),
        (400, "jobRateLimitExceeded", FailureClass.TRANSIENT),
        (500, "backendError", FailureClass.TRANSIENT),
        (503, "backendError", FailureClass.TRANSIENT),
        (500, "internalError", FailureClass.TRANSIENT),
        (503, "a reason that nobody knows", FailureClass.TRANSIENT),
        (429, "a reason that nobody knows", FailureClass.TRANSIENT),
        (403, "accessDenied", FailureClass.CONFIGURATION),
        (403, "a reason that nobody knows", FailureClass.CONFIGURATION),
        (404, "notFound", FailureClass.CONFIGURATION),
        (400, "invalidQuery", FailureClass.CODE),
        (400, "invalid", FailureClass.CODE),
        (400, "resourcesExceeded", FailureClass.CODE),
        (409, "duplicate", FailureClass.CODE),
        (501, "notImplemented", FailureClass.CODE),
        (400, "stopped", FailureClass.CANCELLED),
    ],
)
def test_a_call_that_is_answered_with_an_error(
    google: type[Google], client: Client, status: int, reason: str, cause: FailureClass
) -> None:
    google.failure = (status, json.dumps(error_of(status, reason)).encode())

    error = failing_query(client)

    assert isinstance(error, GoogleAPICallError)
    assert error.code == status
    assert bigquery_cause(error) is cause


@pytest.mark.parametrize("body", [b"<html>Bad Gateway</html>", b""], ids=["page", "nothing"])
def test_a_gateway_that_answers_with_no_reason(
    google: type[Google], client: Client, body: bytes
) -> None:
    google.failure = (502, body)
    assert classify(failing_query(client)) is FailureClass.TRANSIENT


@pytest.mark.parametrize(
    ("reason", "cause"),
    [
        ("rateLimitExceeded", FailureClass.TRANSIENT),
        ("quotaExceeded", FailureClass.TRANSIENT),
        ("jobRateLimitExceeded", FailureClass.TRANSIENT),
        ("backendError", FailureClass.TRANSIENT),
        ("internalError", FailureClass.TRANSIENT),
        ("jobBackendError", FailureClass.TRANSIENT),
        ("tableUnavailable", FailureClass.TRANSIENT),
        ("accessDenied", FailureClass.CONFIGURATION),
        ("notFound", FailureClass.CONFIGURATION),
        ("stopped", FailureClass.CANCELLED),
        ("invalidQuery", FailureClass.CODE),
        ("invalid", FailureClass.CODE),
        ("resourcesExceeded", FailureClass.CODE),
        # The client makes a status 500 of it, as of `internalError`.
        ("a reason that nobody knows", FailureClass.CODE),
    ],
)
def test_a_job_that_ended_in_an_error(
    google: type[Google], client: Client, reason: str, cause: FailureClass
) -> None:
    google.job_error = {"reason": reason, "message": "Made up.", "location": "query"}

    error = failing_query(client)

    assert isinstance(error, GoogleAPICallError)
    assert bigquery_cause(error) is cause


def test_credentials_that_are_refused(google: type[Google], client: Client) -> None:
    google.failure = (401, json.dumps(error_of(401, "authError")).encode())
    assert classify(failing_query(client)) is FailureClass.CONFIGURATION


def test_nobody_listens() -> None:
    client = Client(
        project="made-up",
        credentials=AnonymousCredentials(),
        client_options={"api_endpoint": "http://127.0.0.1:9"},
    )
    error = failing_query(client)
    assert isinstance(error, RequestsConnectionError)
    assert classify(error) is FailureClass.TRANSIENT


def key_of(url: str) -> JSON:
    """A service account's key, made now, whose tokens the server at the address gives."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return {
        "type": "service_account",
        "client_email": "made-up@example.org",
        "token_uri": f"{url}/token",
        "private_key": key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ).decode(),
    }


@pytest.mark.bigquery
@pytest.mark.parametrize(
    ("answer", "cause"),
    [
        ((400, {"error": "invalid_grant"}), FailureClass.CONFIGURATION),
        ((503, {"error": "internal_failure"}), FailureClass.TRANSIENT),
    ],
    ids=["refused", "failed"],
)
def test_a_token_that_is_not_given(
    google: type[Google], answer: tuple[int, JSON], cause: FailureClass
) -> None:
    google.token = answer
    with serving(google) as url:
        credentials = service_account.Credentials.from_service_account_info(key_of(url))
        client = Client(
            project="made-up", credentials=credentials, client_options={"api_endpoint": url}
        )
        error = failing_query(client)
        client.close()
    assert isinstance(error, RefreshError)
    assert classify(error) is cause


def test_a_server_of_tokens_that_does_not_listen() -> None:
    credentials = service_account.Credentials.from_service_account_info(
        key_of("http://127.0.0.1:9")
    )
    error = failing_query(Client(project="made-up", credentials=credentials))
    assert isinstance(error, TransportError)
    assert classify(error) is FailureClass.TRANSIENT


def test_no_credentials_at_all() -> None:
    assert classify(DefaultCredentialsError("none were found")) is FailureClass.CONFIGURATION


def test_a_cause_is_found_without_importing_google() -> None:
    code = (
        "import sys; from prefect_flows.core.failure_class import classify; "
        "print(classify(ValueError())); "
        "assert not [m for m in sys.modules if m.startswith(('google.a', 'requests'))]"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "code\n"


def on_google(tmp_path: Path, url: str, **output: Any) -> Project:
    """The scratch project with a target on the server."""
    project = Project(tmp_path / "millrace")
    shutil.copytree(SCRATCH_DBT, project.folder / "dbt")
    (project.folder / "prefect_flows").symlink_to(REPOSITORY / "prefect_flows")
    output |= {
        "type": "bigquery",
        "project": "made-up",
        "dataset": "scratch",
        "threads": 1,
        "job_retries": 0,
        "api_endpoint": url,
    }
    profiles = {"millrace": {"target": "google", "outputs": {"google": output}}}
    (project.folder / "dbt" / "profiles.yml").write_text(yaml.safe_dump(profiles))
    return project


@pytest.mark.bigquery
@pytest.mark.parametrize(
    ("failure", "job_error", "cause"),
    [
        # A call whose answer may pass is not here: dbt's client repeats it for ten minutes.
        ((403, "accessDenied"), None, FailureClass.CONFIGURATION),
        (None, "backendError", FailureClass.TRANSIENT),
    ],
)
def test_the_error_is_found_behind_that_of_dbt(
    google: type[Google],
    tmp_path: Path,
    failure: tuple[int, str] | None,
    job_error: str | None,
    cause: FailureClass,
) -> None:
    google.fails_on = "create or replace table"
    if failure is not None:
        google.failure = (failure[0], json.dumps(error_of(*failure)).encode())
    if job_error is not None:
        google.job_error = {"reason": job_error, "message": "Made up."}
    with serving(google) as url:
        project = on_google(tmp_path, url, method="oauth-secrets", token="made-up")
        done = project.pipeline(
            *("--target", "google", "--skip", "ingest", "--no-prefect", "--select", "numbers"),
            MILLRACE_STAGES__DBT_RUN__RETRIES="1",
            MILLRACE_STAGES__DBT_RUN__RETRY_DELAY_SECONDS="0",
        )

    assert done.returncode == 1, done.stdout + done.stderr
    assert f"First cause ({cause}), model numbers:" in done.stderr
    assert ("Trying again" in done.stderr) == (cause is FailureClass.TRANSIENT)


@pytest.mark.bigquery
@pytest.mark.parametrize(
    ("failure", "fix"),
    [
        ((403, "accessDenied"), "needs roles/bigquery.jobUser in project made-up, and"),
        ((404, "notFound"), "correct project (made-up), dataset (scratch) or location"),
    ],
)
def test_what_google_refuses_is_reported_before_anything_is_run_with_what_fixes_it(
    google: type[Google], tmp_path: Path, failure: tuple[int, str], fix: str
) -> None:
    google.failure = (failure[0], json.dumps(error_of(*failure)).encode())
    with serving(google) as url:
        project = on_google(tmp_path, url, method="oauth-secrets", token="made-up")
        done = project.pipeline("--target", "google", "--skip", "ingest", "--no-prefect")

    assert done.returncode == 2, done.stdout + done.stderr
    assert (
        "WarehouseUnreachable: Cannot connect to the warehouse of target 'google': " in done.stderr
    )
    assert "where: bigquery made-up" in done.stderr
    assert fix in done.stderr
    assert "terraform apply in infrastructure/terraform/gcp" in done.stderr


@pytest.mark.bigquery
def test_a_key_that_google_refuses_is_reported_with_how_to_make_another(
    google: type[Google], tmp_path: Path
) -> None:
    google.token = (400, {"error": "invalid_grant", "error_description": "Made up."})
    with serving(google) as url:
        key = key_of(url)
        project = on_google(tmp_path, url, method="service-account-json", keyfile_json=key)
        done = project.pipeline("--target", "google", "--skip", "ingest", "--no-prefect")

    assert done.returncode == 2, done.stdout + done.stderr
    assert (
        "WarehouseUnreachable: Cannot connect to the warehouse of target 'google': " in done.stderr
    )
    assert "the key is wrong, revoked or expired: make another (terraform apply -replace=" in (
        done.stderr
    )
    assert key["private_key"].splitlines()[1] not in done.stdout + done.stderr
