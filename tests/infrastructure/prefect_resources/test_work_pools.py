"""Work pools against a real Prefect API and a real worker: templates, queues, references."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from infrastructure.prefect_resources.config_files import ENGINE_CONFIG_DIR
from infrastructure.prefect_resources.work_pools.job_templates import get_default_template, merge
from infrastructure.prefect_resources.work_pools.pools_file import POOLS_FILE, read_pools
from infrastructure.prefect_resources.work_pools.work_pool_resources import build_desired
from prefect_flows.core.errors import ConfigurationError
from prefect_flows.core.settings import Settings
from tests.support.project import Project

IMAGE = "registry.example.com/millrace:abc1234"
COMMAND = ("-m", "infrastructure.cli", "pools")
SECRETS = {
    "prefect-api-auth-string": "made-up-user:made-up-password",
    "prefect-api-key": "made-up-key",
    "warehouse-postgres": json.dumps({"host": "warehouse", "password": "made-up-warehouse"}),
}


def setup(project: Project, *arguments: str, **environment: str) -> Any:
    return project.run(*COMMAND, *arguments, **({"MILLRACE_IMAGE": IMAGE} | environment))


def pools(project: Project) -> dict[str, dict[str, Any]]:
    return {pool["name"]: pool for pool in project.asked("work_pools")}


def defaults(pool: dict[str, Any]) -> dict[str, Any]:
    properties = pool["base_job_template"]["variables"]["properties"]
    return {name: each["default"] for name, each in properties.items() if "default" in each}


@pytest.fixture
def with_secrets(other_project: Project) -> Iterator[Project]:
    for name, value in SECRETS.items():
        done = other_project.run("-m", "infrastructure.cli", "secret", name, text=value)
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip() == f"secret/{name}: saved"
    yield other_project
    for block in other_project.asked("block_documents"):
        if block["name"] in SECRETS:
            other_project.http.delete(f"/block_documents/{block['id']}")


def pools_file(tmp_path: Path, **pool: Any) -> Path:
    """A file with one process pool, and what a test changes in it."""
    file = tmp_path / "pools.yaml"
    document = {"version": 1, "pools": {"tried": {"kind": "process", "description": "x", **pool}}}
    file.write_text(yaml.safe_dump(document))
    return file


def test_missing_blocks_are_listed_with_their_commands_and_nothing_is_made(
    other_project: Project,
) -> None:
    done = setup(other_project)
    assert done.returncode == 2
    for fault in (
        "secret/prefect-api-key: no such block; uv run millrace secret prefect-api-key",
        "secret/warehouse-postgres, member password: no such block; "
        "uv run millrace secret warehouse-postgres",
    ):
        assert fault in done.stderr
    assert pools(other_project) == {}


def test_a_member_that_a_block_does_not_have(with_secrets: Project) -> None:
    done = with_secrets.run(
        "-m",
        "infrastructure.cli",
        "secret",
        "warehouse-postgres",
        text='{"host": "warehouse"}',
    )
    assert done.returncode == 0, done.stderr
    done = setup(with_secrets)
    assert done.returncode == 2
    assert "secret/warehouse-postgres, member password: the block has no member" in done.stderr
    assert pools(with_secrets) == {}


def test_the_three_pools_their_queues_and_a_second_run(with_secrets: Project) -> None:
    planned = setup(with_secrets, "--dry-run")
    assert planned.returncode == 0, planned.stderr
    assert pools(with_secrets) == {}
    assert setup(with_secrets, "--check").returncode == 1

    made = setup(with_secrets)
    assert made.returncode == 0, made.stdout + made.stderr
    assert "Work pools and queues: 12 created, 0 updated, 0 unchanged." in made.stdout
    again = setup(with_secrets)
    assert "Work pools and queues: 0 created, 0 updated, 12 unchanged." in again.stdout
    assert setup(with_secrets, "--check").returncode == 0

    found = pools(with_secrets)
    types = {name: pool["type"] for name, pool in found.items()}
    assert types == {
        "default-pool": "process", "docker-pool": "docker", "k3s-pool": "kubernetes",
    }  # fmt: skip
    docker = defaults(found["docker-pool"])
    assert docker["image"] == IMAGE
    assert docker["mem_limit"] == "4g"
    assert docker["networks"] == ["millrace"]
    assert docker["env"]["PGPASSWORD"] == "{{ prefect.blocks.secret.warehouse-postgres.password }}"
    assert docker["env"]["PYTHONUNBUFFERED"] == "1"
    assert defaults(found["k3s-pool"])["secretName"] == "prefect-jobs-secrets"
    for pool in found:
        queues = with_secrets.asked(f"work_pools/{pool}/queues")
        by_priority = sorted(queues, key=lambda queue: queue["priority"])
        assert [queue["name"] for queue in by_priority][:3] == ["prod", "staging", "dev"]

    everything = json.dumps(found) + planned.stdout + made.stdout + again.stdout
    for secret in SECRETS.values():
        assert secret not in everything
    assert "made-up-warehouse" not in everything


@pytest.mark.operations
def test_what_somebody_changed_by_hand_is_seen_and_fixed(with_secrets: Project) -> None:
    assert setup(with_secrets).returncode == 0
    pool = pools(with_secrets)["docker-pool"]
    template = pool["base_job_template"]
    properties = template["variables"]["properties"]
    properties["mem_limit"]["default"] = "64g"
    properties["env"]["default"]["PGPASSWORD"] = "made-up-by-hand"
    url = f"{with_secrets.api_url}/work_pools/docker-pool"
    with_secrets.http.patch(url, json={"base_job_template": template}).raise_for_status()
    with_secrets.http.post(f"{url}/queues", json={"name": "left-over"}).raise_for_status()

    seen = setup(with_secrets, "--check")
    assert seen.returncode == 1
    assert "mem_limit.default: 64g → 4g" in seen.stdout.replace("\n", " ")
    assert "made-up-by-hand" not in seen.stdout
    assert "nothing asks for it; --prune removes it" in seen.stdout

    elsewhere = setup(with_secrets, "--dry-run", NETWORK="millrace-staging")
    assert "networks.default: ['millrace'] → ['millrace-staging']" in elsewhere.stdout

    fixed = setup(with_secrets, "--prune")
    assert "1 updated" in fixed.stdout
    assert "1 removed" in fixed.stdout
    assert setup(with_secrets, "--check").returncode == 0


def test_a_pool_that_is_paused_stays_paused(with_secrets: Project) -> None:
    assert setup(with_secrets, "--pool", "default-pool").returncode == 0
    url = f"{with_secrets.api_url}/work_pools/default-pool"
    with_secrets.http.patch(
        url, json={"is_paused": True, "concurrency_limit": 1}
    ).raise_for_status()
    assert setup(with_secrets, "--pool", "default-pool").returncode == 0
    pool = pools(with_secrets)["default-pool"]
    assert pool["is_paused"]
    assert pool["concurrency_limit"] == 4


def test_a_pool_of_another_type_is_refused(other_project: Project, tmp_path: Path) -> None:
    file = pools_file(tmp_path)
    assert setup(other_project, "--file", str(file)).returncode == 0
    file.write_text(file.read_text().replace("process", "docker"))
    done = setup(other_project, "--file", str(file))
    assert done.returncode == 2
    assert "The work pool 'tried' is of another type, which Prefect cannot change." in done.stderr
    assert "uv run prefect work-pool delete tried" in done.stderr


@pytest.mark.parametrize(
    ("pool", "said"),
    [
        ({"env": {"API_TOKEN": "made-up-9"}}, "API_TOKEN: a secret is named here, never written"),
        ({"env": {"URL": "postgresql://u:made-up-9@h/d"}}, "URL: a secret is named here"),
        ({"defaults": {"image": "x"}}, "defaults.image: no job variable of process pools; they"),
        ({"defaults": {"stream_output": "yes"}}, "defaults.stream_output: 'yes' is not of type"),
        ({"defaults": {"env": {"A": "1"}}}, "defaults.env: no job variable"),
        ({"env": {"PLACE": "${NOT_SET_ANYWHERE}"}}, "NOT_SET_ANYWHERE is not set"),
        ({"replicas": 3}, "pools.tried.replicas: there is no such field"),
        ({"queues": {"prod": {"priority": 0}}}, "pools.tried.queues.prod.priority: "),
    ],
)
def test_a_file_that_is_wrong(tmp_path: Path, pool: dict[str, Any], said: str) -> None:
    settings = Settings(project_dir=tmp_path)
    with pytest.raises(ConfigurationError) as error:
        build_desired(read_pools(settings, pools_file(tmp_path, **pool)), {})
    assert said in str(error.value)
    assert "made-up-9" not in str(error.value)


def test_a_pool_that_the_file_does_not_have(other_project: Project) -> None:
    done = setup(other_project, "--pool", "nowhere")
    assert done.returncode == 2
    assert "it has default-pool, docker-pool, k3s-pool" in done.stderr


def test_ours_is_laid_over_prefects_own() -> None:
    below = {"a": {"b": 1, "c": 2}, "list": [{"name": "x", "env": "{{ env }}"}]}
    above = {"a": {"b": None, "d": 3}, "list": [{"envFrom": [1]}, {"name": "y"}]}
    assert merge(below, above) == {
        "a": {"c": 2, "d": 3},
        "list": [{"name": "x", "env": "{{ env }}", "envFrom": [1]}, {"name": "y"}],
    }
    assert below["a"]["b"] == 1


def test_every_default_of_the_file_is_a_variable_of_prefects_template() -> None:
    """The file is made for the installed versions: nothing in it is left without effect."""
    document = yaml.safe_load((ENGINE_CONFIG_DIR / POOLS_FILE).read_text())
    for pool in document["pools"].values():
        known = get_default_template(pool["kind"])["variables"]["properties"]
        assert set(pool.get("defaults", {})) <= set(known)


@pytest.mark.parametrize(
    ("type_", "text", "said"),
    [
        ("secret", "", "The value is empty."),
        ("secret", '{"password": "made-up-7"', "The value looks like JSON but is not valid"),
        ("docker-registry-credentials", '{"password": "made-up-7"}', "username: this field is req"),
    ],
)
def test_a_secret_that_is_none(other_project: Project, type_: str, text: str, said: str) -> None:
    done = other_project.run(
        "-m", "infrastructure.cli", "secret", "tried", "--type", type_, text=text
    )
    assert done.returncode == 2
    assert said in done.stderr
    assert "made-up-7" not in done.stdout + done.stderr


def test_registry_credentials_keep_their_password_in_a_plain_read(other_project: Project) -> None:
    text = '{"username": "u", "password": "made-up-7", "registry_url": "registry.example.com"}'
    done = other_project.run(
        "-m", "infrastructure.cli", "secret", "millrace-registry",
        "--type", "docker-registry-credentials", text=text,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    blocks = other_project.asked("block_documents")
    (block,) = (each for each in blocks if each["name"] == "millrace-registry")
    assert block["data"]["username"] == "u"
    assert "made-up-7" not in json.dumps(blocks)
