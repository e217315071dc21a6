"""Terraform: the modules' own tests, and what needs no provider applied for real.

The root module for Google Cloud needs its provider, which is downloaded; what it decides lies in a
module that needs none.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.support.project import REPOSITORY, Project, Scratch

pytestmark = [
    pytest.mark.terraform,
    pytest.mark.skipif(
        shutil.which("terraform") is None,
        reason="SKIPPED: terraform is not on this machine, so no module is tested or applied",
    ),
]
MODULES = REPOSITORY / "infrastructure" / "terraform"


def ready(module: str, folder: Path) -> Path:
    """A copy: state, and what `init` leaves, stay out of the project."""
    copy = folder / "module"
    ignored = shutil.ignore_patterns(".terraform*", "*.tfstate*")
    shutil.copytree(MODULES / module, copy, ignore=ignored)
    terraform(copy, "init", "-input=false")
    return copy


@pytest.fixture
def module(tmp_path: Path) -> Path:
    return ready("postgres", tmp_path)


def terraform(folder: Path, *arguments: str, **environment: str) -> str:
    done = subprocess.run(
        ["terraform", f"-chdir={folder}", *arguments],
        env=os.environ | environment,
        capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("module", "tests"),
    [("postgres", 13), ("gcp/modules/layout", 20), ("gcp/modules/project", 2)],
)
def test_a_modules_own_tests_pass(tmp_path: Path, module: str, tests: int) -> None:
    # In its place, since one reads the project; what `init` leaves goes elsewhere.
    data = {"TF_DATA_DIR": str(tmp_path)}
    terraform(MODULES / module, "init", "-input=false", **data)
    assert f"{tests} passed, 0 failed" in terraform(MODULES / module, "test", "-no-color", **data)


def test_all_of_it_is_formatted() -> None:
    terraform(MODULES, "fmt", "-check", "-recursive")


def test_the_layout_of_google_cloud_gives_targets_that_setup_takes(
    scratch: Scratch, tmp_path: Path
) -> None:
    layout = ready("gcp/modules/layout", tmp_path)
    targets = {"dev": {"maximum_bytes_billed": 10485760}, "prod": {"priority": "batch"}}
    variables = {"project": "made-up-project", "location": "EU", "targets": targets}
    variables |= {"sources": ["nyc__flights"], "layers": ["staging", "marts"]}
    variables |= {"state_bucket": "made-up-state"}
    (layout / "terraform.tfvars.json").write_text(json.dumps(variables))
    terraform(layout, "apply", "-auto-approve", "-input=false")
    outputs = json.loads(terraform(layout, "output", "-json"))
    contract = {"dbt_targets": outputs["dbt_targets"]}

    done = scratch.setup("--outputs", "-", "--profiles-only", text=json.dumps(contract))

    assert done.returncode == 0, done.stdout + done.stderr
    profiles = yaml.safe_load((scratch.folder / "dbt" / "profiles.yml").read_text())
    dev = profiles["millrace"]["outputs"]["dev"]
    assert dev["impersonate_service_account"] == "dbt-dev@made-up-project.iam.gserviceaccount.com"
    assert dev["maximum_bytes_billed"] == 10485760


def test_the_example_is_valid(module: Path) -> None:
    (module / "terraform.tfvars.example").rename(module / "terraform.tfvars")
    terraform(module, "plan", "-input=false")


def test_applied_its_outputs_make_a_target_that_the_pipeline_runs(
    project: Project, scratch: Scratch, module: Path
) -> None:
    dev = project.dev
    targets = {
        "scratch": {
            "host": dev["host"],
            "port": dev["port"],
            "database": scratch.database,
            "user": dev["user"],
            "schema": "from_terraform",
        }
    }
    (module / "terraform.tfvars.json").write_text(json.dumps({"targets": targets}))
    terraform(module, "apply", "-auto-approve", "-input=false")

    done = scratch.setup("--terraform-dir", str(module), "--target", "scratch", "--test-connection")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "schema: scratch → from_terraform" in done.stdout
    assert "scratch: connected" in done.stdout

    run = scratch.run_pipeline()
    assert run.returncode == 0, run.stdout + run.stderr
    assert scratch.query("select count(*) from from_terraform.doubled", scratch.database) == [(2,)]


def test_a_module_that_was_not_applied_gives_no_outputs(scratch: Scratch, module: Path) -> None:
    done = scratch.setup("--terraform-dir", str(module))
    assert done.returncode == 2
    assert "ContractError: 1 fault(s)" in done.stderr
    assert "the document has no outputs" in done.stderr
    assert f"terraform -chdir={module} apply" in done.stderr


def test_a_folder_that_is_not_a_module_is_named(scratch: Scratch, tmp_path: Path) -> None:
    done = scratch.setup("--terraform-dir", str(tmp_path / "nowhere"))
    assert done.returncode == 2
    assert "Terraform gives no outputs:" in done.stderr
    assert "where:" in done.stderr
