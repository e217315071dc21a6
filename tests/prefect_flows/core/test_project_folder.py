from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from prefect_flows.core import project_folder
from prefect_flows.core.errors import ConfigurationError
from prefect_flows.core.project_folder import enter_folder, find_project_dir, get_install_command
from prefect_flows.core.settings import Settings, load_settings
from prefect_flows.ingest import source_registry
from prefect_flows.ingest.arguments import source_function
from prefect_flows.transform.repro_command import format_dbt_command
from tests.support.project import REPOSITORY


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a team that installed the engine, as the working directory."""
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "millrace.toml").touch()
    monkeypatch.chdir(folder)
    monkeypatch.delenv(project_folder.VARIABLE, raising=False)
    return folder


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine as if its code were in `site-packages`, which have no pyproject.toml."""
    monkeypatch.setattr(project_folder, "ENGINE_DIR", Path(os.__file__).parent)


def test_the_project_is_the_nearest_folder_with_a_millrace_toml(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "dbt" / "models").mkdir(parents=True)
    monkeypatch.chdir(project / "dbt" / "models")
    assert find_project_dir() == project
    (project / "dbt" / "millrace.toml").touch()
    assert find_project_dir() == project / "dbt"
    monkeypatch.setenv(project_folder.VARIABLE, str(tmp_path))
    assert find_project_dir() == tmp_path


def test_a_command_of_a_clone_finds_the_clone_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(project_folder.VARIABLE, raising=False)
    assert find_project_dir() == REPOSITORY
    settings = load_settings()
    assert settings.dbt_dir == settings.profiles_dir == REPOSITORY / "dbt"
    assert settings.sources_dir == REPOSITORY / "prefect_flows" / "sources"
    assert settings.config_dir == REPOSITORY / "infrastructure" / "config"


@pytest.mark.usefixtures("installed")
def test_outside_of_a_project_an_installed_engine_says_what_a_project_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(project_folder.VARIABLE, raising=False)
    with pytest.raises(ConfigurationError) as refused:
        load_settings()
    assert str(refused.value) == (
        "This is not the folder of a project: neither it nor a folder above has a millrace.toml.\n"
        f"  where: {tmp_path}\n"
        "  fix:   cd to the project; or name it: export MILLRACE_PROJECT_DIR=FOLDER; or begin one "
        "here: touch millrace.toml (documentation/how_to/install_the_engine.md)"
    )
    assert get_install_command("check") == "uv add 'millrace[check]'"


def test_the_folders_of_a_project_with_an_installed_engine(project: Path) -> None:
    settings = load_settings()
    assert settings.dbt_dir == settings.profiles_dir == project / "dbt"
    assert settings.sources_dir == project / "sources"
    assert settings.config_dir == project / "config"
    assert format_dbt_command("run", "dev") == "cd dbt && uv run dbt run --target dev"


def test_a_dbt_project_in_the_folder_of_the_project(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "millrace.toml").write_text('dbt_dir = "."\n')
    settings = load_settings()
    assert settings.dbt_dir == settings.profiles_dir == project
    assert settings.dbt_project_file == project / "dbt_project.yml"
    assert format_dbt_command("run", "dev") == "uv run dbt run --target dev"
    monkeypatch.setenv("MILLRACE_DBT_DIR", "our dbt")
    assert load_settings().dbt_dir == project / "our dbt"
    assert format_dbt_command("run", "dev") == "cd 'our dbt' && uv run dbt run --target dev"


def test_a_folder_outside_of_the_project_is_named_as_it_is(tmp_path: Path) -> None:
    assert enter_folder(tmp_path / "dbt", tmp_path / "project") == f"cd {tmp_path / 'dbt'} && "


def test_sources_are_those_of_the_project(project: Path) -> None:
    assert source_registry.source_names() == []
    with pytest.raises(ConfigurationError, match=r"'nyc__flights' does not exist; there are: none"):
        source_function("nyc__flights")
    folder = project / "sources" / "acme__parcels"
    folder.mkdir(parents=True)
    (folder / "__init__.py").touch()
    (folder / "source.py").write_text("def acme__parcels():\n    return 'parcels'\n")
    assert source_registry.source_names() == ["acme__parcels"]
    assert source_function("acme__parcels")() == "parcels"


def test_the_module_of_a_source_is_found_before_any_command_runs(project: Path) -> None:
    """As Prefect imports the flow of a deployment, in a new process."""
    folder = project / "our" / "acme__letters"
    folder.mkdir(parents=True)
    (folder / "__init__.py").touch()
    (folder / "flow.py").write_text("FOUND = __name__\n")
    (project / "millrace.toml").write_text('sources_dir = "our"\n')
    code = "from prefect_flows.sources.acme__letters import flow; print(flow.FOUND)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=project, capture_output=True, text=True, check=False,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(REPOSITORY)},
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("prefect_flows.sources.acme__letters.flow\n", "")


def test_settings_with_a_folder_ignore_the_working_directory(project: Path, tmp_path: Path) -> None:
    settings = Settings(project_dir=tmp_path)
    assert settings.sources_dir == tmp_path / "sources"
    assert settings.local_dir == tmp_path / ".local"


# Python 3.12 and newer warn of threads, which the child does not use.
@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_a_working_directory_that_this_user_cannot_read_is_no_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after `su`, in the folder of another user."""
    monkeypatch.delenv(project_folder.VARIABLE, raising=False)
    closed = tmp_path / "closed"
    (closed / "in").mkdir(parents=True)
    child = os.fork()
    if child == 0:
        found = None
        try:
            os.chdir(closed / "in")
            closed.chmod(0)
            if os.getuid() == 0:
                os.setuid(65534)
            found = find_project_dir()
        finally:
            os._exit(found != REPOSITORY)
    _, status = os.waitpid(child, 0)
    closed.chmod(0o700)
    assert status == 0
