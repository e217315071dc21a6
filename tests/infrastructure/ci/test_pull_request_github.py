"""One comment, and which pull requests are open, against a real HTTP server."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from infrastructure.ci.pull_request import github
from infrastructure.ci.pull_request.comment import MARKER
from infrastructure.ci.pull_request.github import GitHub, GitHubError
from prefect_flows.core.errors import ConfigurationError
from tests.support import fork_server
from tests.support.github_server import BOT, REPOSITORY, TOKEN, Fault, GitHubServer, github_server
from tests.support.project import REPOSITORY as CLONE

BODY = f"{MARKER}\n## All is well\n"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[GitHubServer]:
    with github_server() as server:
        monkeypatch.setenv("GITHUB_API_URL", server.url)
        monkeypatch.setenv("GITHUB_TOKEN", TOKEN)
        # Faults are waited for as long as GitHub says, and otherwise less long than a person would.
        monkeypatch.setattr(github, "FIRST_DELAY_SECONDS", 0.01)
        yield server


def write(body: str = BODY, author: str = BOT) -> str:
    with closing(GitHub(REPOSITORY)) as repository:
        return repository.comment(7, body, author)


def bodies(server: GitHubServer) -> list[str]:
    return [comment["body"] for comment in server.comments]


def test_the_first_writing_makes_the_comment_and_the_next_ones_change_it(
    server: GitHubServer,
) -> None:
    url = write()
    assert url == f"https://github.com/{REPOSITORY}/pull/7#issuecomment-1001"
    assert write(BODY + "again") == url
    assert bodies(server) == [BODY + "again"]
    changes = server.calls("PATCH")
    assert write(BODY + "again") == url
    assert server.calls("PATCH") == changes, "what is there already is not written again"


def test_it_is_found_on_a_later_page(server: GitHubServer) -> None:
    server.per_page = 3
    for number in range(8):
        server.add(f"a remark, {number}", "somebody")
    server.add(BODY)
    server.add("a remark behind it", "somebody")
    write(BODY + "new")
    assert len(server.comments) == 10
    assert server.comments[8]["body"] == BODY + "new"


def test_a_comment_of_another_author_is_never_edited(
    server: GitHubServer,
) -> None:
    server.add(BODY, "somebody")
    server.add(f"> {MARKER}\nquoted", BOT)
    server.add("no marker", BOT)
    write(BODY + "ours")
    assert bodies(server) == [BODY, f"> {MARKER}\nquoted", "no marker", BODY + "ours"]


def test_of_two_written_at_once_the_first_stays(server: GitHubServer) -> None:
    ready = threading.Barrier(2)

    def run(body: str) -> None:
        ready.wait()
        write(body)

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(run, (BODY + "a", BODY + "b")))
    # Both may have looked before the other wrote; the next writing fixes what they left.
    write(BODY + "c")
    assert bodies(server) == [BODY + "c"]

    server.add(BODY + "a second one")
    write(BODY + "d")
    assert bodies(server) == [BODY + "d"]


def test_a_comment_whose_answer_was_lost_is_not_written_twice(server: GitHubServer) -> None:
    for lost in (Fault("POST", 502, done=True), Fault("POST", 0, done=True)):
        server.comments.clear()
        server.faults.append(lost)
        write()
        assert bodies(server) == [BODY]
        assert server.calls("POST") == 1
        server.asked.clear()


def test_a_fault_of_the_server_is_tried_again(server: GitHubServer) -> None:
    server.faults += [Fault("GET", 500), Fault("GET", 503), Fault("POST", 500), Fault("GET", 0)]
    write()
    assert bodies(server) == [BODY]
    server.faults += [Fault("GET", 500) for _ in range(5)]
    with pytest.raises(GitHubError, match=r"GitHub refuses: 500") as refused:
        write(BODY + "more")
    assert refused.value.is_infrastructure_error
    assert bodies(server) == [BODY]


@pytest.mark.parametrize(
    "fault",
    [
        Fault("GET", 429, "API rate limit exceeded", {"retry-after": "1"}),
        Fault("GET", 403, "You have exceeded a secondary rate limit", {"retry-after": "1"}),
        Fault("PATCH", 403, "API rate limit exceeded", {"x-ratelimit-remaining": "0"}),
    ],
)
def test_a_rate_limit_is_waited_for_as_github_says(server: GitHubServer, fault: Fault) -> None:
    server.add(BODY)
    if "x-ratelimit-remaining" in fault.headers:
        fault.headers["x-ratelimit-reset"] = str(int(time.time()) + 2)
    server.faults.append(fault)
    started = time.monotonic()
    write(BODY + "new")
    assert time.monotonic() - started >= 0.9
    assert bodies(server) == [BODY + "new"]


def test_a_rate_limit_that_lasts_too_long_is_not_waited_for(server: GitHubServer) -> None:
    server.faults.append(Fault("GET", 403, "API rate limit exceeded", {"retry-after": "3600"}))
    started = time.monotonic()
    with pytest.raises(GitHubError, match="GitHub refuses: 403") as refused:
        write()
    assert time.monotonic() - started < 30
    assert refused.value.fix == "GitHub's rate limit is reached: try again later"


@pytest.mark.parametrize(
    ("fault", "fix"),
    [
        (Fault("POST", 403, "Resource not accessible by integration"), "pull-requests: write"),
        (Fault("GET", 404, "Not Found"), "see that repository and pull request exist"),
        (Fault("POST", 422, "Validation Failed"), "65,536 characters"),
        (Fault("GET", 301, "Moved Permanently"), "name that with --repository"),
    ],
)
def test_a_refusal_says_what_fixes_it_and_is_not_repeated(
    server: GitHubServer, fault: Fault, fix: str
) -> None:
    server.faults.append(fault)
    with pytest.raises(GitHubError, match=f"GitHub refuses: {fault.status} ") as refused:
        write()
    assert fault.message in refused.value.what
    assert fix in refused.value.fix
    assert server.calls(fault.method) == 1
    assert TOKEN not in str(refused.value)
    assert server.comments == []


def test_a_token_that_is_wrong_is_reported_and_not_shown(
    server: GitHubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_TOKEN", "another-secret")
    with pytest.raises(GitHubError, match="401 Bad credentials") as refused:
        write()
    assert "another-secret" not in str(refused.value)
    monkeypatch.delenv("GITHUB_TOKEN")
    with pytest.raises(ConfigurationError, match="There is no token for GitHub"):
        write()


def test_the_token_is_not_carried_to_another_server(server: GitHubServer) -> None:
    server.per_page, server.next_page = 1, "http://127.0.0.1:9/elsewhere"
    server.add("one", "somebody")
    server.add("two", "somebody")
    with pytest.raises(GitHubError, match="the next page lies on another server"):
        write()


def test_a_response_without_json_is_not_accepted_from_github(server: GitHubServer) -> None:
    server.faults.append(Fault("GET", 200, text="<html>a proxy's page</html>"))
    with pytest.raises(GitHubError, match="is not JSON"):
        write()


def test_a_comment_under_another_name_is_reported_immediately(server: GitHubServer) -> None:
    with pytest.raises(GitHubError, match="was written by github-actions"):
        write(author="me")


def test_the_command_writes_a_file_that_compare_wrote_and_no_other(
    server: GitHubServer, tmp_path: Path
) -> None:
    def run(*more: str, **environment: str) -> subprocess.CompletedProcess[str]:
        command = ["-m", "infrastructure.cli", "pr", "comment", "--number", "7"]
        return fork_server.run(
            [*command, *more],
            cwd=CLONE,
            env=os.environ | {"PYTHONPATH": str(CLONE)} | environment,
        )

    file = tmp_path / "comment.md"
    done = run("--repository", REPOSITORY, str(file))
    assert done.returncode == 2
    assert "does not exist, or is not a comment that `compare` wrote" in done.stderr
    file.write_text(BODY)
    done = run(str(file), GITHUB_REPOSITORY=REPOSITORY)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == server.comments[0]["html_url"]
    assert bodies(server) == [BODY]
    server.faults.append(Fault("GET", 404, "Not Found"))
    done = run("--repository", REPOSITORY, str(file))
    assert done.returncode == 2
    assert "GitHubError: GitHub refuses: 404 Not Found." in done.stderr
    assert TOKEN not in done.stdout + done.stderr


def test_open_pull_requests_are_listed_over_all_pages(server: GitHubServer) -> None:
    server.per_page, server.open_pull_requests = 2, [1, 7, 12, 300, 4]
    with closing(GitHub(REPOSITORY)) as repository:
        assert repository.open_pull_requests() == {1, 4, 7, 12, 300}
