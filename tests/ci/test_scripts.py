"""The steps of CI that are scripts, run as a workflow runs them."""

from __future__ import annotations

import http.server
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.project import NOT_IN_A_CLONE, REPOSITORY, copy_of_the_project, serving

pytestmark = pytest.mark.ci

CI = REPOSITORY / ".ci"
with_go = pytest.mark.skipif(
    shutil.which("go") is None and shutil.which("gitleaks") is None,
    reason="SKIPPED: there is neither Go nor gitleaks on this machine",
)


def run(
    *command: str | Path, folder: Path = REPOSITORY, **environment: str
) -> subprocess.CompletedProcess[str]:
    """A command without GitHub's variables, but for those given."""
    inherited = {
        name: value for name, value in os.environ.items()
        if not name.startswith(("GITHUB_", "GIT_", "DELIVER_", "KUBE_"))
    }  # fmt: skip
    return subprocess.run(
        command, cwd=folder, env=inherited | environment, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, check=False,
    )  # fmt: skip


class Repository:
    """A repository of its own, with the scripts of this one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        shutil.copytree(CI, folder / ".ci")
        shutil.copy(REPOSITORY / ".gitleaks.toml", folder)
        self.git("init", "--quiet", "--initial-branch=main")
        self.commit({"dbt/models/a.sql": "select 1\n", "README.md": "# A\n"})

    def git(self, *arguments: str) -> str:
        done = run("git", "-c", "user.name=a", "-c", "user.email=a@example.com", *arguments,
                   folder=self.folder)  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def write(self, files: dict[str, str]) -> None:
        for name, text in files.items():
            file = self.folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        self.git("add", "--all")

    def commit(self, files: dict[str, str]) -> None:
        self.write(files)
        self.git("commit", "--quiet", "--message", "More")

    def run(
        self, script: str, *arguments: str, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        return run(self.folder / ".ci" / script, *arguments, folder=self.folder, **environment)


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "repository")


# In the form of what is handed out, and put together here, so that this file holds none: the rule
# that knows it, the secret, and the text around it.
LETTERS = "x7Kd92LmQpR4tVbN8cZs1WfY5hJ0gUeA3oTi6qBnMwE"
SECRETS = {
    "a key of Google": ("gcp-api-key", f"AIza{LETTERS[:35]}", "key = '{}'\n"),
    "a token of GitHub": ("github-pat", f"ghp_{LETTERS[:36]}", "token: {}\n"),
    "a private key": (
        "private-key",
        LETTERS * 4,
        "-----BEGIN {0} PRIVATE KEY-----\n{{}}\n-----END {0} PRIVATE KEY-----\n".format("OPENSSH"),
    ),
}


@with_go
@pytest.mark.parametrize("which", SECRETS)
def test_a_secret_is_found_before_it_is_committed_and_in_every_commit_after(
    repository: Repository, which: str
) -> None:
    rule, secret, around = SECRETS[which]
    assert repository.run("secrets").returncode == 0
    assert repository.run("secrets", "--staged").returncode == 0

    repository.write({"notes.txt": around.format(secret)})
    staged = repository.run("secrets", "--staged")
    repository.commit({})
    repository.commit({"notes.txt": "It is gone, and was seen.\n"})
    committed = repository.run("secrets")

    for found in (staged, committed):
        assert found.returncode == 1, found.stdout + found.stderr
        assert rule in found.stdout + found.stderr
        assert secret[6:30] not in found.stdout + found.stderr
        assert "replace it where it is used, first of all" in found.stderr


@with_go
def test_this_repository_holds_none() -> None:
    if not (REPOSITORY / ".git").exists():
        pytest.skip("SKIPPED: this is no clone")
    done = run(CI / "secrets")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no secret was found" in done.stdout


class Osv(http.server.BaseHTTPRequestHandler):
    """The database of vulnerabilities, in OSV's form; it knows one, of a version of Jinja."""

    vulnerable = "jinja2"
    advisory = "GHSA-0000-0000-0001"

    def answer(self, document: object) -> None:
        body = json.dumps(document).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["queries"]
        packages = [query["package"]["name"] for query in asked]
        assert {"dbt-core", "prefect", "pytest", "millrace"} - set(packages) == {"millrace"}
        found = {"vulns": [{"id": self.advisory, "modified": "2026-01-01T00:00:00Z"}]}
        self.answer({"results": [found if name == self.vulnerable else {} for name in packages]})

    def do_GET(self) -> None:
        events = [{"introduced": "0"}, {"fixed": "99.0"}]
        self.answer({
            "id": self.advisory, "modified": "2026-01-01T00:00:00Z", "summary": "It does too much",
            "published": "2026-01-01T00:00:00Z",
            "affected": [{"package": {"ecosystem": "PyPI", "name": self.vulnerable},
                          "ranges": [{"type": "ECOSYSTEM", "events": events}]}],
        })  # fmt: skip


