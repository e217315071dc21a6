"""Deliveries for real, which `.ci/rehearsal` prepares: a story in its order.

What is marked as long is told by `.ci/rehearsal --all` alone.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.command_blocks import blocks
from tests.support.project import PATIENCE, until
from tests.support.rehearsal.host import Forge, Host, Pushed, Receiver, docker

pytestmark = pytest.mark.delivery

if "REHEARSAL" not in os.environ:
    pytest.skip("needs a host: .ci/rehearsal makes one", allow_module_level=True)

GROUND = Path(os.environ["REHEARSAL"])
HOME = Path("~" + os.environ["REHEARSAL_USER"]).expanduser()
NETWORK = "millrace"


@pytest.fixture(scope="module")
def forge() -> Forge:
    return Forge(GROUND)


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    yield Host(GROUND, HOME / "millrace")
    names = docker("ps", "--all", "--quiet", "--filter=label=com.docker.compose.project").split()
    # One that is being removed already is no fault.
    subprocess.run(
        ["docker", "rm", "--force", "--volumes", *names], capture_output=True, check=False
    )
    docker("network", "prune", "--force")
    for name in docker("volume", "ls", "--quiet").split():
        docker("volume", "rm", name)


@pytest.fixture(scope="module")
def story() -> dict[str, Pushed]:
    """Releases of the story, by what they are called in it."""
    return {}


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    found = Receiver()
    gateway = docker(
        "network", "inspect", "--format", "{{(index .IPAM.Config 0).Gateway}}", NETWORK
    ).strip()  # fmt: skip
    server = found.serve(gateway)
    yield found
    server.shutdown()
    server.server_close()


def test_a_host_without_secrets_is_refused_with_the_line_that_makes_them(
    forge: Forge, host: Host, story: dict[str, Pushed]
) -> None:
    pushed = forge.push("first")
    assert pushed.code == "2"
    assert "Secrets are missing: api-auth-string, database-password," in pushed.said
    (fix,) = [line for line in pushed.said.splitlines() if "fix:" in line]
    host.sh(fix.partition("on the host: ")[2].partition("; then put")[0])
    assert host.records() == []
    story["first"] = pushed


def test_another_key_than_the_known_one_is_refused(
    forge: Forge, story: dict[str, Pushed], tmp_path: Path
) -> None:
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "other"], check=True
    )
    key = " ".join((tmp_path / "other.pub").read_text().split()[:2])
    known = tmp_path / "known_hosts"
    known.write_text(f"[127.0.0.1]:{os.environ['SSH_PORT']} {key}\n")
    image = story["first"].image
    done = forge.deliver("ssh", "--image", image, "--known-hosts", str(known))
    assert done.returncode == 2
    assert "verification failed" in done.stderr
    assert "do not take it from the network" in done.stderr
    known.write_text(f"elsewhere.example.com {key}\n")
    done = forge.deliver("ssh", "--image", image, "--known-hosts", str(known))
    assert done.returncode == 2
    assert f"The key of [127.0.0.1]:{os.environ['SSH_PORT']} is not known." in done.stderr


def test_the_first_delivery(forge: Forge, host: Host, story: dict[str, Pushed]) -> None:
    (host.folder / ".env").write_text(
        f"SERVER_PORT={os.environ['SERVER_PORT']}\nWAREHOUSE_PORT={os.environ['WAREHOUSE_PORT']}\n"
        f"POSTGRES_IMAGE={os.environ['POSTGRES_IMAGE']}\nCOMPOSE_PROFILES=warehouse\n"
    )
    shutil.chown(host.folder / ".env", os.environ["REHEARSAL_USER"])
    done = forge.deliver("ssh", "--image", story["first"].image)
    assert done.returncode == 0, done.stdout + done.stderr
    (record,) = host.records()
    assert record["result"] == "delivered"
    assert host.images() == {"server": {story["first"].image}, "worker": {story["first"].image}}
    assert host.deployments()["dbt-dev"]["version"] == story["first"].version
    assert "worker" in host.sh("cd millrace && ./compose ps --services")


def test_a_release_replaces_the_worker_beside_a_run(
    forge: Forge, host: Host, story: dict[str, Pushed], receiver: Receiver
) -> None:
    body = {
        "name": "notify-dev",
        "block_type_id": host.api("block_types/slug/custom-webhook")["id"],
        "block_schema_id": host.api(
            "block_schemas/filter",
            {"block_schemas": {"block_type_id": {
                "any_": [host.api("block_types/slug/custom-webhook")["id"]]}}},
        )[0]["id"],
        "data": {"name": "rehearsal", "url": receiver.url, "allow_private_urls": True,
                 "json_data": {"text": "{{subject}}\n{{body}}"}},
    }  # fmt: skip
    host.api("block_documents/", body)
    run = host.start_run()
    host.running(run)
    story["good"] = pushed = forge.push("good")
    assert pushed.code == "0", pushed.said
    assert host.images() == {"server": {pushed.image}, "worker": {pushed.image}}
    assert host.deployments()["dbt-dev"]["version"] == pushed.version
    ended = host.ended(run)
    assert ended["state_type"] == "COMPLETED", "\n".join(host.said(run)[-30:])
    assert len(receiver.notices) == 1
    assert receiver.notices[0].startswith(f"Millrace: dev is at {pushed.version}")
    # Somebody is told of dev now, so the delivery has made what tells of its runs.
    automations = {each["name"] for each in host.api("automations/filter", {})}
    assert {"millrace: zombies", "millrace: dev: late", "millrace: dev: crashed"} <= automations
    assert sum(host.rows().values()) > 300_000


@pytest.mark.nightly
def test_a_migration_is_undone_with_the_release(
    forge: Forge, host: Host, story: dict[str, Pushed], receiver: Receiver
) -> None:
    """GIVEN a release that migrates Prefect's database, and whose worker does not start."""
    good = story["good"]
    runs = host.api("flow_runs/count", {})
    head = docker("run", "--rm", "--network=none", good.image, "python", "-m",
                  "infrastructure.delivery.container_cli", "head").strip()  # fmt: skip
    context = GROUND / "migrating"
    context.mkdir()
    (context / "migration.py").write_text(
        "from alembic import op\nimport sqlalchemy as sa\n"
        f"revision = 'ffffffffffff'\ndown_revision = '{head}'\n"
        "branch_labels = None\ndepends_on = None\n"
        "def upgrade():\n    op.create_table('rehearsed', sa.Column('id', sa.Integer))\n"
        "def downgrade():\n    op.drop_table('rehearsed')\n"
    )
    (context / "worker.py").write_text("raise SystemExit('no worker')\n")
    versions = docker(
        "run", "--rm", "--network=none", good.image, "python", "-c",
        "import importlib.util as u; print(u.find_spec('prefect.server.database')"
        ".submodule_search_locations[0] + '/_migrations/versions/postgresql')",
    ).strip()  # fmt: skip
    (context / "Dockerfile").write_text(
        f"FROM {good.image}\nUSER root\n"
        f"COPY migration.py {versions}/2099_rehearsed.py\n"
        "COPY worker.py infrastructure/prefect_resources/worker.py\n"
        "USER 10001:10001\nENV MILLRACE_VERSION=migrating\n"
        "LABEL org.opencontainers.image.version=migrating\n"
    )
    registry = f"127.0.0.1:{os.environ['REGISTRY_PORT']}"
    tag = f"{registry}/millrace:migrating"
    docker("build", "--quiet", "--tag", tag, str(context))
    subprocess.run(
        ["docker", "login", "--username", os.environ["REGISTRY_USERNAME"], "--password-stdin",
         registry],
        input=os.environ["REGISTRY_PASSWORD"], text=True, check=True, capture_output=True,
    )  # fmt: skip
    docker("push", "--quiet", tag)
    docker("logout", registry)
    image = docker("image", "inspect", "--format", "{{index .RepoDigests 0}}", tag).strip()
    done = forge.deliver("ssh", "--image", image, MILLRACE_VERSION="migrating")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "The database as it was: " in done.stdout
    assert host.images() == {"server": {good.image}, "worker": {good.image}}
    # Nothing that was there is lost; the server has planned further runs since.
    assert host.api("flow_runs/count", {}) >= runs
    assert "was rolled back to " + good.version in receiver.notices[-1]
    (backup,) = host.folder.glob("backups/*")
    assert backup.stat().st_mode & 0o777 == 0o600


