"""The root module for Postgres servers that exist: its own tests, and applied for real."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import REPOSITORY, Project, Scratch

pytestmark = pytest.mark.skipif(
    shutil.which("terraform") is None,
    reason="SKIPPED: terraform is not on this machine, so its module is neither tested nor applied",
)
MODULE = REPOSITORY / "infrastructure" / "terraform" / "postgres"


@pytest.fixture
def module(tmp_path: Path) -> Path:
    """A copy: state, and what `init` leaves, stay out of the project."""
    copy = tmp_path / "postgres"
    shutil.copytree(MODULE, copy, ignore=shutil.ignore_patterns(".terraform*", "*.tfstate*"))
    terraform(copy, "init", "-input=false")
    return copy


def terraform(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["terraform", f"-chdir={folder}", *arguments],
        capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_its_own_tests_pass(module: Path) -> None:
    assert "7 passed, 0 failed" in terraform(module, "test", "-no-color")


def test_it_is_formatted() -> None:
    terraform(MODULE, "fmt", "-check", "-recursive")


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


def test_a_folder_that_is_no_module_is_named(scratch: Scratch, tmp_path: Path) -> None:
    done = scratch.setup("--terraform-dir", str(tmp_path / "nowhere"))
    assert done.returncode == 2
    assert "Terraform gives no outputs:" in done.stderr
    assert "where:" in done.stderr