class NothingKnown(Osv):
    vulnerable = "no-such-package"


@pytest.mark.nightly
def test_a_vulnerable_package_fails_the_audit_and_so_does_a_silent_database(tmp_path: Path) -> None:
    project = copy_of_the_project(tmp_path / "millrace").folder
    audit = project / ".ci" / "audit"
    with serving(Osv) as address:
        found = run(audit, "--service-url", address)
        ignored = run(audit, "--service-url", address, "--ignore", Osv.advisory)
    with serving(NothingKnown) as address:
        nothing = run(audit, "--service-url", address)
    silent = run(audit, "--service-url", address, UV_HTTP_RETRIES="0")

    assert found.returncode == 1, found.stdout + found.stderr
    assert "GHSA-0000-0000-0001" in found.stdout
    assert "Fixed in: 99.0" in found.stdout
    assert "fix: .ci/pins --only NAME" in found.stderr
    assert ignored.returncode == 0, ignored.stdout + ignored.stderr
    assert nothing.returncode == 0, nothing.stdout + nothing.stderr
    assert silent.returncode == 1
    assert "could not be asked, so nothing is known" in silent.stderr
    assert not (project / "uv.lock").exists()


@pytest.mark.example
def test_pins_that_cannot_be_written_leave_both_files_as_they_are(tmp_path: Path) -> None:
    project = copy_of_the_project(tmp_path / "millrace").folder
    files = [project / "pyproject.toml", project / "requirements.lock"]
    before = [file.read_text() for file in files]
    unknown = run(project / ".ci" / "pins", "--only", "prefekt")
    assert unknown.returncode == 1
    assert unknown.stderr == "Not pinned: prefekt.\nfix: check the spelling\n"
    source = project / "prefect_flows" / "sources" / "nyc__flights" / "pyproject.toml"
    source.write_text(
        source.read_text().replace('    "millrace",', '    "millrace", "numpy>=999",')
    )
    conflict = run(project / ".ci" / "pins", "--keep")
    assert conflict.returncode == 1
    assert "numpy>=999" in conflict.stderr
    assert "nothing is written.\nfix: .ci/pins --only NAME" in conflict.stderr
    assert [file.read_text() for file in files] == before


ALL = {
    "tests": '["fast", "bigquery", "conformance kills models operations", '
    '"browser ci docs terraform", "delivery pull_requests sources"]',
    "image": "true",
}
NONE = {"tests": "[]", "image": "false"}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["documentation/operating.md", "CHANGELOG.md"], NONE | {"tests": '["docs"]'}),
        (["CHANGELOG.md", "SECURITY.md"], NONE),
        ([".github/dependabot.yml"], NONE),
        (["documentation/systemd.md"], ALL | {"image": "false"}),
        (["dbt/models/b.sql"], ALL | {"tests": '["fast","models"]'}),
        (["dbt/models/b.sql", "README.md"], ALL | {"tests": '["fast","models","docs"]'}),
        (["dbt/models/b.sql", "tests/test_repository.py"], ALL),
        (["tests/test_repository.py"], ALL | {"image": "false"}),
        (["prefect_flows/pipeline_run.py"], ALL),
        (["infrastructure/prefect_resources/deployments/prefect_yaml.py"], ALL),
        (["requirements.lock"], ALL),
        (["Dockerfile"], ALL),
        ([".github/workflows/ci.yml"], ALL | {"image": "false"}),
        ([], NONE),
    ],
    ids=str,
)
def test_what_is_different_says_what_is_worth_running(
    repository: Repository, files: list[str], expected: dict[str, str]
) -> None:
    base = repository.git("rev-parse", "HEAD")
    repository.git("switch", "--quiet", "--create", "feature")
    if files:
        repository.commit(dict.fromkeys(files, "changed\n"))
    # What others did on main meanwhile is not this branch's.
    repository.git("switch", "--quiet", "main")
    repository.commit({"prefect_flows/other.py": "pass\n"})
    main = repository.git("rev-parse", "HEAD")
    repository.git("switch", "--quiet", "feature")
    for commit in (base, main):
        done = repository.run("changed", commit)
        assert done.returncode == 0, done.stderr
        assert dict(line.split("=", 1) for line in done.stdout.splitlines()) == expected


@pytest.mark.parametrize("base", ["", "0" * 40, "HEAD~20"])
def test_where_nothing_is_known_everything_is_run(repository: Repository, base: str) -> None:
    done = repository.run("changed", base)
    assert dict(line.split("=", 1) for line in done.stdout.splitlines()) == ALL
    assert "everything is taken for changed" in done.stderr


def test_a_file_that_was_renamed_or_removed_is_different(repository: Repository) -> None:
    base = repository.git("rev-parse", "HEAD")
    repository.git("mv", "dbt/models/a.sql", "documentation.md")
    repository.commit({})
    assert "image=true" in repository.run("changed", base).stdout