@pytest.mark.nightly
def test_a_server_that_does_not_start_is_replaced_by_the_one_before(
    forge: Forge, host: Host, story: dict[str, Pushed], receiver: Receiver
) -> None:
    """GIVEN a release whose containers do not read the database's password any more."""
    deployments = host.deployments()
    workers = docker("ps", "--quiet", "--filter=label=com.docker.compose.service=worker")
    line = "    PREFECT_SERVER_DATABASE_PASSWORD \\\n"
    pushed = forge.push("no server", "infrastructure/platforms/docker/entrypoint", line, "")
    forge.git("reset", "--quiet", "--hard", "HEAD~1")
    assert pushed.code == "1", pushed.said
    good = story["good"]
    assert host.images() == {"server": {good.image}, "worker": {good.image}}
    # No worker was touched.
    assert docker("ps", "--quiet", "--filter=label=com.docker.compose.service=worker") == workers
    assert host.deployments() == deployments
    assert f"server of {pushed.version}" in receiver.notices[-1]


def test_a_release_that_fails_its_health_check_goes_back_while_a_run_goes_on(
    forge: Forge, host: Host, story: dict[str, Pushed], receiver: Receiver
) -> None:
    """GIVEN a release whose deployment goes to a pool without a worker, and a run under way."""
    rows, deployments = host.rows(), host.deployments()
    (table,) = (name for name in rows if name.endswith(".dim_airports"))
    with host.held(table):
        run = host.start_run()
        host.until_a_run_waits()
        (GROUND / "health-timeout").write_text("75")
        story["bad"] = pushed = forge.push(
            "bad", "prefect.yaml", "  on_this_machine: &on_this_machine\n    name: default-pool",
            "  on_this_machine: &on_this_machine\n    name: docker-pool",
        )  # fmt: skip
        (GROUND / "health-timeout").unlink()
        assert host.api(f"flow_runs/{run}")["state_type"] == "RUNNING"
    good = story["good"]
    assert pushed.code == "1", pushed.said
    record = host.records()[-1]
    assert record["result"] == "rolled back"
    assert "the health check fails: worker docker-pool" in record["why"]
    assert host.images() == {"server": {good.image}, "worker": {good.image}}
    assert host.deployments() == deployments
    assert "was rolled back to " + good.version in receiver.notices[-1]
    assert pushed.version in receiver.notices[-1]
    ended = host.ended(run)
    assert ended["state_type"] == "COMPLETED", "\n".join(host.said(run)[-30:])
    assert host.rows() == rows
    # The run was under way while servers and workers were replaced, and replaced again.
    assert ended["start_time"] < record["began"] < ended["end_time"]


