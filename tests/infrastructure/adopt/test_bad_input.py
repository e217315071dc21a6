"""What adopt refuses before it has run anything, and what it reads of a profiles.yml."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from infrastructure.adopt.change import EXAMPLE, check_repository
from infrastructure.adopt.foreign_profiles import read_targets
from infrastructure.adopt.project_files import open_project
from prefect_flows.core.environment import set_variables
from prefect_flows.core.errors import ConfigurationError
from prefect_flows.core.git import GitError
from prefect_flows.core.settings import Settings
from tests.support.project import REPOSITORY

FOREIGN_DBT = REPOSITORY / "tests" / "support" / "dbt_projects" / "foreign"
SECRET = {"DBT_ENV_SECRET_SHOP_PASSWORD": "made-up-secret"}


def git(folder: Path, *arguments: str) -> None:
    who = ("-c", "user.name=me", "-c", "user.email=me@example.com")
    subprocess.run(["git", "-C", str(folder), *who, *arguments], check=True, capture_output=True)


def add_engine(folder: Path) -> None:
    (folder / "prefect_flows").mkdir(parents=True)
    (folder / "prefect_flows" / "pipeline.py").touch()


def repository(folder: Path, *, example: bool = True) -> Settings:
    (folder / "dbt").mkdir(parents=True)
    (folder / "dbt" / "dbt_project.yml").write_text("name: shop\n")
    add_engine(folder)
    if example:
        (folder / EXAMPLE).parent.mkdir(parents=True)
        (folder / EXAMPLE).write_text("- dbt\n")
    git(folder, "init", "--quiet")
    git(folder, "config", "user.name", "me")
    git(folder, "config", "user.email", "me@example.com")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "--message", "Begin")
    return Settings(project_dir=folder)


def test_targets_are_read_without_their_secrets() -> None:
    with set_variables(SECRET):
        found = read_targets(FOREIGN_DBT / "profiles.yml", "shop_warehouse", ())
    assert found.default == "dev_eu"
    assert found.targets["dev_eu"] == {
        "type": "postgres", "host": "db.example.com", "port": 5432, "database": "shop",
        "user": "shop", "schema": "dev", "threads": 4, "dbt_options": {"search_path": "public"},
    }  # fmt: skip
    assert found.passed_through == {"dev_eu": ["search_path"], "prod_eu": ["role"]}
    assert found.left_out == [
        f"target {name}: {key} is not copied; it goes into dbt_target_secrets.{name}.password"
        for name, key in (("dev_eu", "password"), ("prod_eu", "pass"))
    ]
    assert "made-up-secret" not in str(found)
    assert not found.has_plain_secrets


def test_an_adapter_that_is_not_supported_is_left_out_beside_others(tmp_path: Path) -> None:
    file = tmp_path / "profiles.yml"
    bigquery = {
        "type": "bigquery", "project": "p", "dataset": "d", "location": "EU",
        "method": "service-account", "keyfile": "/k.json", "dataproc_region": "r",
    }  # fmt: skip
    outputs = {"lake": {"type": "snowflake", "account": "a"}, "prod": bigquery}
    file.write_text(yaml.safe_dump({"shop": {"target": "lake", "outputs": outputs}}))
    found = read_targets(file, "shop", ())
    assert found.targets["prod"]["dbt_options"] == {"dataproc_region": "r"}
    assert found.targets["prod"]["threads"] == 1
    assert found.left_out == [
        "target lake: the adapter snowflake is not supported",
        "target prod: keyfile is not copied; it goes into "
        "dbt_target_secrets.prod.service_account_key",
    ]
    assert not found.has_plain_secrets
    plain = {"type": "postgres", "host": "h", "user": "u", "pass": "s3cret"}
    file.write_text(yaml.safe_dump({"shop": {"target": "lake", "outputs": outputs | {"a": plain}}}))
    assert read_targets(file, "shop", ()).has_plain_secrets
    with pytest.raises(ConfigurationError, match="no target of postgres or bigquery: lake is of"):
        read_targets(file, "shop", ["lake"])
    with pytest.raises(ConfigurationError, match=r"no target 'prd'; .* Did you mean 'prod'"):
        read_targets(file, "shop", ["prd"])
    with pytest.raises(ConfigurationError, match=r"no profile 'other', .*; it has shop"):
        read_targets(file, "other", ())


def test_a_variable_that_is_not_set_is_named(tmp_path: Path) -> None:
    file = tmp_path / "profiles.yml"
    output = {"type": "postgres", "host": "{{ env_var('SHOP_ADDRESS') }}"}
    file.write_text(yaml.safe_dump({"shop": {"target": "dev", "outputs": {"dev": output}}}))
    with pytest.raises(ConfigurationError, match="SHOP_ADDRESS") as error:
        read_targets(file, "shop", ())
    assert "leave the target out" in error.value.fix


def test_a_folder_without_a_project_names_those_that_have_one(tmp_path: Path) -> None:
    shutil.copytree(FOREIGN_DBT, tmp_path / "analytics" / "warehouse")
    with pytest.raises(ConfigurationError) as error:
        open_project(str(tmp_path), None, tmp_path / "scratch")
    assert "has no dbt_project.yml. It has some in: analytics/warehouse." in error.value.what
    assert error.value.fix.endswith(f"adopt {tmp_path} --subfolder analytics/warehouse")
    found = open_project(str(tmp_path), "analytics/warehouse", tmp_path / "scratch")
    assert (found.document["name"], found.profile) == ("corner_shop", "shop_warehouse")


def test_what_git_ignores_is_not_of_the_project(tmp_path: Path) -> None:
    shutil.copytree(FOREIGN_DBT, tmp_path / "dbt")
    (tmp_path / ".gitignore").write_text("profiles.yml\ntarget/\n")
    (tmp_path / "dbt" / "target").mkdir()
    (tmp_path / "dbt" / "target" / "manifest.json").write_text("{}")
    git(tmp_path, "init", "--quiet")
    found = open_project(str(tmp_path), "dbt", tmp_path / "scratch")
    names = {str(file) for file in found.files}
    assert {"dbt_project.yml", "seeds/shop_orders.csv"} < names
    assert not {"profiles.yml", "target/manifest.json"} & names


@pytest.mark.parametrize(
    ("origin", "what", "where"),
    [
        ("nowhere/at/all", "There is no such folder", "nowhere/at/all"),
        ("https://me:s3cret@example.com/a.git", "has a password in it", "://…@example.com/a.git"),
        ("http://127.0.0.1:9/a.git", "cannot be cloned: ", "http://127.0.0.1:9/a.git"),
    ],
)
def test_what_is_no_project_is_refused(origin: str, what: str, where: str, tmp_path: Path) -> None:
    with pytest.raises((ConfigurationError, GitError)) as error:
        open_project(origin, None, tmp_path)
    assert what in error.value.what
    assert error.value.where.endswith(where)
    assert "s3cret" not in str(error.value)


def test_a_repository_that_cannot_take_the_commit_is_refused(tmp_path: Path) -> None:
    settings = repository(tmp_path / "clean")
    check_repository(settings)

    (settings.dbt_dir / "new.sql").write_text("select 1")
    with pytest.raises(ConfigurationError, match=r"uncommitted changes: \?\? dbt/new.sql"):
        check_repository(settings)

    again = repository(tmp_path / "adopted", example=False)
    with pytest.raises(ConfigurationError, match="A project has been adopted already"):
        check_repository(again)

    add_engine(tmp_path / "none")
    with pytest.raises(ConfigurationError, match="not a git repository"):
        check_repository(Settings(project_dir=tmp_path / "none"))

    with pytest.raises(ConfigurationError, match="works in a clone of Millrace only"):
        check_repository(Settings(project_dir=tmp_path))
