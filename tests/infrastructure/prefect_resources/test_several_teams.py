"""Two projects on one Prefect server, from setup to their runs: neither touches the other's."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.project import SCRATCH_DBT, Project, neighbour

POOL = {"kind": "process", "description": "Of one team.", "queues": {}}


@dataclass
class Team(Project):
    """A clone with a target `<name>-dev`, a work pool `<name>-pool` and one model."""

    name: str = ""

    def variables(self, **environment: str) -> dict[str, str]:
        variables = super().variables(**environment)
        if "MILLRACE_PROJECT" not in environment:
            del variables["MILLRACE_PROJECT"]
        return variables

    @property
    def target(self) -> str:
        return f"{self.name}-dev"

    def millrace(self, *arguments: str, text: str | None = None) -> Any:
        return self.run("-m", "infrastructure.cli", *arguments, text=text)

    def outputs(self, dev: dict[str, Any]) -> str:
        target = dev | {"schema": self.name}
        return json.dumps({"dbt_targets": {"value": {self.target: target}}})

    def pools(self, pool: str, *arguments: str) -> Any:
        file = self.folder / "pools.yaml"
        queues = {self.target: {"priority": 1}}
        pools = {pool: POOL | {"queues": queues}}
        file.write_text(yaml.safe_dump({"version": 1, "pools": pools}))
        return self.millrace("pools", "--file", str(file), *arguments)

    def deploy(self, *arguments: str) -> Any:
        deployment = {
            "name": f"dbt-{self.target}",
            "entrypoint": "prefect_flows.pipeline.dbt_full_pipeline",
            "parameters": {"target": self.target},
            "concurrency_limit": {"limit": 1, "collision_strategy": "ENQUEUE"},
            "work_pool": {"name": f"{self.name}-pool"},
        }
        document = {"name": self.name, "pull": [], "deployments": [deployment]}
        (self.folder / "prefect.yaml").write_text(yaml.safe_dump(document))
        version = {"MILLRACE_VERSION": "aaaa"}
        command = ("deploy", self.target, *arguments)
        return self.run("-m", "infrastructure.cli", *command, **version)

    def start(self) -> None:
        done = self.run(
            "-m", "prefect", "deployment", "run", f"dbt-full-pipeline/dbt-{self.target}",
            "-p", 'skip=["ingest", "docs"]',
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr

    def work(self, pool: str) -> None:
        done = self.run("-m", "prefect", "worker", "start", "--pool", pool, "--run-once")
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def team(other_project: Project, tmp_path: Path) -> Callable[[str], Team]:
    for document in other_project.asked("block_documents"):
        other_project.delete(f"block_documents/{document['id']}")

    def new(name: str) -> Team:
        folder = neighbour(other_project, tmp_path / name, SCRATCH_DBT).folder
        (folder / "dbt" / "models" / "whose.sql").write_text(f"select '{name}' as team")
        made = Team(folder, name=name)
        done = made.millrace("setup", "--outputs", "-", text=made.outputs(other_project.dev))
        assert done.returncode == 0, done.stdout + done.stderr
        return made

    return new


def succeeded(done: Any) -> None:
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.operations
def test_two_teams_share_a_server_from_setup_to_runs(
    other_project: Project, team: Callable[[str], Team]
) -> None:
    shop, ads = team("shop"), team("ads")
    for each in (shop, ads):
        succeeded(each.pools(f"{each.name}-pool"))
        succeeded(each.deploy("--prune"))
        each.start()
    for each in (shop, ads):
        each.work(f"{each.name}-pool")
        run = other_project.last_run(each.target)
        assert run["state"]["type"] == "COMPLETED", run["state"]["message"]
        assert other_project.query(f"select team from {each.name}.whose") == [(each.name,)]
    names = {each["name"] for each in other_project.asked("deployments")}
    assert {"dbt-shop-dev", "dbt-ads-dev"} <= names, "--prune of the second left the first alone"

    # WHEN a team takes the pool of the other THEN the error says whose it is
    refused = ads.pools("shop-pool")
    assert refused.returncode == 2
    assert "made the work pool 'shop-pool'" in refused.stderr
    # AND its worker refuses a run of the other, before it changes anything
    other_project.query("drop view shop.whose")
    shop.start()
    ads.work("shop-pool")
    run = other_project.last_run("shop-dev")
    assert run["state"]["type"] == "FAILED"
    assert "made the target 'shop-dev', and this folder has the code of" in run["state"]["message"]
    assert other_project.query(
        "select count(*) from information_schema.views where table_name = 'whose' and "
        "table_schema = 'shop'"
    ) == [(0,)]
    typed = ads.pipeline("--target", "shop-dev", "--skip", "ingest")
    assert typed.returncode == 2
    assert "made the target 'shop-dev'" in typed.stderr

    for each in (shop, ads):
        other_project.delete(f"work_pools/{each.name}-pool")
        other_project.query(f"drop schema {each.name} cascade")
