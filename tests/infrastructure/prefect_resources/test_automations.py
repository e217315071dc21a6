"""Automations on a Prefect server of their own, whose services run, and a receiver on loopback."""

from __future__ import annotations

import http.server
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from infrastructure.prefect_resources.automations.automation_resources import build_desired
from infrastructure.prefect_resources.automations.automations_file import (
    AUTOMATIONS_FILE,
    read_automations,
)
from infrastructure.prefect_resources.automations.triggers import (
    build_target_findings,
    build_zombie_finding,
)
from infrastructure.prefect_resources.config_files import ENGINE_CONFIG_DIR
from prefect_flows.core.errors import ConfigurationError
from tests.infrastructure.setup_profiles.test_contract import POSTGRES
from tests.support.prefect_servers import server
from tests.support.project import Project, api_client, copy_of_the_project, serving, until

if TYPE_CHECKING:
    from prefect.client.base import PrefectHttpxSyncClient

COMMAND = ("-m", "infrastructure.cli", "automations")
UI = "https://prefect.example.com"
# What the automations of a target with a receiver are called, in the order of their making.
FINDINGS = ("late", "pending", "stuck", "missing", "crashed")
OFF: dict[str, Any] = dict.fromkeys(FINDINGS, False)
AUTH_STRING = "millrace:made-up-9"
FAST: dict[str, str] = {
    # As every server of the project has it: what automations do goes through its own API.
    "PREFECT_SERVER_API_AUTH_STRING": AUTH_STRING,
    "PREFECT_SERVER_API_CSRF_PROTECTION_ENABLED": "true",
    "PREFECT_SERVER_SERVICES_LATE_RUNS_AFTER_SECONDS": "1",
    "PREFECT_SERVER_SERVICES_LATE_RUNS_LOOP_SECONDS": "1",
    "PREFECT_SERVER_EVENTS_PROACTIVE_GRANULARITY": "PT1S",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_UI_URL": UI,
}
GROUND = """
import sys
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.blocks.system import Secret
for name in sys.argv[2:]:
    CustomWebhookNotificationBlock(
        name=name, url=sys.argv[1],
        json_data={"block": "{{name}}", "subject": "{{subject}}", "body": "{{body}}"},
    ).save(name)
# Begins like a receiver of prod, and is none.
Secret(value="made-up-7").save("notify-prod--note")

from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.schedules import CronSchedule
from prefect_flows.core.names import run_tag
with get_client(sync_client=True) as client:
    flow = client.create_flow_from_name("dbt-full-pipeline")
    for target, crons in {"prod": ["0 2 * * *"], "slow": []}.items():
        client.create_deployment(
            flow, f"dbt-{target}", tags=["millrace", run_tag(target)], paused=True,
            schedules=[DeploymentScheduleCreate(schedule=CronSchedule(cron=c)) for c in crons],
        )
"""
# A run by itself, as the pipeline's command line begins one; Prefect sends its first heartbeat.
RUN = """
import sys, time
from prefect import flow, tags
from prefect_flows.core.names import run_tag

@flow(name="dbt-full-pipeline", flow_run_name="{target}")
def pipeline(target):
    print("begun", flush=True)
    time.sleep(300)

with tags(run_tag(sys.argv[1])):
    pipeline(sys.argv[1])
"""


