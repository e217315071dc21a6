"""A target's profile: its secrets apart, from blocks and from profiles.yml."""

from __future__ import annotations

import http.server
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from prefect_flows.core import names
from prefect_flows.core.errors import ConfigurationError
from prefect_flows.core.profiles import Profile, profile_from_block, profile_from_file
from tests.support.ordinary_postgres import PASSWORD, ordinary_postgres
from tests.support.project import Project, serving

KEY = {"type": "service_account", "private_key": "made-up-secret", "client_email": "a@b.example"}


def bigquery(key: dict | None) -> Profile:
    return profile_from_block(
        {
            "name": "millrace",
            "target": "prod",
            "target_configs": {
                "type": "bigquery",
                "project": "made-up",
                "schema": "analytics",
                "threads": 8,
                "extras": {"location": "EU", "maximum_bytes_billed": 10},
                "credentials": {"service_account_info": key},
            },
        }
    )


def test_a_key_goes_to_dbt_by_variable() -> None:
    profile = bigquery(KEY)
    written = profile.dbt_output()
    assert written["method"] == "service-account-json"
    assert written["keyfile_json"] == KEY | {
        "private_key": "{{ env_var('DBT_ENV_SECRET_PROD_PRIVATE_KEY') }}"
    }
    assert profile.environment() == {"DBT_ENV_SECRET_PROD_PRIVATE_KEY": "made-up-secret"}
    assert profile.credentials()["keyfile_json"] == KEY
    assert "made-up-secret" not in repr(profile) + str(written)


def test_without_a_key_the_machine_answers() -> None:
    profile = bigquery(None)
    assert profile.dbt_output() == {
        "type": "bigquery", "method": "oauth", "project": "made-up", "schema": "analytics",
        "threads": 8, "location": "EU", "maximum_bytes_billed": 10,
    }  # fmt: skip
    assert profile.environment() == {}


def test_a_password_that_the_machine_offers(monkeypatch: pytest.MonkeyPatch) -> None:
    output = {"type": "postgres", "host": "h", "port": 5432, "user": "u", "dbname": "d"}
    profile = Profile.from_output("millrace", "prod", output | {"password": ""})
    assert profile.dbt_output()["password"] == "{{ env_var('PGPASSWORD', '') }}"
    monkeypatch.delenv("PGPASSWORD", raising=False)
    assert profile.credentials()["password"] == ""
    monkeypatch.setenv("PGPASSWORD", "made-up-secret")
    assert profile.credentials()["password"] == "made-up-secret"
    own = Profile.from_output("millrace", "prod", output | {"password": "its-own"})
    assert own.credentials()["password"] == "its-own"


def test_it_opens_a_postgres_that_asks_for_one(project: Project) -> None:
    """dbt by hand, with the `profiles.yml` that setup writes: an empty password would hide it."""
    file = project.folder / "dbt" / "profiles.yml"
    before = file.read_text()
    with ordinary_postgres() as postgres:
        target = {
            "type": "postgres", "host": str(postgres.folder), "port": postgres.port,
            "database": "postgres", "user": "prefect", "schema": "tried", "threads": 1,
        }  # fmt: skip
        outputs = {"dbt_targets": {"sensitive": False, "value": {"asking": target}}}
        try:
            done = project.setup(
                "--profiles-only", "--target", "asking", "--outputs", "-", text=json.dumps(outputs)
            )
            assert done.returncode == 0, done.stderr
            opened = project.dbt("debug", "--target", "asking", PGPASSWORD=PASSWORD)
            closed = project.dbt("debug", "--target", "asking")
        finally:
            file.write_text(before)
    assert opened.returncode == 0, opened.stdout
    assert PASSWORD not in opened.stdout
    assert closed.returncode != 0
    assert "no password supplied" in closed.stdout


PROFILES = """
millrace:
  target: prod
  outputs:
    prod: {type: postgres, host: h, port: 5432, user: u, dbname: d, schema: s, threads: 1,
           password: "{{ env_var('DBT_ENV_SECRET_PROD_PASSWORD') }}"}
"""


@pytest.fixture
def profiles(tmp_path: Path) -> Path:
    file = tmp_path / "dbt" / "profiles.yml"
    file.parent.mkdir()
    (file.parent / "dbt_project.yml").write_text("profile: millrace")
    file.write_text(PROFILES)
    return file


def test_a_secret_of_the_file_comes_from_the_environment(profiles, monkeypatch) -> None:
    monkeypatch.setenv("DBT_ENV_SECRET_PROD_PASSWORD", "made-up-secret")
    profile = profile_from_file(profiles, "prod")
    assert profile.credentials()["password"] == "made-up-secret"
    assert "made-up-secret" not in str(profile.dbt_output())


def test_a_secret_that_is_not_set_is_named(profiles, monkeypatch) -> None:
    monkeypatch.delenv("DBT_ENV_SECRET_PROD_PASSWORD", raising=False)
    with pytest.raises(ConfigurationError, match="DBT_ENV_SECRET_PROD_PASSWORD"):
        profile_from_file(profiles, "prod")


@pytest.mark.parametrize("text", ["", "- a list", "millrace: {}", "a: 1\nb: 2", "{"])
def test_a_file_that_is_none_is_named(profiles: Path, text: str) -> None:
    profiles.write_text(text)
    with pytest.raises(ConfigurationError) as error:
        profile_from_file(profiles, "prod")
    assert f"where: {profiles}" in str(error.value)
    assert "--profiles-only" in str(error.value)


def test_other_profiles_of_the_file_are_passed_over(profiles: Path, monkeypatch) -> None:
    monkeypatch.setenv("DBT_ENV_SECRET_PROD_PASSWORD", "made-up-secret")
    profiles.write_text("other: {outputs: {prod: {type: postgres}}}\n" + PROFILES)
    assert profile_from_file(profiles, "prod").output["host"] == "h"


def test_a_target_that_the_file_lacks_is_named(profiles: Path) -> None:
    with pytest.raises(ConfigurationError, match="no target 'dev'; it has prod"):
        profile_from_file(profiles, "dev")


@pytest.fixture
def refusing_api() -> Iterator[str]:
    """An API that is healthy and knows nobody, as Prefect Cloud is for a wrong key."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path.endswith("/health") else 401)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

    with serving(Handler) as url:
        yield f"{url}/api"


def test_an_api_that_refuses_is_reported_in_words(project: Project, refusing_api: str) -> None:
    done = project.setup("--blocks-only", PREFECT_API_URL=refusing_api)
    assert done.returncode == 2
    assert "PrefectUnreachable: The Prefect API refuses: 401 Unauthorized" in done.stderr
    assert "PREFECT_API_KEY" in done.stderr
    assert "Traceback" not in done.stderr


def test_names_are_those_of_the_contract() -> None:
    assert names.profile_block("dev") == "dbt-cli-profile-dev"
    assert names.target_configs_block("bigquery", "prod") == "bigquery-target-configs-prod"
    assert names.postgres_credentials_block("dev") == "postgres-credentials-dev"
    assert names.gcp_credentials_block() == "gcp-credentials"
    assert names.gcp_credentials_block("prod") == "gcp-credentials-prod"
    assert names.secret_variable("blue-2", "password") == "DBT_ENV_SECRET_BLUE_2_PASSWORD"
