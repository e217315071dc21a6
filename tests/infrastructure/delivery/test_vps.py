"""What is refused before a host is asked, and how a host is asked."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from infrastructure.delivery.connection import build_connection
from infrastructure.delivery.ssh import Host, registry_credentials, require_digest
from prefect_flows.core.errors import ConfigurationError

DIGEST = "sha256:" + "0123456789abcdef" * 4


@pytest.fixture
def known_hosts(tmp_path: Path) -> Path:
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    public = " ".join((tmp_path / "key.pub").read_text().split()[:2])
    file = tmp_path / "known_hosts"
    file.write_text(f"vps.example.com {public}\n[vps.example.com]:2222 {public}\n")
    return file


@pytest.mark.parametrize(
    ("image", "name"),
    [
        (f"ghcr.io/a/millrace@{DIGEST}", f"ghcr.io/a/millrace@{DIGEST}"),
        (f"127.0.0.1:5000/millrace:1a2b@{DIGEST}", f"127.0.0.1:5000/millrace@{DIGEST}"),
    ],
)
def test_an_image_is_named_by_its_digest(image: str, name: str) -> None:
    assert require_digest(image) == name


@pytest.mark.parametrize(
    "image", ["ghcr.io/a/millrace:1a2b", f"{DIGEST}", "x@sha256:12", f"x@{DIGEST} --privileged"]
)
def test_any_other_image_is_refused(image: str) -> None:
    with pytest.raises(ConfigurationError, match="named by its digest"):
        require_digest(image)


@pytest.mark.parametrize("host", ["root@vps.example.com", "vps.example.com", "a@-oProxyCommand=x"])
def test_root_and_an_invalid_host_are_refused(host: str, known_hosts: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"USER@HOST|by root"):
        build_connection(host, 22, known_hosts, None)


def test_a_host_that_is_not_known_is_refused_before_it_is_asked(known_hosts: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"The key of other\.example\.com is not known"):
        build_connection("millrace@other.example.com", 22, known_hosts, None)
    with pytest.raises(ConfigurationError, match=r"The key of \[vps.example.com\]:23 is not known"):
        build_connection("millrace@vps.example.com", 23, known_hosts, None)
    assert build_connection("millrace@vps.example.com", 2222, known_hosts, None).port == 2222


def test_ssh_ignores_the_keys_and_settings_of_the_caller(known_hosts: Path) -> None:
    line = build_connection("millrace@vps.example.com", 22, known_hosts, None).command(
        "echo", "a b; c"
    )
    done = subprocess.run(["ssh", "-G", *line[1:-2]], capture_output=True, text=True, check=True)
    options = dict(each.split(" ", 1) for each in done.stdout.splitlines() if " " in each)
    assert options["stricthostkeychecking"] == "true"
    assert options["userknownhostsfile"] == str(known_hosts)
    assert options["globalknownhostsfile"] == "/dev/null"
    assert options["updatehostkeys"] == "false"
    assert options["passwordauthentication"] == "no"
    assert options["forwardagent"] == "no"
    assert options["batchmode"] == "yes"
    assert line[-1] == "echo 'a b; c'"


@pytest.mark.parametrize("folder", ["/srv/x", "../x", "a/../b", "-x", "a b", ""])
def test_a_folder_is_in_the_users_home(folder: str, known_hosts: Path) -> None:
    to = build_connection("millrace@vps.example.com", 22, known_hosts, None)
    with pytest.raises(ConfigurationError, match="Not a folder in the user's home"):
        Host(to, folder)


def test_credentials_of_the_registry_come_in_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REGISTRY_USERNAME", raising=False)
    monkeypatch.delenv("REGISTRY_PASSWORD", raising=False)
    assert registry_credentials() == {}
    monkeypatch.setenv("REGISTRY_PASSWORD", "secret")
    with pytest.raises(ConfigurationError, match="REGISTRY_USERNAME is not set") as caught:
        registry_credentials()
    assert "secret" not in str(caught.value)
