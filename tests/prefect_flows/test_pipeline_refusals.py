"""What is wrong before anything is run: said in words, with an exit code, and nothing changed."""

from __future__ import annotations

import json
import re
import time

import pytest

from prefect_flows.core.names import secret_variable
from prefect_flows.ingest.source_registry import source_names
from tests.support.project import PATIENCE, Project, Scratch, until


def test_an_unknown_target_names_the_block_the_command_and_those_that_exist(
    project: Project,
) -> None:
    done = project.pipeline("--target", "unheard-of")

    assert done.returncode == 2
    assert "BlockMissing: Block 'dbt-cli-profile-unheard-of' does not exist" in done.stderr
    assert "setup has not been run for target 'unheard-of'" in done.stderr
    # Those of tests that ran before are among them.
    assert re.search(r"targets that exist: [a-z, -]*\bdev\b[a-z, -]*\)", done.stderr)
    assert "uv run millrace setup --target unheard-of" in done.stderr
    assert "Traceback" not in done.stderr
    assert project.runs("unheard-of") == []


def test_a_target_that_is_misspelt_is_guessed_before_a_run_begins(
    project: Project, scratch: Scratch
) -> None:
    for api in ((), ("--no-prefect",)):
        done = scratch.pipeline("--target", "scrtach", *api)
        assert done.returncode == 2
        assert "Did you mean 'scratch'?" in done.stderr
        assert "Beginning flow run" not in done.stderr
    assert project.runs("scrtach") == []


def test_a_target_that_is_not_a_name_is_refused_before_a_run_begins(project: Project) -> None:
    done = project.pipeline("--target", "Dev_1", "--skip", "tests", "--vars", "[1]")

    assert done.returncode == 2
    for fault in ("target: not a valid", "skip.0: must be", "vars: must be a mapping"):
        assert fault in done.stderr
    assert "Beginning flow run" not in done.stderr


@pytest.mark.example
def test_an_unknown_source_stops_before_anything_is_run(scratch: Scratch) -> None:
    done = scratch.pipeline("--target", scratch.target, "--source", "nyc__fligths")

    assert done.returncode == 2
    there_are = ", ".join(source_names())
    assert f"Source 'nyc__fligths' does not exist; there are: {there_are}." in done.stderr
    assert "Did you mean 'nyc__flights'?" in done.stderr
    assert "Beginning flow run" not in done.stderr
    assert scratch.relations() == set()


def test_a_selection_of_nothing_stops_before_anything_is_run(scratch: Scratch) -> None:
    done = scratch.run_pipeline("--select", "fct_nothing")

    assert done.returncode == 2
    assert "SelectionError: The selection matches no node of the dbt project." in done.stderr
    assert "where: --select=fct_nothing" in done.stderr
    assert scratch.relations() == set()


def test_a_project_that_does_not_parse_stops_before_anything_is_run(scratch: Scratch) -> None:
    scratch.model("broken", "select * from {{ ref('nothing_of_this_name') }}")

    done = scratch.run_pipeline()

    assert done.returncode == 2
    assert "ProjectError: The dbt project does not parse:" in done.stderr
    assert "nothing_of_this_name" in done.stderr
    assert "uv run dbt parse" in done.stderr
    assert scratch.relations() == set()
    # Its page has the cause, and is linked like that of any run.
    state = scratch.local / "state"
    page = (state / "targets" / scratch.target / "report.html").read_text()
    assert "The dbt project does not parse:" in page
    assert "The run ended before its first stage." in page
    assert f"targets/{scratch.target}/report.html" in (state / "index.html").read_text()


@pytest.mark.parametrize("retries", ["many", "-1"])
def test_a_setting_that_is_none_is_named(scratch: Scratch, retries: str) -> None:
    done = scratch.run_pipeline(MILLRACE_STAGES__DBT_RUN__RETRIES=retries)

    assert done.returncode == 2
    assert "MILLRACE_STAGES__DBT_RUN__RETRIES: must be" in done.stderr


def test_a_setting_that_does_not_exist_is_named(scratch: Scratch) -> None:
    done = scratch.run_pipeline(MILLRACE_STAGE__DBT_RUN__RETRIES="1")

    assert done.returncode == 2
    assert "Unknown settings: MILLRACE_STAGE__DBT_RUN__RETRIES." in done.stderr


def test_an_api_that_is_down_is_reported_immediately(scratch: Scratch) -> None:
    started = time.monotonic()
    done = scratch.run_pipeline(PREFECT_API_URL="http://127.0.0.1:9/api")

    assert done.returncode == 2
    assert "PrefectUnreachable: The Prefect API does not answer" in done.stderr
    assert "where: PREFECT_API_URL=http://127.0.0.1:9/api" in done.stderr
    assert "--no-prefect" in done.stderr
    assert time.monotonic() - started < 20
    assert scratch.relations() == set()


