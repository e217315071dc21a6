"""Setup against a real Prefect API: plan, apply, drift, orphans, secrets, half-way ends."""

from __future__ import annotations

import http.server
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.infrastructure.setup_profiles.test_contract import BIGQUERY, KEY, POSTGRES
from tests.support.project import Project, serving

TARGETS = {"dev": POSTGRES, "prod": BIGQUERY}
SECRETS = {"dev": {"password": "made-up-1"}, "prod": {"service_account_key": KEY}}
BLOCKS = {
    "gcp-credentials",
    "bigquery-target-configs-prod",
    "dbt-cli-profile-prod",
    "postgres-credentials-dev",
    "postgres-target-configs-dev",
    "dbt-cli-profile-dev",
}


class Api:
    """The Prefect API of a project, asked directly."""

    def __init__(self, project: Project) -> None:
        self.http = project.http
        self.auth_string = project.auth_string

    def blocks(self, *, include_secrets: bool = False) -> dict[str, dict[str, Any]]:
        found = self.http.post(
            "/block_documents/filter", json={"include_secrets": include_secrets}
        ).json()
        return {block["name"]: block for block in found if not block["is_anonymous"]}

    def delete(self, name: str) -> None:
        self._delete(f"block_documents/{self.blocks()[name]['id']}")

    def limits(self) -> dict[str, int]:
        """Global concurrency limits that are ours, by name."""
        found = self.http.post("/v2/concurrency_limits/filter", json={}).json()
        return {each["name"]: each["limit"] for each in found if "millrace" in each["name"]}

    def variable(self) -> Any:
        answer = self.http.get("/variables/name/millrace_state_url")
        return answer.json()["value"] if answer.is_success else None

    def delete_other_objects(self) -> None:
        for name in self.limits():
            self._delete(f"v2/concurrency_limits/{name}")
        if self.variable() is not None:
            self._delete("variables/name/millrace_state_url")

    def _delete(self, path: str) -> None:
        self.http.delete(f"/{path}").raise_for_status()


@pytest.fixture
def empty_api(other_project: Project) -> Api:
    """An API without blocks."""
    api = Api(other_project)
    for name in api.blocks():
        api.delete(name)
    api.delete_other_objects()
    other_project.folder.joinpath("dbt", "profiles.yml").unlink(missing_ok=True)
    return api


@pytest.fixture
def api(other_project: Project) -> Api:
    """An API with the blocks of both targets, and nothing else."""
    done = other_project.setup("--outputs", outputs(other_project), "--prune")
    assert done.returncode == 0, done.stdout + done.stderr
    return Api(other_project)


def outputs(project: Project, targets: Any = TARGETS, secrets: Any = SECRETS) -> str:
    file = project.folder / "outputs.json"
    document = {"dbt_targets": {"value": targets}, "dbt_target_secrets": {"value": secrets}}
    file.write_text(json.dumps(document))
    return str(file)


def test_a_second_run_changes_nothing(other_project: Project, empty_api: Api) -> None:
    file = outputs(other_project)

    first = other_project.setup("--outputs", file)
    before = empty_api.blocks(include_secrets=True)
    second = other_project.setup("--outputs", file)

    assert first.returncode == 0, first.stdout + first.stderr
    assert "Blocks: 8 created, 0 updated, 0 unchanged." in first.stdout
    assert set(before) == BLOCKS
    assert empty_api.limits() == {"millrace-target-dev": 1, "millrace-target-prod": 1}
    assert second.returncode == 0
    assert "Blocks: 0 created, 0 updated, 8 unchanged." in second.stdout
    assert "dbt/profiles.yml: unchanged" in second.stdout
    assert empty_api.blocks(include_secrets=True) == before


def test_blocks_are_references_and_a_plain_read_shows_no_secret(
    other_project: Project, api: Api
) -> None:
    plain, secret = api.blocks(), api.blocks(include_secrets=True)

    references = {
        name: {key: ref["block_document"]["name"] for key, ref in refs.items()}
        for name, block in plain.items()
        if (refs := block["block_document_references"])
    }
    assert references == {
        "dbt-cli-profile-dev": {"target_configs": "postgres-target-configs-dev"},
        "dbt-cli-profile-prod": {"target_configs": "bigquery-target-configs-prod"},
        "postgres-target-configs-dev": {"credentials": "postgres-credentials-dev"},
        "bigquery-target-configs-prod": {"credentials": "gcp-credentials"},
    }
    for value in ("made-up-1", "made-up-secret"):
        assert value not in json.dumps(plain)
        assert value in json.dumps(secret)


