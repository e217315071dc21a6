"""What `.ci/deliver` gives to the command that delivers: no secret in a file, or on a command line.

In the place of `uv` stands a program that writes down what it is given; agent and key are real.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.support.project import PATIENCE, REPOSITORY

IMAGE = "ghcr.io/a/b:1a2b3c@sha256:" + "0" * 64
WRITES_DOWN = """\
import json, os, pathlib, stat, subprocess, sys
words = sys.argv[1:]
files = {}
for word in [*words, os.environ.get("KUBECONFIG", "")]:
    path = pathlib.Path(word)
    if word and path.is_file():
        folder = path.parent
        for file in folder.iterdir():
            if file.is_file():
                files[file.name] = [file.read_text(), oct(stat.S_IMODE(file.stat().st_mode))]
agent = subprocess.run(["ssh-add", "-L"], capture_output=True, text=True)
seen = {
    "words": words, "files": files, "keys": agent.stdout, "environment": dict(os.environ),
    "input": sys.stdin.read(),
}
pathlib.Path(os.environ["SEEN"]).write_text(json.dumps(seen))
sys.exit(int(os.environ["ENDS_WITH"]))
"""

pytestmark = [
    pytest.mark.ci,
    pytest.mark.skipif(
        shutil.which("ssh-agent") is None, reason="SKIPPED: there is no ssh-agent on this machine"
    ),
]


@pytest.fixture
def deliver(tmp_path: Path):
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "writes_down.py").write_text(WRITES_DOWN)
    uv = programs / "uv"
    uv.write_text(f'#!/bin/sh\nexec {sys.executable} {programs}/writes_down.py "$@"\n')
    uv.chmod(0o755)
    temporary = tmp_path / "temporary"
    temporary.mkdir()

    def call(code: int = 0, **environment: str) -> tuple[subprocess.CompletedProcess[str], dict]:
        seen = tmp_path / "seen.json"
        done = subprocess.run(
            [REPOSITORY / ".ci" / "deliver", IMAGE],
            env={
                "PATH": f"{programs}:{os.environ['PATH']}", "HOME": str(tmp_path),
                "TMPDIR": str(temporary), "SEEN": str(seen), "UV_NO_SYNC": "1",
                "ENDS_WITH": str(code), **environment,
            },
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert list(temporary.iterdir()) == []
        return done, json.loads(seen.read_text()) if seen.exists() else {}

    return call


@pytest.fixture
def key(tmp_path: Path) -> tuple[str, str]:
    file = tmp_path / "key"
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "delivery", "-f", file], check=True
    )
    private, public = file.read_text(), file.with_suffix(".pub").read_text()
    file.unlink()
    return private, public


def gone(process: int) -> bool:
    """Whether a process has ended, or does so within seconds."""
    try:
        _, alive = psutil.wait_procs([psutil.Process(process)], timeout=PATIENCE)
    except psutil.NoSuchProcess:
        return True
    return not [each for each in alive if each.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.parametrize("code", [0, 1, 2, 3])
def test_over_ssh_the_agent_has_the_key_and_nothing_else_does(deliver, key, code: int) -> None:
    private, public = key
    # As a secret of GitHub's comes: its last line may have lost its end.
    done, seen = deliver(code, DELIVER_TARGET="prod", DELIVER_HOST="millrace@vps.example.com",
                         DELIVER_KNOWN_HOSTS="vps.example.com ssh-ed25519 AAAA",
                         DELIVER_SSH_KEY=private.rstrip("\n"))  # fmt: skip
    assert done.returncode == code, done.stderr
    words = seen["words"]
    assert words[:8] == [
        "run", "--no-sync", "millrace", "deliver", "ssh", "--target", "prod", "--host",
    ]  # fmt: skip
    assert words[8] == "millrace@vps.example.com"
    assert words[words.index("--image") + 1] == IMAGE
    assert seen["files"] == {"known_hosts": ["vps.example.com ssh-ed25519 AAAA\n", "0o600"]}
    assert seen["keys"].split()[:2] == public.split()[:2]
    line = private.splitlines()[2]
    assert line not in json.dumps(seen)
    assert line not in done.stdout + done.stderr
    assert gone(int(seen["environment"]["SSH_AGENT_PID"]))


def test_the_ssh_agent_of_the_caller_is_not_used(deliver) -> None:
    _, seen = deliver(DELIVER_TARGET="prod", DELIVER_HOST="a@b", DELIVER_KNOWN_HOSTS="b x y")
    assert "SSH_AGENT_PID" not in seen["environment"]


def test_to_a_cluster(deliver) -> None:
    done, seen = deliver(DELIVER_TARGET="prod", KUBE_CONTEXT="blue", KUBE_CONFIG="apiVersion: v1",
                         TERRAFORM_OUTPUTS='{"dbt_targets": {}}')  # fmt: skip
    assert done.returncode == 0, done.stderr
    words = seen["words"]
    assert words[2:5] == ["millrace", "deliver", "kubernetes"]
    assert words[words.index("--context") + 1] == "blue"
    assert words[words.index("--outputs") + 1] == "-"
    assert seen["input"] == '{"dbt_targets": {}}'
    assert seen["files"]["kubeconfig"] == ["apiVersion: v1\n", "0o600"]
    assert "KUBE_CONFIG" not in seen["environment"]


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"DELIVER_HOST": "a@b"}, "DELIVER_TARGET"),
        ({"DELIVER_HOST": "a@b", "DELIVER_TARGET": "prod"}, "DELIVER_KNOWN_HOSTS"),
        ({"DELIVER_HOST": "a@b", "DELIVER_TARGET": "prod", "DELIVER_KNOWN_HOSTS": "x",
          "DELIVER_SSH_KEY": "no key"}, "error in libcrypto|invalid format"),
    ],
)  # fmt: skip
def test_what_is_missing_is_reported_before_anything_is_delivered(
    deliver, environment: dict[str, str], said: str
) -> None:
    done, seen = deliver(**environment)
    assert done.returncode != 0
    assert re.search(said, done.stderr), done.stderr
    assert seen == {}
