"""A project with conventions of its own takes the place of the example, and is proved first."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.infrastructure.adopt.test_bad_input import FOREIGN_DBT, SECRET, git
from tests.support.project import REPOSITORY, Project, copy_of_the_project

pytestmark = pytest.mark.conformance


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """A clone with its history; adopt starts its Postgres."""
    project = copy_of_the_project(tmp_path_factory.mktemp("adopt") / "millrace")
    git(project.folder, "init", "--quiet")
    git(project.folder, "config", "user.name", "me")
    git(project.folder, "config", "user.email", "me@example.com")
    git(project.folder, "add", ".")
    git(project.folder, "commit", "--quiet", "--message", "Begin")
    yield project
    done = project.run("-m", "infrastructure.cli", "down")
    assert done.returncode == 0, done.stderr


def adopt(clone: Project, *arguments: str) -> subprocess.CompletedProcess[str]:
    return clone.run("-m", "infrastructure.cli", "adopt", *arguments, **SECRET)


def output_of_git(clone: Project, *arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=clone.folder, check=True, capture_output=True, text=True
    ).stdout


@pytest.mark.parametrize(
    ("file", "text", "what"),
    [
        ("models/broken.sql", "select * from {{ ref('nothing') }}", "depends on a node named"),
        (
            "models/forecast.py",
            "def model(dbt, session):\n    return dbt.ref('stg_orders')\n",
            "1 Python model(s), which postgres cannot run: forecast.",
        ),
        ("packages.yml", "packages: [{local: ../../nowhere}]", "packages cannot be installed"),
        (
            "models/reporting/different.sql",
            "select * from {{ ref('stg_orders') }} where current_database() like '%dbt'",
            "dev_eu_reporting.different: dbt 3 rows, the pipeline 0",
        ),
    ],
)
def test_a_project_that_cannot_be_adopted_changes_nothing(
    clone: Project, tmp_path: Path, file: str, text: str, what: str
) -> None:
    shutil.copytree(FOREIGN_DBT, tmp_path / "shop")
    (tmp_path / "shop" / file).write_text(text)
    done = adopt(clone, str(tmp_path / "shop"), "--marts", "reporting")
    assert done.returncode in (1, 2), done.stdout
    assert what in done.stderr, done.stderr
    assert "fix:" in done.stderr
    assert output_of_git(clone, "status", "--porcelain") == ""
    assert len(output_of_git(clone, "log", "--oneline").splitlines()) == 1
    assert output_of_git(clone, "worktree", "list").count("\n") == 1


def test_it_is_proved_replaces_the_example_runs_and_can_be_undone(
    clone: Project, tmp_path: Path
) -> None:
    # GIVEN a project in a repository of its own
    shutil.copytree(FOREIGN_DBT, tmp_path / "shop")
    git(tmp_path / "shop", "init", "--quiet")
    git(tmp_path / "shop", "add", ".")
    git(tmp_path / "shop", "commit", "--quiet", "--message", "Begin")
    url = f"file://{tmp_path / 'shop'}"

    # WHEN its marts are not known, THEN adopt asks for them
    done = adopt(clone, url)
    assert done.returncode == 2
    assert "--marts reporting; or --marts none" in done.stderr

    # WHEN it is adopted
    done = adopt(clone, url, "--marts", "reporting")
    assert done.returncode == 0, done.stdout + done.stderr

    # THEN what was found and proved is said
    for line in (
        "profiles.yml: target dev_eu (postgres), also search_path",
        "snapshots of models (customer_history): they run in the stage dbt-run",
        "sources that the project itself fills (raw.shop_orders): strategy run_then_test",
        "freshness of such sources (raw.shop_orders): runs skip the stage freshness",
        "nodes by status, the same for both: 3 pass, 4 success",
    ):
        assert line in done.stdout
    assert "made-up-secret" not in done.stdout + done.stderr

    # AND one commit has its files as they were, and none of the example
    assert output_of_git(clone, "status", "--porcelain") == ""
    assert output_of_git(clone, "log", "-1", "--format=%s") == "Adopt the dbt project corner_shop\n"
    assert len(output_of_git(clone, "log", "--oneline").splitlines()) == 2
    kept = {name.removeprefix("dbt/") for name in output_of_git(clone, "ls-files", "dbt").split()}
    assert kept == {str(f.relative_to(FOREIGN_DBT)) for f in FOREIGN_DBT.rglob("*") if f.is_file()}
    for name in kept:
        assert (clone.folder / "dbt" / name).read_bytes() == (FOREIGN_DBT / name).read_bytes()
    example = yaml.safe_load((REPOSITORY / "infrastructure/config/example.yaml").read_text())
    for path in example:
        assert path == "dbt" or not (clone.folder / path).exists(), path

    # AND its targets are in the contract and have deployments
    outputs = json.loads((clone.folder / "infrastructure/config/targets.json").read_text())
    assert outputs["dbt_targets"]["value"]["prod_eu"]["dbt_options"] == {"role": "publisher"}
    document = yaml.safe_load((clone.folder / "prefect.yaml").read_text())
    parameters = [each["parameters"] for each in document["deployments"]]
    assert {"target": "dev_eu", "skip": ["freshness"]} in parameters

    # AND setup and the pipeline run it, beside its own profiles.yml
    own = (clone.folder / "dbt" / "profiles.yml").read_bytes()
    done = clone.setup("--profiles-only")
    assert done.returncode == 0, done.stderr
    assert (clone.folder / "dbt" / "profiles.yml").read_bytes() == own
    done = clone.pipeline("--no-prefect", "--target", "dev", "--skip", "freshness")
    assert done.returncode == 0, done.stdout + done.stderr
    assert clone.query("select sum(orders) from dev_reporting.customers") == [(3,)]
    assert "customers" in done.stdout, "the marts are counted"

    # AND it is adopted once
    done = adopt(clone, url)
    assert done.returncode == 2
    assert "A project has been adopted already" in done.stderr

    # WHEN the commit is reverted, THEN all is as it was
    git(clone.folder, "revert", "--no-edit", "HEAD")
    assert output_of_git(clone, "diff", "--stat", "HEAD~2") == ""