@dataclass
class Stage:
    """The project, its server, and what the receiver was told."""

    project: Project
    http: PrefectHttpxSyncClient
    receiver: str
    told: list[dict[str, str]]

    def setup(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.project.run(*COMMAND, *arguments)

    def health(self) -> dict[str, tuple[str, str]]:
        """What the health check says of automations, by target."""
        done = self.project.run("-m", "infrastructure.cli", "health", "--json", "--timeout", "30")
        checks = json.loads(done.stdout)["checks"]
        return {
            each["subject"]: (each["status"], each["message"])
            for each in checks
            if each["name"] == "automations"
        }

    def post(self, path: str, **body: Any) -> Any:
        answer = self.http.post(f"/{path}", json=body)
        answer.raise_for_status()
        return answer.json() if answer.content else None

    def automations(self) -> dict[str, dict[str, Any]]:
        return {each["name"]: each for each in self.post("automations/filter")}

    def run_of(self, target: str, type_: str, name: str, **details: Any) -> str:
        """A run of the target's deployment, in a state."""
        found = self.http.get(f"/deployments/name/dbt-full-pipeline/dbt-{target}").json()
        state = {"type": type_, "name": name, "state_details": details}
        run = self.post(f"deployments/{found['id']}/create_flow_run", state=state)
        return str(run["id"])

    def about(self, words: str) -> list[dict[str, str]]:
        """What was told with these words in its subject."""
        return [each for each in self.told if words in each["subject"]]


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("automations")
    copied = copy_of_the_project(folder / "millrace")
    outputs = folder / "outputs.json"
    targets = dict.fromkeys(("prod", "slow", "staging"), POSTGRES)
    outputs.write_text(json.dumps({"dbt_targets": {"sensitive": False, "value": targets}}))
    told: list[dict[str, str]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

    home = {"PREFECT_HOME": str(folder / "prefect")}
    with serving(Handler) as receiver, server(copied, folder / "log", **home, **FAST) as url:
        project = Project(
            copied.folder, {"PREFECT_API_URL": url, "PREFECT_API_AUTH_STRING": AUTH_STRING} | home
        )
        for arguments in (
            ("-m", "infrastructure.cli", "setup", "--outputs", str(outputs), "--blocks-only"),
            ("-c", GROUND, receiver, "notify-prod", "notify-prod--ops", "notify-slow"),
        ):
            done = project.run(*arguments)
            assert done.returncode == 0, done.stdout + done.stderr
        yield Stage(project, api_client(url, AUTH_STRING), receiver, told)


@pytest.fixture
def anew(stage: Stage) -> Stage:
    """Without an automation."""
    for each in stage.automations().values():
        stage.http.delete(f"/automations/{each['id']}").raise_for_status()
    return stage


def file_of(folder: Path, zombies: Any = "10s", **targets: dict[str, Any]) -> Path:
    """The project's own file, with times of a test's size."""
    document = yaml.safe_load((ENGINE_CONFIG_DIR / AUTOMATIONS_FILE).read_text())
    document |= {"server": {"zombies": zombies}, "targets": targets}
    file = folder / "automations.yaml"
    file.write_text(yaml.safe_dump(document))
    return file


@contextmanager
def running(stage: Stage, target: str) -> Iterator[subprocess.Popen[str]]:
    """A flow run in a process of its own that has begun, and whose heartbeat has come."""
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, target], cwd=stage.project.folder, stdout=subprocess.PIPE,
        env=stage.project.variables(), stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        beat = {"event": {"name": ["prefect.flow-run.heartbeat"]}}
        until(lambda: stage.post("events/filter", filter=beat)["events"])
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.mark.operations
def test_automations_are_created_once_for_targets_with_recipients(
    anew: Stage, tmp_path: Path
) -> None:
    stage = anew
    seen = stage.setup("--check", "--file", str(file_of(tmp_path, nowhere={"late": "5m"})))
    assert seen.returncode == 1
    assert "Target nowhere: automations.yaml has times for it, and setup has not" in seen.stdout
    assert stage.automations() == {}
    done = stage.setup()
    assert done.returncode == 0, done.stdout + done.stderr
    # THEN a target without a receiver is left out with a word, and one without a schedule is not
    # expected to be refreshed
    assert "Automations: 10 created, 0 updated, 0 unchanged." in done.stdout
    assert re.search(r"left out\W+target staging\W+there is no block notify-staging", done.stdout)
    assert (
        "Target staging: no notification blocks, so no automations. Name receivers in "
        "Terraform's dbt_target_notices, apply it, then: "
        "uv run millrace setup; "
        "uv run millrace automations --target staging" in done.stdout
    )
    made = stage.automations()
    assert set(made) == {
        "millrace: zombies",
        *(f"millrace: prod: {each}" for each in FINDINGS),
        *(f"millrace: slow: {each}" for each in FINDINGS if each != "missing"),
    }
    # THEN every receiver is told, and a block that cannot notify is none
    assert len(made["millrace: prod: late"]["actions"]) == 2
    assert len(made["millrace: slow: late"]["actions"]) == 1
    assert "made-up-7" not in json.dumps(made)

    # THEN the health check says so of targets with receivers, and nothing of the other
    health = stage.health()
    assert health == {"prod": ("ok", "6 match the file"), "slow": ("ok", "5 match the file")}

    again = stage.setup()
    assert "Automations: 0 created, 0 updated, 10 unchanged." in again.stdout
    assert stage.setup("--check").returncode == 0
    # THEN what was not changed was not written: its windows are still open
    assert stage.automations() == made


@pytest.mark.operations
def test_changes_are_seen_and_others_are_left_alone(anew: Stage, tmp_path: Path) -> None:
    stage = anew
    assert stage.setup().returncode == 0
    before = stage.automations()
    # GIVEN two of somebody else, one with our tag; one of ours that is paused, one that is edited
    theirs = before["millrace: prod: late"] | {"name": "somebody's own", "tags": ["millrace"]}
    for field in ("id", "created", "updated"):
        del theirs[field]
    stage.post("automations/", **theirs)
    stage.post("automations/", **(theirs | {"name": "millrace: by hand", "tags": []}))
    paused, edited = before["millrace: prod: stuck"], before["millrace: prod: late"]
    stage.http.patch(f"/automations/{paused['id']}", json={"enabled": False}).raise_for_status()
    body = {key: edited[key] for key in ("name", "description", "tags", "trigger", "actions")}
    body["actions"] = [
        {"type": "call-webhook", "block_document_id": edited["actions"][0]["block_document_id"],
         "payload": {"token": "made-up-8"}},
    ]  # fmt: skip
    stage.http.put(f"/automations/{edited['id']}", json=body).raise_for_status()

    health = stage.health()
    assert health["prod"] == ("warning", "differs from the file: update millrace: prod: late")
    assert health["slow"][0] == "ok"

    # WHEN a file of other times is looked at, for which slow has no `late` any more
    file = file_of(tmp_path, "20m", prod={"stuck": "3h"}, slow={"late": False})
    seen = stage.setup("--check", "--file", str(file))
    assert seen.returncode == 1
    said = re.sub(r"\s*│?\s+│[\s│]*", " ", seen.stdout)
    assert "trigger.within: 900.0 → 1200.0" in said
    assert "trigger.within: 21600.0 → 10800.0" in said
    assert "actions.1.type: call-webhook → send-notification" in said
    assert "made-up-8" not in seen.stdout
    assert "nothing asks for it; --prune removes it" in said

    # THEN one target is written by itself, and only what is orphaned of it goes
    done = stage.setup("--target", "prod", "--file", str(file), "--prune")
    assert "Automations: 0 created, 3 updated, 3 unchanged." in done.stdout, done.stdout
    done = stage.setup("--file", str(file), "--prune")
    assert "Automations: 0 created, 0 updated, 9 unchanged, 1 removed." in done.stdout
    after = stage.automations()
    assert set(before) - set(after) == {"millrace: slow: late"}
    assert {"somebody's own", "millrace: by hand"} <= set(after)
    assert not after["millrace: prod: stuck"]["enabled"]
    assert after["millrace: prod: late"]["actions"] == edited["actions"]


@pytest.mark.operations
def test_owners_are_notified_of_runs_that_cannot_report(anew: Stage, tmp_path: Path) -> None:
    stage = anew
    file = file_of(
        tmp_path,
        prod=OFF | {"late": "10s", "pending": "10s", "crashed": True},
        slow=OFF | {"stuck": "10s", "missing": "10s"},
    )
    done = stage.setup("--file", str(file))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Automations: 6 created" in done.stdout
    # GIVEN a run that is due and that no worker takes; one that is taken and does not begin
    late = stage.run_of("prod", "SCHEDULED", "Scheduled", scheduled_time="2026-01-01T00:00:00Z")
    pending = stage.run_of("prod", "PENDING", "Pending")
    # GIVEN one that completes, after which none does; one that goes on and on
    completed = stage.run_of("slow", "COMPLETED", "Completed")
    stuck = stage.run_of("slow", "RUNNING", "Running")
    # GIVEN one whose process is killed
    with running(stage, "prod") as killed:
        killed.send_signal(signal.SIGKILL)
        killed.wait()

    # WHEN the times are up
    last = f"that did: {UI}/runs/flow-run/{completed}\n"
    until(lambda: len(stage.about("target prod: a run")) >= 6)
    until(lambda: stage.about("slow: a run") and any(last in each["body"] for each in stage.told))
    time.sleep(3)

    # THEN each is told of once, to each receiver of its target
    deployed = "of dbt-prod"
    for words, run, blocks, says in (
        ("prod: a run is late", late, 2, f"{deployed} is due since"),
        ("prod: a run does not begin", pending, 2, f"{deployed} was taken by a worker 10 s ago"),
        ("prod: a run crashed", None, 2, "millrace run --target prod"),
        ("slow: a run takes too long", stuck, 1, f"uv run prefect flow-run cancel {stuck}"),
    ):
        told = stage.about(words)
        assert len(told) == blocks, (words, stage.told)
        for each in told:
            assert says in each["body"]
            assert f"\n{UI}/runs/flow-run/{run or ''}" in each["body"]
            assert "None" not in each["body"] + each["subject"]
            assert len(each["body"]) < 500
    # THEN a target that is not refreshed is told of again, for as long as nothing completes
    for each in stage.about("slow was not refreshed"):
        assert "millrace health slow" in each["body"]
        assert "None" not in each["body"]
    names = {each["block"] for each in stage.about("target prod")}
    assert names == {"notify-prod", "notify-prod--ops"}
    # THEN Prefect itself shows the killed one as it is
    named = {"name": {"any_": ["prod"]}}
    (run,) = stage.post("flow_runs/filter", flow_runs=named)
    assert run["state_type"] == "CRASHED"
    assert run["state"]["message"] == "Its heartbeats stopped: its process is gone."


@pytest.mark.operations
def test_a_target_that_setup_has_not_made(stage: Stage) -> None:
    done = stage.setup("--target", "nowhere")
    assert done.returncode == 2
    assert "Setup has not been run for the target 'nowhere'" in done.stderr
    assert "uv run millrace setup --target nowhere" in done.stderr


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (
            {"server": {"zombies": 15}},
            "server.zombies: 15 is not a duration: write 90s, 15m, 6h or 1d",
        ),
        ({"server": {"zombies": "5s"}}, "server.zombies: 5s is too short: at least 10s"),
        ({"targets": {"prod": {"stuk": "3h"}}}, "targets.prod.stuk: there is no such field"),
        ({"targets": {"Prod": {}}}, "targets.Prod: not a valid target name"),
        ({"targets": {"prod": {"crashed": "1h"}}}, "targets.prod.crashed: must be true or false"),
        ({"defaults": {"late": "1h"}}, "defaults.pending: this field is required"),
        ({"version": 2}, "version: must be 1"),
    ],
)
def test_a_file_that_is_wrong(tmp_path: Path, changed: dict[str, Any], said: str) -> None:
    document = yaml.safe_load((ENGINE_CONFIG_DIR / AUTOMATIONS_FILE).read_text())
    file = tmp_path / "automations.yaml"
    file.write_text(yaml.safe_dump(document | changed))
    with pytest.raises(ConfigurationError) as error:
        read_automations(file)
    assert said in str(error.value)
    assert str(file) in str(error.value)
    assert "fix:" in str(error.value)