def test_prefects_own_classes_read_what_setup_wrote(other_project: Project, api: Api) -> None:
    done = other_project.run(
        "-c",
        "from prefect_dbt.cli.configs.postgres import PostgresTargetConfigs as Configs\n"
        "print(Configs.load('postgres-target-configs-dev').get_configs()['password'])\n"
        "from prefect_sqlalchemy import SqlAlchemyConnector\n"
        "print(SqlAlchemyConnector.load('postgres-credentials-dev').connection_info.host)\n",
    )

    assert done.stdout.split() == ["made-up-1", "localhost"], done.stderr


def test_a_change_is_planned_masked_checked_and_applied(other_project: Project, api: Api) -> None:
    changed = outputs(
        other_project,
        TARGETS | {"dev": POSTGRES | {"host": "elsewhere", "threads": 2}},
        SECRETS | {"dev": {"password": "made-up-2"}},
    )
    before = api.blocks(include_secrets=True)

    dry = other_project.setup("--outputs", changed, "--dry-run")
    check = other_project.setup("--outputs", changed, "--check")

    assert (dry.returncode, check.returncode) == (0, 1)
    for done in (dry, check):
        assert "connection_info.host: localhost → elsewhere" in done.stdout
        assert "connection_info.password: ******** → ********" in done.stdout
        assert "threads: 4 → 2" in done.stdout
        assert "made-up-" not in done.stdout + done.stderr
    assert api.blocks(include_secrets=True) == before

    done = other_project.setup("--outputs", changed)
    assert "Blocks: 0 created, 2 updated, 6 unchanged." in done.stdout
    assert other_project.setup("--outputs", changed, "--check").returncode == 0
    assert "made-up-2" in json.dumps(api.blocks(include_secrets=True))


def test_a_field_that_somebody_added_by_hand_is_drift(other_project: Project, api: Api) -> None:
    file = outputs(other_project)
    block = api.blocks(include_secrets=True)["postgres-target-configs-dev"]
    api.http.patch(
        f"/block_documents/{block['id']}",
        json={"data": {"extras": {"sslmode": "disable"}}, "merge_existing_data": True},
    ).raise_for_status()

    done = other_project.setup("--outputs", file, "--check")

    assert done.returncode == 1
    assert "extras.sslmode: disable → none" in done.stdout


def test_a_key_that_is_taken_away_is_not_printed(other_project: Project, api: Api) -> None:
    file = outputs(other_project, TARGETS, {"dev": SECRETS["dev"]})

    done = other_project.setup("--outputs", file, "--check")

    assert done.returncode == 1
    assert "service_account_info: ******** → none" in done.stdout
    assert "made-up-secret" not in done.stdout + done.stderr


def test_a_secret_that_somebody_added_by_hand_is_not_printed(
    other_project: Project, api: Api
) -> None:
    block = api.blocks(include_secrets=True)["bigquery-target-configs-prod"]
    api.http.patch(
        f"/block_documents/{block['id']}",
        json={"data": {"extras": {"client_secret": "by-hand"}}, "merge_existing_data": True},
    ).raise_for_status()

    done = other_project.setup("--outputs", outputs(other_project), "--check")

    assert done.returncode == 1
    assert "extras.client_secret: ******** → none" in done.stdout
    assert "by-hand" not in done.stdout + done.stderr


def test_orphans_are_named_and_removed_only_when_asked(other_project: Project, api: Api) -> None:
    only_dev = outputs(other_project, {"dev": POSTGRES}, {"dev": SECRETS["dev"]})

    left = other_project.setup("--outputs", only_dev)
    assert left.returncode == 0
    assert "4 orphaned" in left.stdout
    assert set(api.blocks()) == BLOCKS
    assert other_project.setup("--outputs", only_dev, "--check").returncode == 1

    pruned = other_project.setup("--outputs", only_dev, "--prune")
    assert "4 removed" in pruned.stdout
    assert set(api.limits()) == {"millrace-target-dev"}
    assert set(api.blocks()) == {name for name in BLOCKS if name.endswith("-dev")}
    assert other_project.setup("--outputs", only_dev, "--check").returncode == 0