@pytest.mark.nightly
def test_one_delivery_at_a_time_and_one_that_is_killed(
    forge: Forge, host: Host, story: dict[str, Pushed]
) -> None:
    """GIVEN a bad release whose delivery is killed on the host, after its deployments changed."""
    bad, good = story["bad"], story["good"]
    checkout = next(GROUND.glob(f"checkouts/{bad.version}*"))
    # What a killed delivery leaves goes on for as long, and holds the lock.
    line = forge.command("ssh", "--image", bad.image, "--health-timeout", "60")
    before = len(host.records())
    with subprocess.Popen(
        line, cwd=checkout, env=forge.environment(checkout), stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True,
    ) as running:  # fmt: skip
        until(lambda: len(host.records()) > before and "check" in host.records()[-1]["begun"])
        second = forge.deliver("ssh", "--image", bad.image, checkout=checkout)
        assert second.returncode == 2
        assert "Another delivery is in progress here" in second.stderr
        pids = host.sh("pgrep -f 'deliver-.*pyz millrace [b]egin'").split()
        for pid in pids:
            os.kill(int(pid), signal.SIGKILL)
        said = running.communicate(timeout=PATIENCE)[0]
        assert running.returncode == 2, said
        assert "The delivery was killed on the host." in said
    assert host.records()[-1]["result"] == "under way"
    # The release after it.
    checkout = next(GROUND.glob(f"checkouts/{good.version}*"))
    done = forge.deliver("ssh", "--image", good.image, checkout=checkout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "It delivered another release; rolling it back first" in done.stdout
    assert host.images() == {"server": {good.image}, "worker": {good.image}}
    assert host.deployments()["dbt-dev"]["version"] == good.version
    assert host.deployments()["dbt-dev"]["work_pool_name"] == "default-pool"


@pytest.mark.nightly
def test_the_lines_of_the_documentation(host: Host) -> None:
    """Of "After a delivery", each as it stands there; one of them runs the pipeline."""
    here = "tests/infrastructure/delivery/test_rehearsal.py::test_the_lines_of_the_documentation"
    (block,) = (one for one in blocks("documentation/delivery.md") if one.what == here)
    lines = block.commands
    assert len(lines) > 5
    for line in lines:
        said = host.sh(f"cd millrace && {line}")
        print(f"\n$ {line}\n{said}")  # noqa: T201 # what a person would see
        assert said.strip(), line


@pytest.mark.nightly
def test_back_to_the_release_before(forge: Forge, host: Host, story: dict[str, Pushed]) -> None:
    done = forge.deliver("back")
    assert done.returncode == 0, done.stdout + done.stderr
    first = story["first"]
    assert host.images() == {"server": {first.image}, "worker": {first.image}}
    assert host.deployments()["dbt-dev"]["version"] == first.version
    assert "prefect_before" not in host.sh(
        "cd millrace && ./compose exec -T database psql -U prefect -lqt"
    )


def test_no_secret_is_stored_or_printed(host: Host) -> None:
    secrets = [os.environ["REGISTRY_PASSWORD"]]
    secrets += [
        (host.folder / ".local/secrets" / name).read_text().rpartition(":")[2]
        for name in ("api-auth-string", "database-password", "warehouse-password")
    ]
    kept = [file for file in HOME.rglob("*") if file.is_file()]
    assert len(kept) > 20
    for file in kept:
        if ".local" in file.parts or file.parent.name == "backups" or "cli-plugins" in file.parts:
            continue
        content = file.read_bytes()
        assert not [value for value in secrets if value.encode() in content], file
        # `.env` is whose host it is.
        narrow = file.stat().st_mode & 0o077 == 0
        assert narrow or "millrace" not in file.parts or file.name == ".env", file
    logins = json.loads((HOME / ".docker" / "config.json").read_text())
    assert not logins.get("auths")
    assert list(Path("/tmp").glob("millrace-pull-*")) == []