@pytest.mark.parametrize(
    ("text", "said"), [(None, "cannot be read"), ("version: [", "is not YAML")]
)
def test_a_file_that_is_none(tmp_path: Path, text: str | None, said: str) -> None:
    file = tmp_path / "automations.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ConfigurationError) as error:
        read_automations(file)
    assert said in str(error.value)


def test_a_target_takes_what_it_does_not_change_from_the_defaults(tmp_path: Path) -> None:
    file = read_automations(file_of(tmp_path, prod={"stuck": "3h", "late": False}))
    own, usual = file.get_times("prod"), file.get_times("staging")
    assert (own.stuck, own.late) != (usual.stuck, usual.late)
    assert own.late is None
    assert (own.pending, own.missing, own.crashed) == (usual.pending, usual.missing, True)


def test_a_name_belongs_to_one_target_and_a_pattern_matches_one_target() -> None:
    """`prod` finds nothing of `prod-eu`: names are compared by tag, whole."""
    times = read_automations(ENGINE_CONFIG_DIR / AUTOMATIONS_FILE).get_times("prod")
    prod = [
        build_desired("prod", each, {})
        for each in build_target_findings("prod", times, scheduled=True)
    ]
    tags = {each.data["trigger"]["match_related"][0]["prefect.resource.id"] for each in prod}
    assert tags == {"prefect.tag.millrace:prod"}
    after = read_automations(ENGINE_CONFIG_DIR / AUTOMATIONS_FILE).server.zombies
    assert after is not None
    (related,) = build_desired(None, build_zombie_finding(after), {}).data["trigger"][
        "match_related"
    ]
    assert related["prefect.resource.id"] == "prefect.tag.millrace:*"
