"""The units: systemd's own judgement of them, and the program that each starts through.

They run on a real systemd in `.ci/systemd`.
"""

from __future__ import annotations

import configparser
import os
import shutil
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from tests.support.project import REPOSITORY, serving

UNITS = REPOSITORY / "infrastructure" / "platforms" / "systemd"
SERVICES = sorted(UNITS.glob("*.service"))
# What systemd-analyze gives a unit, 10 for one that may do everything: at most 2.0 ("OK").
EXPOSURE = "20"

analyze = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None,
    reason="SKIPPED: systemd-analyze is not on this machine, so no unit is verified",
)


def verified(folder: Path, *units: str) -> str:
    """All that `systemd-analyze verify` says: it returns 0 on keys that it does not know."""
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *units],
        cwd=folder,
        # Units are looked up beside each other, and in systemd's own folders.
        env=os.environ | {"SYSTEMD_UNIT_PATH": f"{folder}:"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.stdout + done.stderr


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The units as they stand on a machine, but for programs that this one has."""
    for unit in UNITS.glob("millrace*.*"):
        text = unit.read_text().replace("/srv/millrace/current/.venv/bin/python", "/bin/true")
        text = text.replace(
            "/srv/millrace/current/infrastructure/platforms/systemd/launch", "/bin/true"
        )
        text = text.replace("User=millrace", "User=root").replace("Group=millrace", "Group=root")
        (tmp_path / unit.name).write_text(text)
    # An instance, since a template alone is no unit.
    shutil.copy(tmp_path / "millrace-worker@.service", tmp_path / "millrace-worker@p.service")
    (tmp_path / "millrace-worker@.service").unlink()
    return tmp_path


def units_in(folder: Path) -> list[str]:
    kinds = {".service", ".timer", ".target"}
    return sorted(str(file) for file in folder.iterdir() if file.suffix in kinds)


@analyze
def test_systemd_has_nothing_to_say_of_the_units(installed: Path) -> None:
    units = units_in(installed)
    assert len(units) == 7
    assert verified(installed, *units) == ""


@analyze
def test_it_would_say_so_of_a_key_that_does_not_exist(installed: Path) -> None:
    unit = installed / "millrace-server.service"
    unit.write_text(unit.read_text().replace("NoNewPrivileges=yes", "NoNewPrivilege=yes"))
    assert "Unknown key" in verified(installed, str(unit))


@analyze
@pytest.mark.parametrize("unit", SERVICES, ids=lambda unit: unit.name)
def test_a_service_may_do_little(unit: Path, tmp_path: Path) -> None:
    command = ["systemd-analyze", "security", "--offline=true", "--no-pager"]
    command += [f"--threshold={EXPOSURE}"]
    done = subprocess.run([*command, str(unit)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout.splitlines()[-1]

    open_to_all = tmp_path / unit.name
    open_to_all.write_text("[Service]\nExecStart=/bin/true\n")
    done = subprocess.run([*command, str(open_to_all)], capture_output=True, text=True, check=False)
    assert done.returncode == 1


def section(unit: Path) -> dict[str, list[str]]:
    """The keys of a unit's [Service]; each may stand there several times."""

    class Every(dict[str, list[str]]):
        def __setitem__(self, key: str, value: list[str]) -> None:
            if isinstance(value, list) and key in self:
                self[key].extend(value)
            else:
                super().__setitem__(key, value)

    parser = configparser.RawConfigParser(strict=False, dict_type=Every, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read_string(unit.read_text())
    return {key: value.split("\n") for key, value in parser["Service"].items()}


@pytest.mark.parametrize("unit", SERVICES, ids=lambda unit: unit.name)
def test_a_secret_is_handed_over_and_missed(unit: Path) -> None:
    service = section(unit)
    handed = [credential.partition(":")[0] for credential in service["LoadCredential"]]
    assert f"MILLRACE_SECRETS={' '.join(handed)}" in service["Environment"]
    assert not [line for line in service["Environment"] if "AUTH" in line.partition("=")[0]]
    assert "infrastructure/platforms/systemd/launch " in service["ExecStart"][0]


def test_a_worker_has_longer_to_stop_than_its_runs() -> None:
    from infrastructure.prefect_resources.worker import PATIENCE_SECONDS, SHUTDOWN_GRACE_SECONDS

    service = section(UNITS / "millrace-worker@.service")
    assert service["ExecStart"][0].endswith(f"--patience {PATIENCE_SECONDS:.0f}")
    assert service["TimeoutStopSec"] == ["62min"]
    assert PATIENCE_SECONDS + SHUTDOWN_GRACE_SECONDS < 62 * 60
    assert service["KillMode"] == ["mixed"], "the runs are not told by systemd"


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """A release with a Python, and a link to it as it is started through."""
    release = tmp_path / "releases" / "abc1234"
    (release / "infrastructure" / "platforms" / "systemd").mkdir(parents=True)
    shutil.copy(UNITS / "launch", release / "infrastructure" / "platforms" / "systemd")
    (release / ".venv" / "bin").mkdir(parents=True)
    (release / ".venv" / "bin" / "python").symlink_to(sys.executable)
    (tmp_path / "current").symlink_to(release)
    return tmp_path


def launch(
    ground: Path, *command: str, secrets: dict[str, str] | None = None, needed: str = ""
) -> subprocess.CompletedProcess[str]:
    handed = ground / "credentials"
    handed.mkdir(exist_ok=True)
    for name, value in (secrets or {}).items():
        (handed / name).write_text(value)
    return subprocess.run(
        [ground / "current" / "infrastructure" / "platforms" / "systemd" / "launch", *command],
        env={
            "PATH": os.environ["PATH"], "CREDENTIALS_DIRECTORY": str(handed),
            "MILLRACE_SECRETS": needed, "MILLRACE_UNIT": "millrace-server.service",
        },
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_a_process_stays_with_the_release_it_was_started_in(release: Path) -> None:
    say = 'pwd; echo "$MILLRACE_PROJECT_DIR"; echo "$MILLRACE_VERSION"; command -v python'
    done = launch(release, "sh", "-c", say)
    place = str(release / "releases" / "abc1234")
    assert done.stdout.split() == [place, place, "abc1234", f"{place}/.venv/bin/python"]


def test_credentials_become_variables(release: Path) -> None:
    secrets = {"PREFECT_API_AUTH_STRING": "millrace:a b$c\n", "PGPASSWORD": "x"}
    done = launch(release, "printenv", *secrets, secrets=secrets, needed=" ".join(secrets))
    assert (done.returncode, done.stdout) == (0, "millrace:a b$c\nx\n")


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        (None, "was not handed over"),
        ("\n", "is empty"),
        ("millrace:secret-1\nsecret-2\n", "has more than one line"),
        ("secret-1\n", "is not of the form user:password"),
        ("millrace:\n", "is not of the form user:password"),
    ],
)
def test_a_wrong_secret_is_named_and_not_shown(
    release: Path, value: str | None, fault: str
) -> None:
    name = "PREFECT_SERVER_API_AUTH_STRING"
    done = launch(
        release, "echo", "started", secrets={} if value is None else {name: value}, needed=name
    )
    assert (done.returncode, done.stdout) == (78, "")
    assert done.stderr.startswith(f"The secret {name} {fault}.\n  where: ")
    assert "  fix:   systemctl cat millrace-server.service names " in done.stderr
    assert "secret-" not in done.stderr


def test_a_release_without_an_environment_is_not_started(release: Path) -> None:
    shutil.rmtree(release / "releases" / "abc1234" / ".venv")
    done = launch(release, "echo", "started")
    assert (done.returncode, done.stdout) == (78, "")
    assert done.stderr.startswith("The release has no virtual environment.\n  where: ")


class Well(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/api/health" else 404)
        self.end_headers()


def waiting(url: str, pid: int, seconds: float = 1) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, UNITS / "wait_for_api.py", str(seconds)],
        env={"PREFECT_API_URL": url, "MAINPID": str(pid)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_started_means_that_the_server_answers() -> None:
    with serving(Well) as url:
        assert waiting(f"{url}/api", os.getpid()).returncode == 0
        done = waiting(f"{url}/elsewhere", os.getpid())
    assert done.returncode == 1
    assert "did not answer within 1 s.\n  where: http://127.0.0.1" in done.stderr
    assert "fix:   journalctl -u millrace-server says why" in done.stderr


def test_waiting_has_help_and_names_what_the_environment_lacks() -> None:
    command = [sys.executable, "-m", "infrastructure.platforms.systemd.wait_for_api"]
    helped = subprocess.run(
        [*command, "--help"], cwd=REPOSITORY, env={}, capture_output=True, text=True, check=False
    )
    bare = subprocess.run(
        [*command, "1"], cwd=REPOSITORY, env={}, capture_output=True, text=True, check=False
    )
    assert (helped.returncode, helped.stderr) == (0, "")
    assert (
        "usage: python -m infrastructure.platforms.systemd.wait_for_api [-h] seconds"
        in helped.stdout
    )
    assert bare.returncode == 1
    assert bare.stderr.startswith("Not set: PREFECT_API_URL, MAINPID.\n  where: the environment\n")


@pytest.mark.skipif(sys.platform != "linux", reason="SKIPPED: only Linux has /proc, and systemd")
def test_a_server_that_has_ended_is_not_waited_for() -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    started = time.monotonic()
    done = waiting("http://127.0.0.1:9", ended.pid, 60)
    assert time.monotonic() - started < 30
    assert (done.returncode, done.stderr) == (
        1, "The Prefect server has ended: its own lines above say why.\n",
    )  # fmt: skip
