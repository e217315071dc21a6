"""Whom each way of running the Prefect server lets in, as its file says it."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import yaml

from tests.support.project import REPOSITORY

INFRASTRUCTURE = REPOSITORY / "infrastructure"
CSRF = "PREFECT_SERVER_API_CSRF_PROTECTION_ENABLED"
ORIGINS = "PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS"
OWN = "http://127.0.0.1:4200,http://localhost:4200"


def of_compose() -> dict[str, str]:
    document = yaml.safe_load((REPOSITORY / "compose.yaml").read_text())
    given = document["services"]["server"]["environment"]
    # Each variable with its default, the inner ones first.
    default = re.compile(r"\$\{\w+:-([^${}]*)\}")
    return {name: default.sub(r"\1", default.sub(r"\1", text)) for name, text in given.items()}


def of_kubernetes() -> dict[str, str]:
    documents = yaml.safe_load_all(
        (INFRASTRUCTURE / "platforms" / "kubernetes" / "base" / "server.yaml").read_text()
    )
    (server,) = (each for each in documents if each["kind"] == "Deployment")
    (container,) = server["spec"]["template"]["spec"]["containers"]
    return {each["name"]: each["value"] for each in container["env"]}


def of_the_chart() -> dict[str, str]:
    file = INFRASTRUCTURE / "platforms" / "kubernetes" / "helm" / "prefect-server-values.yaml"
    server = yaml.safe_load(file.read_text())["server"]
    assert server["basicAuth"]["enabled"] is True
    given = {each["name"]: each["value"] for each in server["env"]}
    return given | {"PREFECT_SERVER_API_AUTH_STRING": "basicAuth"}


def of_systemd() -> dict[str, str]:
    text = (INFRASTRUCTURE / "platforms" / "systemd" / "millrace-server.service").read_text()
    given = dict(re.findall(r"^Environment=(\w+)=(.*)$", text, re.MULTILINE))
    # The unit does not start without it: launch.
    return given | {given["MILLRACE_SECRETS"]: "credential"}


@pytest.mark.parametrize("settings", [of_compose, of_kubernetes, of_the_chart, of_systemd])
def test_a_server_asks_for_a_password_and_lets_in_pages_of_its_own(
    settings: Callable[[], dict[str, str]],
) -> None:
    found = settings()
    assert any(name.startswith("PREFECT_SERVER_API_AUTH_STRING") for name in found)
    assert found[CSRF] == "true"
    assert found[ORIGINS] == OWN
