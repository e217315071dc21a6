"""Two projects on one Prefect server: neither takes what the other made."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.infrastructure.setup_profiles.test_contract import BIGQUERY, POSTGRES
from tests.support.project import REPOSITORY, SCRATCH_DBT, Project, neighbour

HERE, ELSEWHERE = POSTGRES | {"host": "here"}, POSTGRES | {"host": "elsewhere"}


class Clone(Project):
    """A clone with nothing in its environment that says which project it is of."""

    def variables(self, **environment: str) -> dict[str, str]:
        variables = super().variables(**environment)
        if "MILLRACE_PROJECT" not in environment:
            del variables["MILLRACE_PROJECT"]
        return variables

    def set_up(self, *arguments: str, targets: dict[str, Any], **environment: Any) -> Any:
        text = json.dumps({"dbt_targets": {"value": targets}})
        return self.setup("--outputs", "-", *arguments, text=text, **environment)

    @property
    def projects(self) -> list[str]:
        file = self.folder / ".local" / "projects"
        return file.read_text().split() if file.exists() else []


@pytest.fixture
def clone(other_project: Project, tmp_path: Path) -> Callable[[str], Clone]:
    """A folder that is a clone, on a server without blocks."""
    for document in other_project.asked("block_documents"):
        other_project.delete(f"block_documents/{document['id']}")

    def new(name: str) -> Clone:
        return Clone(neighbour(other_project, tmp_path / name, SCRATCH_DBT).folder)

    return new


def blocks(project: Project) -> dict[str, dict[str, Any]]:
    return {block["name"]: block["data"] for block in project.asked("block_documents")}


def host(project: Project) -> str:
    return str(blocks(project)["postgres-credentials-dev"]["connection_info"]["host"])


@pytest.mark.operations
def test_a_target_of_another_project_is_not_taken_over(
    other_project: Project, clone: Callable[[str], Clone]
) -> None:
    first, second = clone("first"), clone("second")
    done = first.set_up(targets={"dev": HERE})
    assert done.returncode == 0, done.stdout + done.stderr
    (own,) = first.projects
    before = blocks(other_project)
    assert before["dbt-cli-profile-dev"]["project"] == own

    # WHEN another clone has a target of that name at another place THEN nothing is changed
    refused = second.set_up(targets={"dev": ELSEWHERE})
    assert refused.returncode == 2
    assert f"Another project ({own}) made the target 'dev' (type postgres, host here" in (
        refused.stderr
    )
    assert f"MILLRACE_PROJECT={own} in .env" in refused.stderr
    assert "millrace setup --target dev --take-over" in refused.stderr
    assert blocks(other_project) == before
    assert second.projects == []
    assert not (second.folder / "dbt" / "profiles.yml").exists()

    # AND a target of another name stands beside the first project's, which is no orphan
    beside = second.set_up("--prune", targets={"qa": ELSEWHERE})
    assert beside.returncode == 0, beside.stdout + beside.stderr
    assert "dev" not in beside.stdout
    assert set(before) < set(blocks(other_project))
    check = first.set_up("--check", targets={"dev": HERE})
    assert check.returncode == 0, check.stdout + check.stderr
    # AND deploy refuses it as well
    shutil.copy(REPOSITORY / "prefect.yaml", second.folder)
    deployed = second.run(
        "-m",
        "infrastructure.cli",
        "deploy",
        "dev",
        "--dry-run",
        MILLRACE_VERSION="aaaa",
    )
    assert deployed.returncode == 1
    assert f"dbt-dev: another project ({own}) made the target 'dev'" in deployed.stdout

    # WHEN that is what is asked for THEN it is the second project's
    taken = second.set_up("--take-over", targets={"dev": ELSEWHERE, "qa": ELSEWHERE})
    assert taken.returncode == 0, taken.stdout + taken.stderr
    assert host(other_project) == "elsewhere"
    assert first.set_up(targets={"dev": HERE}).returncode == 2


@pytest.mark.operations
def test_the_google_login_of_another_project_is_not_replaced(
    other_project: Project, clone: Callable[[str], Clone]
) -> None:
    assert clone("first").set_up(targets={"shop": BIGQUERY}).returncode == 0
    before = blocks(other_project)
    second = clone("second")
    same = second.set_up("--dry-run", targets={"ads": BIGQUERY | {"dataset": "ads"}})
    assert same.returncode == 0, same.stderr

    refused = second.set_up(targets={"ads": BIGQUERY | {"project": "another"}})

    assert refused.returncode == 2
    assert "(shop) use the block 'gcp-credentials', and setup would replace its login" in (
        refused.stderr
    )
    assert blocks(other_project) == before


def test_a_clone_of_the_same_project_joins_it(
    other_project: Project, clone: Callable[[str], Clone]
) -> None:
    first, runner, stranger = clone("first"), clone("runner"), clone("stranger")
    assert first.set_up(targets={"dev": HERE}).returncode == 0
    # GIVEN another clone with the same outputs, but for the threads
    joined = runner.set_up(targets={"dev": HERE | {"threads": 7}})
    assert joined.returncode == 0, joined.stdout + joined.stderr
    assert runner.projects == first.projects
    # THEN it may move the target, and so may one that only knows the id
    assert runner.set_up(targets={"dev": ELSEWHERE}).returncode == 0
    assert host(other_project) == "elsewhere"
    named = stranger.set_up(targets={"dev": HERE}, MILLRACE_PROJECT=first.projects[0])
    assert named.returncode == 0, named.stdout + named.stderr
    assert host(other_project) == "here"


def test_a_block_without_a_mark_gets_one(
    other_project: Project, clone: Callable[[str], Clone]
) -> None:
    assert clone("before").set_up(targets={"dev": HERE}).returncode == 0
    (block,) = (
        each
        for each in other_project.asked("block_documents")
        if each["name"] == "dbt-cli-profile-dev"
    )
    reference = block["block_document_references"]["target_configs"]["block_document"]["id"]
    data = {
        key: block["data"][key] for key in ("name", "target")
    } | {"target_configs": {"$ref": {"block_document_id": reference}}}  # fmt: skip
    other_project.http.patch(
        f"/block_documents/{block['id']}",
        json={"data": data, "merge_existing_data": False},
    ).raise_for_status()

    after = clone("after")
    done = after.set_up(targets={"dev": ELSEWHERE})

    assert done.returncode == 0, done.stdout + done.stderr
    assert [blocks(other_project)["dbt-cli-profile-dev"]["project"]] == after.projects
    assert host(other_project) == "elsewhere"