def test_prune_leaves_what_setup_did_not_make(other_project: Project, api: Api) -> None:
    block = api.blocks()["postgres-credentials-dev"]
    document = {
        "name": "somebody-elses",
        "data": {"connection_info": {"driver": "postgresql+psycopg2", "database": "d"}},
        "block_type_id": block["block_type_id"],
        "block_schema_id": block["block_schema_id"],
    }
    api.http.post("/block_documents/", json=document).raise_for_status()
    limit = {"name": "somebody-elses", "limit": 3}
    api.http.post("/v2/concurrency_limits/", json=limit).raise_for_status()
    variable = {"name": "somebody_elses", "value": "v"}
    api.http.post("/variables/", json=variable).raise_for_status()
    try:
        done = other_project.setup("--outputs", outputs(other_project), "--prune")
        assert done.returncode == 0, done.stdout + done.stderr
        assert "somebody" not in done.stdout
        assert set(api.blocks()) == {*BLOCKS, "somebody-elses"}
        for path in ("v2/concurrency_limits/somebody-elses", "variables/name/somebody_elses"):
            assert api.http.get(f"/{path}").is_success, path
    finally:
        api.delete("somebody-elses")


def test_the_state_url_is_a_variable_that_follows_terraform(
    other_project: Project, api: Api
) -> None:
    file = Path(outputs(other_project))
    document = json.loads(file.read_text())

    b, c = "gs://made-up/b", "gs://made-up/c"
    for url, action in ((b, "create"), (c, "update"), (c, "unchanged")):
        file.write_text(json.dumps(document | {"state_url": {"value": url}}))
        done = other_project.setup("--outputs", str(file))
        assert done.returncode == 0, done.stdout + done.stderr
        assert re.search(rf"{action} +│ millrace_state_url", done.stdout)
        assert api.variable() == url

    file.write_text(json.dumps(document))
    assert "1 orphaned" in other_project.setup("--outputs", str(file)).stdout
    assert api.variable() == c
    assert other_project.setup("--outputs", str(file), "--prune").returncode == 0
    assert api.variable() is None


def test_one_target_alone_leaves_the_others(other_project: Project, empty_api: Api) -> None:
    done = other_project.setup("--outputs", outputs(other_project), "--target", "prod")
    assert done.returncode == 0, done.stderr
    assert set(empty_api.blocks()) == {
        "gcp-credentials", "bigquery-target-configs-prod", "dbt-cli-profile-prod",
    }  # fmt: skip

    other_project.setup("--outputs", outputs(other_project), "--target", "dev")
    file = other_project.folder / "dbt" / "profiles.yml"
    assert set(yaml.safe_load(file.read_text())["millrace"]["outputs"]) == {"dev", "prod"}


def test_google_targets_with_other_keys_have_blocks_of_their_own(
    other_project: Project, api: Api
) -> None:
    other = KEY | {"client_email": "other@made-up.example"}
    file = outputs(
        other_project,
        {"staging": BIGQUERY, "prod": BIGQUERY},
        {"staging": {"service_account_key": KEY}, "prod": {"service_account_key": other}},
    )

    done = other_project.setup("--outputs", file)

    assert done.returncode == 0, done.stderr
    assert {"gcp-credentials-staging", "gcp-credentials-prod"} <= set(api.blocks())


@contextmanager
def refusing_after(api: Api, writes: int) -> Iterator[str]:
    """A proxy in front of the API that lets some blocks be created, and refuses the next."""
    left, refuses = writes, False

    class Proxy(http.server.BaseHTTPRequestHandler):
        def forward(self) -> None:
            nonlocal left, refuses
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            creates = self.command == "POST" and self.path == "/api/block_documents/"
            refuses = refuses or (creates and left == 0)
            if refuses:
                status, content = 403, b"{}"
            else:
                answer = api.http.request(
                    self.command,
                    self.path.removeprefix("/api"),
                    content=body,
                    headers={"Content-Type": "application/json"},
                )
                status, content = answer.status_code, answer.content
                # A busy SQLite is answered with 503, and setup asks again: that created nothing.
                left -= creates and answer.is_success
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PATCH = do_PUT = do_DELETE = forward  # noqa: N815 (http.server's names)

    with serving(Proxy) as url:
        yield f"{url}/api"


# The limit of a target is written after its profile.
@pytest.mark.parametrize(
    ("writes", "made"), [(2, 2), pytest.param(4, 5, marks=pytest.mark.nightly)]
)
def test_a_run_that_is_cut_off_is_finished_by_the_next(
    other_project: Project, empty_api: Api, writes: int, made: int
) -> None:
    file = outputs(other_project)

    with refusing_after(empty_api, writes) as url:
        cut_off = other_project.setup("--outputs", file, PREFECT_API_URL=url)

    # 2 would say that nothing was changed.
    assert cut_off.returncode == 1
    assert "PrefectUnreachable: The Prefect API refuses: 403 Forbidden" in cut_off.stderr
    left = empty_api.blocks()
    assert len(left) == writes
    for block in left.values():
        for reference in block["block_document_references"].values():
            assert reference["block_document"]["name"] in left, "it points at nothing"

    done = other_project.setup("--outputs", file)
    assert done.returncode == 0, done.stderr
    assert f"{8 - made} created, 0 updated, {made} unchanged" in done.stdout
    assert set(empty_api.blocks()) == BLOCKS


