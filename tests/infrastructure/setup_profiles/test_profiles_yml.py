"""`dbt/profiles.yml`: setup changes what it wrote, and keeps what somebody else did."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from infrastructure.setup_profiles import profiles_yml
from prefect_flows.core.errors import ConfigurationError
from prefect_flows.core.profiles import Profile
from tests.infrastructure.setup_profiles.test_contract import POSTGRES
from tests.support.project import SCRATCH_DBT, Project, neighbour

OWN = """\
jaffle:
  target: dev
  outputs:
    dev: {type: postgres, host: mine}
"""


def profile(target: str, host: str = "h", name: str = "millrace") -> Profile:
    output = {"type": "postgres", "host": host, "port": 1, "user": "u", "dbname": "d"}
    return Profile.from_output(name, target, output | {"schema": "s", "threads": 1})


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "profiles.yml"


def set_up(file: Path, *profiles: Profile, whole: bool = True) -> dict[str, Any]:
    file.write_text(profiles_yml.render(file, profiles, has_all_targets=whole))
    assert profiles_yml.render(file, profiles, has_all_targets=whole) == file.read_text(), (
        "not repeatable"
    )
    return dict(yaml.safe_load(file.read_text()))


def add(file: Path, profile: str, target: str) -> None:
    """As somebody does with an editor, below the comments that setup wrote."""
    comments = "".join(
        line for line in file.read_text().splitlines(keepends=True) if line.startswith("#")
    )
    document = yaml.safe_load(file.read_text())
    document.setdefault(profile, {"target": target, "outputs": {}})
    document[profile]["outputs"][target] = {"type": "postgres", "host": "mine"}
    file.write_text(comments + yaml.safe_dump(document))


@pytest.mark.parametrize("text", [OWN, "# nothing yet\n", ""])
@pytest.mark.parametrize("whole", [True, False])
def test_a_file_that_setup_did_not_write_is_refused(file: Path, text: str, whole: bool) -> None:
    file.write_text(text)
    with pytest.raises(ConfigurationError, match=r"did not write profiles\.yml") as error:
        profiles_yml.render(file, [profile("dev")], has_all_targets=whole)
    assert "--blocks-only" in error.value.fix
    assert f"mv {file} {file}.own" in error.value.fix


def test_a_file_that_cannot_be_written_is_named_and_leaves_no_draft(file: Path) -> None:
    file.mkdir()
    with pytest.raises(ConfigurationError, match=r"profiles\.yml cannot be written: Is a dir"):
        profiles_yml.write(file, "{}")
    assert list(file.parent.iterdir()) == [file]


def test_profiles_and_targets_that_somebody_added_stay(file: Path) -> None:
    set_up(file, profile("dev"), profile("prod"))
    add(file, "jaffle", "dev")
    add(file, "millrace", "sandbox")

    for whole in (True, False):
        document = set_up(file, profile("dev", host="elsewhere"), profile("prod"), whole=whole)
        assert document["jaffle"]["outputs"]["dev"]["host"] == "mine"
        assert document["millrace"]["outputs"]["sandbox"]["host"] == "mine"
        assert document["millrace"]["outputs"]["dev"]["host"] == "elsewhere"


def test_only_a_target_that_setup_wrote_goes_when_terraform_has_it_no_more(file: Path) -> None:
    set_up(file, profile("dev"), profile("prod"))
    add(file, "millrace", "sandbox")

    assert set(set_up(file, profile("dev"), whole=False)["millrace"]["outputs"]) == {
        "dev", "prod", "sandbox",
    }  # fmt: skip
    assert set(set_up(file, profile("dev"))["millrace"]["outputs"]) == {"dev", "sandbox"}


def test_a_target_that_somebody_added_is_not_replaced_by_one_of_its_name(file: Path) -> None:
    set_up(file, profile("dev"))
    add(file, "millrace", "prod")
    with pytest.raises(ConfigurationError, match="has prod already, and setup did not write"):
        profiles_yml.render(file, [profile("dev"), profile("prod")], has_all_targets=True)


def test_a_profile_that_was_renamed_is_added(file: Path) -> None:
    set_up(file, profile("dev"))
    document = set_up(file, profile("dev", name="renamed"), whole=False)
    assert set(document) == {"millrace", "renamed"}


def test_a_file_without_the_list_of_targets_loses_none(file: Path) -> None:
    document = {"millrace": {"target": "dev", "outputs": {"dev": {}, "old": {"host": "x"}}}}
    file.write_text(profiles_yml.HEADER + yaml.safe_dump(document))
    outputs = set_up(file, profile("dev"))["millrace"]["outputs"]
    assert (outputs["dev"]["host"], outputs["old"]) == ("h", {"host": "x"})


@pytest.mark.parametrize("text", ["{", "- a list", "millrace: {}", "millrace: {outputs: [a]}"])
def test_a_damaged_file_is_refused(file: Path, text: str) -> None:
    file.write_text(profiles_yml.HEADER + text)
    with pytest.raises(ConfigurationError, match=r"profiles\.yml cannot be read"):
        profiles_yml.render(file, [profile("dev")], has_all_targets=True)


def test_setup_changes_nothing_when_the_file_is_not_its_own(
    project: Project, tmp_path: Path
) -> None:
    clone = neighbour(project, tmp_path / "clone", SCRATCH_DBT)
    outputs = clone.folder / "outputs.json"
    outputs.write_text(json.dumps({"dbt_targets": {"value": {"unmade": POSTGRES}}}))
    file = clone.folder / "dbt" / "profiles.yml"
    file.write_text(OWN)
    before = project.asked("block_documents")

    done = clone.setup("--outputs", str(outputs))

    assert done.returncode == 2
    assert "ConfigurationError: Setup did not write profiles.yml" in done.stderr
    assert file.read_text() == OWN
    assert project.asked("block_documents") == before
