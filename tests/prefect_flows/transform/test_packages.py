"""dbt's packages: when they are installed, what fails, and what dbt warns of without a node."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

import pytest
import yaml
from dbt_common.events import logger

from prefect_flows.core.errors import ProjectError
from prefect_flows.core.profiles import Profile
from prefect_flows.transform.session import DbtSession
from tests.support.project import SCRATCH_DBT

OUTPUT = {
    "type": "postgres", "host": "/nowhere", "port": 1, "user": "u", "password": "", "dbname": "d",
    "schema": "s", "threads": 1,
}  # fmt: skip


@pytest.fixture
def dbt(tmp_path: Path) -> Path:
    """The small project with a package of git and a local one, each with a model."""
    shutil.copytree(SCRATCH_DBT, tmp_path / "dbt")
    for name in ("from_git", "from_folder"):
        (tmp_path / name / "models").mkdir(parents=True)
        (tmp_path / name / "dbt_project.yml").write_text(f"name: {name}\n")
        (tmp_path / name / "models" / f"model_{name}.sql").write_text("select 1 as id")
    git(tmp_path / "from_git", "init", "--quiet", "--initial-branch", "main")
    git(tmp_path / "from_git", "add", ".")
    git(tmp_path / "from_git", "commit", "--quiet", "--message", "A package")
    ask_for(tmp_path, {"git": str(tmp_path / "from_git"), "revision": head(tmp_path / "from_git")})
    return tmp_path / "dbt"


@pytest.fixture
def warnings() -> list[str]:
    return []


@pytest.fixture
def session(
    dbt: Path, warnings: list[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[DbtSession]:
    # dbt leaves its log file open at the end of each command; here other tests follow.
    logs: list[RotatingFileHandler] = []

    def log_file(*args: Any, **kwargs: Any) -> RotatingFileHandler:
        logs.append(RotatingFileHandler(*args, **kwargs))
        return logs[-1]

    monkeypatch.setattr(logger, "RotatingFileHandler", log_file)
    profile = Profile.from_output("millrace", "test", OUTPUT)
    target_path = dbt.parent / "target"
    with DbtSession(dbt, profile, target_path, {}, on_warning=warnings.append) as session:
        yield session
    for log in logs:
        log.close()


def git(folder: Path, *arguments: str) -> str:
    who = ["-c", "user.name=Ann", "-c", "user.email=ann@example.org"]
    done = subprocess.run(
        ["git", *who, *arguments], cwd=folder, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def head(folder: Path) -> str:
    return git(folder, "rev-parse", "HEAD")


def ask_for(folder: Path, *packages: dict[str, str]) -> None:
    asked = [*packages, {"local": "../from_folder"}]
    (folder / "dbt" / "packages.yml").write_text(yaml.safe_dump({"packages": asked}))


def test_packages_that_match_the_lock_are_left_as_they_are(dbt: Path, session: DbtSession) -> None:
    assert session.install_packages() == {"installed": True}
    (dbt.parent / "from_git").rename(dbt.parent / "away")
    assert session.install_packages() == {"installed": False}, "nothing is downloaded"

    for unique_id in ("model.from_git.model_from_git", "model.from_folder.model_from_folder"):
        assert (dbt / session.path_of(session.node(unique_id))).is_file(), unique_id
    assert session.path_of(session.node("model.scratch.numbers")) == "models/numbers.sql"

    shutil.rmtree(dbt / "dbt_packages" / "from_git")
    with pytest.raises(ProjectError, match="cannot be installed") as away:
        session.install_packages()
    assert away.value.retryable, "a repository that is away may come back"
    assert away.value.where == str(dbt / "packages.yml")


def test_other_packages_than_those_of_the_lock_are_installed(
    dbt: Path, session: DbtSession
) -> None:
    assert session.install_packages() == {"installed": True}
    repository = dbt.parent / "from_git"
    (repository / "models" / "another.sql").write_text("select 2 as id")
    git(repository, "add", ".")
    git(repository, "commit", "--quiet", "--message", "Another model")
    ask_for(dbt.parent, {"git": str(repository), "revision": head(repository)})
    assert session.install_packages() == {"installed": True}
    assert (dbt / "dbt_packages" / "from_git" / "models" / "another.sql").is_file()

    git(dbt / "dbt_packages" / "from_git", "checkout", "--quiet", "--orphan", "other")
    assert session.install_packages() == {"installed": True}, "its revision cannot be read"

    ask_for(dbt.parent)
    assert session.install_packages() == {"installed": True}
    assert not (dbt / "dbt_packages" / "from_git").exists()
    assert session.install_packages() == {"installed": False}

    (dbt.parent / "from_folder").rename(dbt.parent / "away")
    with pytest.raises(ProjectError) as wrong:
        session.install_packages()
    assert not wrong.value.retryable, "a folder that does not exist is a fault of packages.yml"


def test_what_dbt_warns_of_while_it_parses_is_reported(
    dbt: Path, session: DbtSession, warnings: list[str]
) -> None:
    (dbt / "packages.yml").unlink()
    (dbt / "models" / "properties.yml").write_text("models: [{name: gone, description: It was.}]\n")
    (dbt / "seeds").mkdir()
    (dbt / "seeds" / "large.csv").write_text("id\n" + "1234567\n" * 2**18)
    assert session.manifest is not None
    assert any("gone" in text for text in warnings), warnings
    # dbt hashes more than the first MiB.
    assert session.manifest.nodes["seed.scratch.large"].checksum.name == "sha256"