def test_profiles_yml_is_private_and_holds_no_secret(
    other_project: Project, empty_api: Api
) -> None:
    done = other_project.setup(
        "--outputs", outputs(other_project), "--profiles-only", PREFECT_API_URL="http://127.0.0.1:9"
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert empty_api.blocks() == {}
    file = other_project.folder / "dbt" / "profiles.yml"
    assert file.stat().st_mode & 0o777 == 0o600
    text = file.read_text()
    assert "made-up-1" not in text
    assert "made-up-secret" not in text
    document = yaml.safe_load(text)["millrace"]
    assert document["target"] == "dev"
    assert document["outputs"]["dev"]["password"] == "{{ env_var('DBT_ENV_SECRET_DEV_PASSWORD') }}"
    assert document["outputs"]["prod"]["keyfile_json"]["private_key"] == (
        "{{ env_var('DBT_ENV_SECRET_PROD_PRIVATE_KEY') }}"
    )


def test_blocks_only_leaves_the_file_alone(other_project: Project, empty_api: Api) -> None:
    assert other_project.setup("--outputs", outputs(other_project), "--blocks-only").returncode == 0
    assert set(empty_api.blocks()) == BLOCKS
    assert not (other_project.folder / "dbt" / "profiles.yml").exists()


def test_outputs_come_from_standard_input_too(other_project: Project, api: Api) -> None:
    text = json.dumps({"dbt_targets": {"value": {"dev": POSTGRES}}})

    done = other_project.setup("--outputs", "-", text=text)

    assert done.returncode == 0, done.stderr
    assert "1 updated, 3 unchanged, 4 orphaned" in done.stdout, "the password went, the rest stays"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "the document is empty"),
        ("no json", "not JSON"),
        ('{"dbt_targets": {"value": {"dev": {"type": "postgres"}}}}', "dbt_targets.dev.host"),
        ('{"dbt_targets": {"value": {"Dev": {"type": "postgres"}}}}', "not a valid target name"),
    ],
)
def test_bad_outputs_change_nothing(
    other_project: Project, api: Api, text: str, fault: str
) -> None:
    before = api.blocks(include_secrets=True)
    profiles = (other_project.folder / "dbt" / "profiles.yml").read_text()

    done = other_project.setup("--outputs", "-", text=text)

    assert done.returncode == 2
    assert "ContractError:" in done.stderr
    assert fault in done.stderr
    assert "Traceback" not in done.stderr
    assert api.blocks(include_secrets=True) == before
    assert (other_project.folder / "dbt" / "profiles.yml").read_text() == profiles


def test_outputs_that_are_absent(other_project: Project, api: Api) -> None:
    done = other_project.setup("--outputs", "nowhere.json")

    assert done.returncode == 2
    assert "Terraform's outputs cannot be read: No such file or directory." in done.stderr
    assert "where: nowhere.json" in done.stderr
    assert "terraform -chdir=DIR output -json > nowhere.json" in done.stderr


def test_a_target_that_terraform_does_not_have(other_project: Project, empty_api: Api) -> None:
    done = other_project.setup("--outputs", outputs(other_project), "--target", "nowhere")

    assert done.returncode == 2
    assert "Terraform's outputs have no target 'nowhere'; they have dev, prod." in done.stderr
    assert empty_api.blocks() == {}


def test_options_that_exclude_each_other(other_project: Project) -> None:
    done = other_project.setup("--blocks-only", "--profiles-only")

    assert done.returncode == 2
    assert "--blocks-only and --profiles-only exclude each other." in done.stderr


def test_an_api_that_is_down(other_project: Project, empty_api: Api) -> None:
    done = other_project.setup(
        "--outputs", outputs(other_project), PREFECT_API_URL="http://127.0.0.1:9/api"
    )

    assert done.returncode == 2
    assert "PrefectUnreachable:" in done.stderr
    assert not (other_project.folder / "dbt" / "profiles.yml").exists()


@pytest.mark.operations
def test_connections_are_tested_one_by_one(other_project: Project, api: Api) -> None:
    good = other_project.dev
    file = outputs(other_project, {"bad": good | {"database": "nowhere"}, "dev": good}, {})

    done = other_project.setup("--outputs", file, "--test-connection")

    assert done.returncode == 2
    assert 'database "nowhere" does not exist' in done.stdout
    assert "dev: connected" in done.stdout