def test_a_missing_api_is_reported_and_no_ephemeral_one_starts(scratch: Scratch) -> None:
    (scratch.folder / "prefect.toml").unlink()

    done = scratch.run_pipeline()

    assert done.returncode == 2
    assert "ConfigurationError: No Prefect API is configured." in done.stderr
    assert "uv run millrace up" in done.stderr


def point_target_at(scratch: Scratch, **fields: object) -> None:
    """Change the target's address, or give it a password, by way of setup."""
    outputs = json.loads((scratch.folder / "outputs.json").read_text())
    password = fields.pop("password", None)
    outputs["dbt_targets"]["value"][scratch.target] |= fields
    if password is not None:
        outputs["dbt_target_secrets"] = {"value": {scratch.target: {"password": password}}}
    (scratch.folder / "outputs.json").write_text(json.dumps(outputs))
    done = scratch.setup(
        "--outputs", str(scratch.folder / "outputs.json"), "--target", scratch.target
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_warehouse_that_is_down_is_reported_before_anything_is_run(scratch: Scratch) -> None:
    point_target_at(scratch, host="127.0.0.1", port=9)

    done = scratch.run_pipeline()

    assert done.returncode == 2
    assert (
        f"WarehouseUnreachable: Cannot connect to the warehouse of target '{scratch.target}'"
        in done.stderr
    )
    assert "Connection refused" in done.stderr
    assert "where: postgres postgres@127.0.0.1:9" in done.stderr
    assert f"millrace setup --target {scratch.target}" in done.stderr


def test_a_warehouse_that_takes_no_connections_now_is_waited_for(scratch: Scratch) -> None:
    scratch.query("drop role if exists busy; create role busy login connection limit 0")
    scratch.query("alter database scratch owner to busy")
    point_target_at(scratch, user="busy")
    wait = {"RETRIES": "50", "RETRY_DELAY_SECONDS": "0.2"}
    log = scratch.folder / "log"
    with log.open("w") as output:
        process = scratch.start_pipeline(
            "--select", "numbers", "--skip", "docs", output=output,
            **{f"MILLRACE_STAGES__CONNECT__{name}": value for name, value in wait.items()},
        )  # fmt: skip
        until(lambda: "too many connections for role" in log.read_text() or process.poll())
        scratch.query("alter role busy connection limit -1")
        assert process.wait(PATIENCE) == 0, log.read_text()
    assert "numbers" in scratch.relations()
    assert "wait until others have closed theirs" in log.read_text()


def test_a_database_that_does_not_exist_is_named(scratch: Scratch) -> None:
    point_target_at(scratch, database="nowhere")

    done = scratch.run_pipeline()

    assert done.returncode == 2
    assert 'database "nowhere" does not exist' in done.stderr


def test_wrong_credentials_are_reported_without_the_secret(
    project: Project, scratch: Scratch
) -> None:
    # GIVEN a role that has to give a password, which the embedded server asks of no other
    rules = project.local / "postgres" / "pg_hba.conf"
    before = rules.read_text()
    role = f"role_{scratch.database}"
    project.query(f"create role {role} login password 'right-made-up' superuser")
    rules.write_text(f"local all {role} scram-sha-256\n{before}")
    project.query("select pg_reload_conf()")
    try:
        # WHEN the block holds another one
        point_target_at(scratch, user=role, password="wrong-made-up")
        wrong = scratch.run_pipeline()
        # THEN it is said, and nothing was built
        assert wrong.returncode == 2
        assert f'password authentication failed for user "{role}"' in wrong.stderr
        assert scratch.relations() == set()

        # WHEN the block holds the right one THEN all works, and the password is nowhere
        point_target_at(scratch, password="right-made-up")
        right = scratch.run_pipeline()
        assert right.returncode == 0, right.stdout + right.stderr
        for password in ("wrong-made-up", "right-made-up"):
            assert password not in wrong.stdout + wrong.stderr + right.stdout + right.stderr
            for folder in (scratch.folder / ".local", scratch.folder / "dbt"):
                found = [
                    file
                    for file in folder.rglob("*")
                    if file.is_file() and password.encode() in file.read_bytes()
                ]
                assert found == []
        run = project.last_run(scratch.target)
        logs = project.http.post(
            "/logs/filter",
            json={"logs": {"flow_run_id": {"any_": [run["id"]]}}, "limit": 200},
        ).text
        assert "dbt-run" in logs or "numbers" in logs
        assert "made-up" not in logs

        # AND by hand, dbt takes it from the variable that profiles.yml names
        variable = secret_variable(scratch.target, "password")
        profiles = (scratch.folder / "dbt" / "profiles.yml").read_text()
        assert f"password: '{{{{ env_var(''{variable}'') }}}}'" in profiles
        by_hand = scratch.dbt("run", "--target", scratch.target, **{variable: "right-made-up"})
        assert by_hand.returncode == 0, by_hand.stdout
    finally:
        rules.write_text(before)
        project.query("select pg_reload_conf()")
        project.query(f"drop database {scratch.database} with (force); ")
        project.query(f"drop role {role}")
