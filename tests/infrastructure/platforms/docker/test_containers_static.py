"""What can be said of Dockerfiles, compose files and scripts without an engine."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from infrastructure.platforms.docker import secrets
from infrastructure.platforms.docker.health import get_address, get_role
from infrastructure.platforms.docker.secrets import build_outputs, create_secrets
from infrastructure.setup_profiles import contract
from tests.support.project import REPOSITORY

TOOLS = Path(sys.executable).parent
COMPOSE = ["compose.yaml", "compose.staging.yaml"]
SCRIPTS = [
    ".ci/containers", ".ci/engine", ".ci/rehearsal", "tests/support/rehearsal/on_push",
    "tests/support/base_images/make",
    "tests/support/base_images/postgres-entrypoint", "benchmarks/image_sizes/measure",
    "infrastructure/platforms/docker/entrypoint", "infrastructure/platforms/docker/setup",
    "infrastructure/platforms/docker/trim-packages", "infrastructure/platforms/docker/worker",
]  # fmt: skip
ENTRYPOINT = REPOSITORY / "infrastructure" / "platforms" / "docker" / "entrypoint"


def run(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=REPOSITORY, env={"PATH": "/usr/bin:/bin", **environment},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def passes(*command: str) -> None:
    done = run(str(TOOLS / command[0]), *command[1:], PATH=f"{TOOLS}:/usr/bin:/bin")
    assert done.returncode == 0, done.stdout + done.stderr


def services() -> dict[str, dict[str, object]]:
    return dict(yaml.safe_load((REPOSITORY / "compose.yaml").read_text())["services"])


def test_the_health_check_of_an_image_has_help() -> None:
    helped = run(sys.executable, "-m", "infrastructure.platforms.docker.health", "--help")
    unknown = run(sys.executable, "-m", "infrastructure.platforms.docker.health", "sever")
    assert (helped.returncode, helped.stderr) == (0, "")
    assert "usage: python -m infrastructure.platforms.docker.health [-h]" in helped.stdout
    assert unknown.returncode == 2
    assert "invalid choice: 'sever'" in unknown.stderr


def test_hadolint() -> None:
    files = [file for file in REPOSITORY.rglob("*Dockerfile") if ".venv" not in file.parts]
    assert len(files) >= 5
    passes("hadolint", *(str(file) for file in files))


def test_compose_schema() -> None:
    passes("check-jsonschema", "--builtin-schema", "vendor.compose-spec", *COMPOSE)


def test_shellcheck() -> None:
    passes("shellcheck", *SCRIPTS)


def test_the_dockerfile_builds_without_buildkit() -> None:
    text = (REPOSITORY / "Dockerfile").read_text()
    assert not re.search(r"^# *syntax|--mount|--chmod|<<-?\w", text, re.MULTILINE)


@pytest.mark.parametrize("name", list(services()))
def test_every_service_is_confined(name: str) -> None:
    service = services()[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in service
    assert service["logging"]["options"]["max-size"]  # type: ignore[index]
    assert service["deploy"]["resources"]["limits"].keys() == {"cpus", "memory", "pids"}  # type: ignore[index]
    assert "healthcheck" in service
    assert all(str(port).startswith("127.0.0.1:") for port in service.get("ports", []))  # type: ignore[attr-defined]


def test_only_the_docker_worker_has_the_engine() -> None:
    assert [name for name, service in services().items() if "docker.sock" in str(service)] == [
        "docker-worker"
    ]


def test_pools_and_compose_call_network_and_volume_the_same() -> None:
    pools = (REPOSITORY / "infrastructure" / "config" / "pools.yaml").read_text()
    compose = (REPOSITORY / "compose.yaml").read_text()
    for variable in ("${NETWORK:-millrace}", "${STATE_VOLUME:-millrace-state}"):
        assert variable in pools
        assert f'{{name: "{variable}"}}' in compose
        assert f"{variable[2:-1].split(':')[0]}: {variable}" in compose


def test_server_worker_and_runs_say_the_same_address_of_the_ui() -> None:
    """Links in notices are the server's, in reports the run's."""
    document = yaml.safe_load((REPOSITORY / "compose.yaml").read_text())["services"]
    said = {
        name: service["environment"].get("PREFECT_UI_URL")
        for name, service in document.items()
        if "PREFECT" in str(service.get("environment", {})) and "POSTGRES_DB" not in str(service)
    }
    assert set(said) == {"server", "worker", "docker-worker", "setup"}
    assert set(said.values()) == {"${PREFECT_UI_URL:-http://127.0.0.1:${SERVER_PORT:-4200}}"}
    pools = yaml.safe_load((REPOSITORY / "infrastructure" / "config" / "pools.yaml").read_text())
    for name, pool in pools["pools"].items():
        # A run beside its worker has the worker's address.
        wanted = None if pool["kind"] == "process" else "${PREFECT_UI_URL:-http://127.0.0.1:4200}"
        assert pool.get("env", {}).get("PREFECT_UI_URL") == wanted, name


def test_the_secrets_are_read_by_containers_and_reached_by_their_owner_alone(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "secrets"
    assert all(create_secrets(folder).values())
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {file.stat().st_mode & 0o777 for file in folder.iterdir()} == {0o444}
    password = (folder / "database-password").read_text()
    assert not any(create_secrets(folder).values())
    assert (folder / "database-password").read_text() == password
    document = yaml.safe_load((REPOSITORY / "compose.yaml").read_text())["secrets"]
    named = {str(each["file"]).rpartition("/")[2].rstrip("}") for each in document.values()}
    assert named == {file.name for file in folder.iterdir()}


def test_the_warehouse_of_compose_keeps_the_contract() -> None:
    found = contract.parse_contract(secrets.json.dumps(build_outputs("x")), where="", fix="")
    assert list(found.targets) == ["dev", "staging", "prod"]
    assert list(found.secrets) == ["dev", "staging", "prod"]


def test_the_entrypoint_reads_secrets_from_files(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("it's $HOME `id`\n")
    done = run(str(ENTRYPOINT), "sh", "-c", 'echo "$PGPASSWORD|${PGPASSWORD_FILE-}"',
               PGPASSWORD_FILE=str(file))  # fmt: skip
    assert done.stdout == "it's $HOME `id`|\n"
    assert done.stderr == ""


def test_the_entrypoint_refuses_two_answers_and_leaves_other_names_alone(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("secret")
    both = run(str(ENTRYPOINT), "true", PGPASSWORD_FILE=str(file), PGPASSWORD="other")
    assert both.returncode == 2
    assert both.stderr == "PGPASSWORD and PGPASSWORD_FILE are both set. Fix: set one of them.\n"
    other = run(str(ENTRYPOINT), "env", PATH_FILE=str(file))
    assert f"PATH_FILE={file}" in other.stdout
    assert "PATH=secret" not in other.stdout


@pytest.mark.parametrize(
    ("command", "role", "url"),
    [
        ("docker-init -- entrypoint prefect server start --port 4200", "server",
         "http://127.0.0.1:4200/api/ready"),
        ("millrace worker --pool default-pool", "worker",
         "http://127.0.0.1:8080/health"),
        ("prefect flow-run execute", "other", None),
    ],
)  # fmt: skip
def test_a_container_knows_what_it_is(command: str, role: str, url: str | None) -> None:
    assert get_role(command) == role
    assert get_address(role, {}) == url