def test_secrets_in_a_variable_are_refused() -> None:
    done = run(CI / "pull-request", "check", "1", TERRAFORM_OUTPUTS='{"dbt_target_secrets": {}}')
    assert done.returncode == 2
    assert "Replace those secrets where they are used" in done.stderr


def test_only_what_was_merged_is_delivered_to_production(repository: Repository) -> None:
    old = repository.git("rev-parse", "HEAD")
    repository.commit({"more.txt": "x"})
    repository.git("switch", "--quiet", "--create", "feature")
    repository.commit({"evil.txt": "x"})
    for name in (old, old[:8], "main~1"):
        assert repository.run("commit-of-main", name).stdout == f"commit={old}\n"
    for name in ("feature", "HEAD"):
        refused = repository.run("commit-of-main", name)
        assert refused.returncode == 1
        assert "only what was merged is delivered" in refused.stderr
    for name in ("nothing", "--help", "main; true", "0" * 40):
        refused = repository.run("commit-of-main", name)
        assert refused.returncode == 1
        assert "There is no commit" in refused.stderr


@pytest.mark.parametrize(
    ("results", "code"),
    [
        (["success", "skipped"], 0), (["success", "failure"], 1), (["cancelled"], 1), ([], 1),
    ],
)  # fmt: skip
def test_all_jobs_passed_or_had_nothing_to_do(results: list[str], code: int) -> None:
    needs = {f"job-{number}": {"result": result} for number, result in enumerate(results)}
    done = run(CI / "passed", NEEDS=json.dumps(needs))
    assert done.returncode == code
    assert [line.split()[0] for line in done.stdout.splitlines()] == results


@pytest.mark.parametrize(
    ("script", "arguments", "said"),
    [
        ("deliver", ["ghcr.io/a/b:1@sha256:2"], "neither DELIVER_HOST nor KUBE_CONTEXT is set"),
        ("pull-request", ["check", "1"], "no warehouse is known"),
        ("pull-request", ["close", "1"], "no warehouse is known"),
        ("pull-request", ["sweep"], "no warehouse is known"),
        ("live", [], "MILLRACE_BIGQUERY_PROJECT is not set"),
        ("sign", ["a@sha256:1"], "SIGN_IMAGES is no"),
        ("verify", ["heads/main", "a@sha256:1"], "SIGN_IMAGES is no"),
    ],
)  # fmt: skip
def test_a_skipped_step_is_reported_as_a_warning(
    tmp_path: Path, script: str, arguments: list[str], said: str
) -> None:
    summary = tmp_path / "summary.md"
    done = run(CI / script, *arguments, GITHUB_ACTIONS="true", GITHUB_STEP_SUMMARY=str(summary),
               GITHUB_REPOSITORY="a/b", SIGN_IMAGES="no", MILLRACE_BIGQUERY_PROJECT="",
               TERRAFORM_OUTPUTS="")  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split(" ")[0] for line in lines] == ["SKIPPED:", "::warning"]
    assert said in lines[0]
    assert said in summary.read_text()


@pytest.mark.parametrize("script", ["sign", "verify"])
def test_what_may_be_another_image_tomorrow_is_neither_signed_nor_trusted(script: str) -> None:
    before = ["heads/main"] if script == "verify" else []
    done = run(CI / script, *before, "ghcr.io/a/b:1", GITHUB_REPOSITORY="a/b")
    assert done.returncode == 2
    assert "digest" in done.stderr


@pytest.mark.parametrize(
    ("script", "arguments"),
    [
        ("commit-of-main", []), ("image", []), ("image", ["a", "--pull"]),
        ("scan", []), ("sign", []), ("verify", ["x"]),
        ("promote", ["v1"]), ("publish-release", ["v1"]), ("pull-request", []), ("deliver", []),
        ("tests", ["none"]), ("tests", ["fast", "bigquery"]), ("go-tool", ["rustc"]),
    ],
)  # fmt: skip
def test_a_command_line_that_is_wrong_is_refused(script: str, arguments: list[str]) -> None:
    done = run(CI / script, *arguments)
    assert done.returncode in (1, 2)
    assert (
        "usage:" in done.stderr or "There is no tier" in done.stderr or "No version" in done.stderr
    )


def test_shellcheck() -> None:
    files = [
        file for file in CI.iterdir()
        if file.read_text().startswith("#!/usr/bin/env bash")
    ]  # fmt: skip
    assert len(files) >= 20
    done = run("shellcheck", *files, PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert done.returncode == 0, done.stdout


def test_the_clone_is_what_scripts_see() -> None:
    """Copies for tests leave out what git ignores, and nothing that a script needs."""
    assert not NOT_IN_A_CLONE(".", [".ci", ".github", ".gitleaks.toml", ".trivyignore.yaml"])
