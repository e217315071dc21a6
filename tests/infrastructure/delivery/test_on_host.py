"""What runs on a host: its folder, its lock, and that it needs nothing but Python."""

from __future__ import annotations

import ast
import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any, cast

import pytest

from infrastructure.delivery.host_program import build_program
from infrastructure.delivery.on_host.delivery import Delivery
from infrastructure.delivery.on_host.engine import Container, Engine, Log
from infrastructure.delivery.on_host.errors import DeliveryBusy, StepFailed
from infrastructure.delivery.on_host.folder import MAX_RELEASES, UNDER_WAY, Folder, Release, write
from tests.support.project import REPOSITORY, until


def release(number: int, image: str | None = None) -> Release:
    return Release(f"r{number}", image or f"example.com/m@sha256:{number}", f"v{number}", "head")


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def _lock(folder: Folder) -> int | None:
    try:
        return folder.lock("next")
    except DeliveryBusy:
        return None


def kept(folder: Folder, number: int, image: str | None = None) -> Release:
    made = release(number, image)
    folder.add_release(made, "services: {}", {"MILLRACE_IMAGE": made.image})
    return made


def test_the_program_needs_nothing_but_python(tmp_path: Path) -> None:
    file = tmp_path / "deliver.pyz"
    packed = build_program()
    file.write_bytes(packed.content)
    done = subprocess.run(
        # No packages, no folder of ours.
        [sys.executable, "-I", "-S", str(file), str(tmp_path / "here"), "good"],
        cwd=tmp_path, env={}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")
    assert (tmp_path / "here").stat().st_mode & 0o777 == 0o700
    assert build_program().name == packed.name


def test_it_is_written_for_the_python_of_an_old_host() -> None:
    modules = REPOSITORY.glob("infrastructure/delivery/on_host/*.py")
    for module in modules:
        ast.parse(module.read_text(), feature_version=(3, 9))


def test_the_second_delivery_is_refused_and_names_the_first(folder: Folder) -> None:
    held = folder.lock("first")
    with pytest.raises(
        DeliveryBusy, match=r"Another delivery is in progress here.*: first"
    ) as caught:
        folder.lock("second")
    assert "deliveries/first/log" in caught.value.fix
    os.close(held)
    os.close(folder.lock("second"))


def test_a_command_that_a_killed_delivery_left_keeps_the_lock(folder: Folder) -> None:
    script = textwrap.dedent(f"""
        from pathlib import Path
        from infrastructure.delivery.on_host.engine import Engine, Log
        from infrastructure.delivery.on_host.folder import Folder
        folder = Folder(Path({str(folder.path)!r}))
        engine = Engine(folder, Log(folder.path / "log"), folder.lock("killed"))
        engine.run("sh", "-c", "touch begun; sleep 3; touch ended")
    """)
    with subprocess.Popen([sys.executable, "-c", script], cwd=REPOSITORY) as first:
        until((folder.path / "begun").exists)
        first.send_signal(signal.SIGKILL)
    with pytest.raises(DeliveryBusy, match="killed"):
        folder.lock("next")
    until((folder.path / "ended").exists)
    os.close(until(lambda: _lock(folder)))


def test_what_was_killed_is_known(folder: Folder) -> None:
    assert folder.find_killed_delivery() is None
    folder.create_record("20260101T000000Z-a", {"id": "a", "result": "delivered"})
    assert folder.find_killed_delivery() is None
    folder.create_record("20260102T000000Z-b", {"id": "b", "result": UNDER_WAY})
    assert folder.find_killed_delivery() == {"id": "b", "result": UNDER_WAY}
    folder.create_record("20260103T000000Z-c", {"id": "c", "result": "rolled back"})
    assert folder.find_killed_delivery() is None


def test_the_last_releases_that_worked_are_kept(folder: Folder) -> None:
    assert folder.get_current_release() is None
    for number in range(MAX_RELEASES):
        assert folder.mark_as_good(kept(folder, number)) == []
    failed = kept(folder, 90)
    again = kept(folder, 91, image=release(3).image)
    # The oldest goes, and what never worked; an image that a kept release has stays.
    assert set(folder.mark_as_good(again)) == {release(0), failed}
    assert folder.get_current_release() == again
    assert folder.list_good_releases()[1] == release(MAX_RELEASES - 1).id
    assert len(list((folder.path / "releases").iterdir())) == MAX_RELEASES
    text = (folder.path / "compose").read_text()
    assert f"releases/{again.id}/compose.yaml" in text
    assert (folder.path / "compose").stat().st_mode & 0o777 == 0o700
    assert (folder.path / ".env").stat().st_mode & 0o777 == 0o600


def test_a_file_is_there_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    file = tmp_path / "record.json"
    write(file, json.dumps({"first": 1}))
    (tmp_path / ".record.json.new").write_text('{"half')
    write(file, json.dumps({"second": 2}))
    assert json.loads(file.read_text()) == {"second": 2}
    assert [each.name for each in tmp_path.iterdir()] == ["record.json"]


def test_what_a_program_says_is_in_the_log_and_why_it_failed(folder: Folder) -> None:
    engine = Engine(folder, Log(folder.path / "log"), folder.lock("one"))
    engine.run("sh", "-c", "echo fine")
    assert engine.run("sh", "-c", "echo read here", quiet=True).stdout == "read here\n"
    with pytest.raises(StepFailed, match=r"exit code 3: sh .*: it is broken$"):
        engine.run("sh", "-c", "echo 'it is broken' >&2; exit 3")
    with pytest.raises(StepFailed, match="no end within 1 s"):
        engine.run("sleep", "20", seconds=1)
    log = (folder.path / "log").read_text()
    assert "| fine\n" in log
    assert "read here" not in log
    assert "| it is broken\n" in log


def test_settings_of_a_login_are_not_the_folders(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MILLRACE_IMAGE", "another")
    engine = Engine(folder, Log(folder.path / "log"), folder.lock("one"))
    assert engine.run("sh", "-c", 'echo "[$MILLRACE_IMAGE]"').stdout == "[]\n"


class _StandIn(Engine):
    """An engine without containers, in which the step `pools` of the release r2 fails."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.found: dict[str, str] = {}

    def compose(
        self, release: Release, *arguments: str, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        if release.id == "r2" and "pools" in arguments:
            raise StepFailed("no pools")
        output = ""
        if "psql" in arguments:
            output = "head\n"
        elif "faults" in arguments:
            output = json.dumps(self.found)
        return subprocess.CompletedProcess(arguments, 0, output, "")

    def list_containers(self, release: Release, service: str) -> list[Container]:
        return []

    def wait_until_healthy(self, *arguments: Any) -> None:
        pass


@pytest.mark.parametrize(
    ("later", "result"), [({}, "rolled back"), ({"worker dev": "it is gone"}, "stuck")]
)
def test_what_was_wrong_before_does_not_fail_the_rollback(
    folder: Folder, monkeypatch: pytest.MonkeyPatch, later: dict[str, str], result: str
) -> None:
    monkeypatch.setattr("infrastructure.delivery.on_host.delivery.Engine", _StandIn)
    folder.mark_as_good(kept(folder, 1))
    kept(folder, 2)
    record = {
        "target": "dev", "release": "r2", "begun": [], "steps": [], "back": False, "by": "me",
        "health_seconds": 1, "drain_seconds": 1, "always_backup": False, "apply_blocks": False,
        "backup": None, "deployed": "",
    }  # fmt: skip
    folder.create_record("two", record)
    delivery = Delivery(folder, Log(folder.path / "log"), folder.lock("two"), "two", record)
    engine = cast("_StandIn", delivery._engine)
    # GIVEN a fault from before the delivery, and perhaps one that it caused.
    engine.found = {"state dev": "no state store"}
    monkeypatch.setattr(delivery._workers, "start_draining", lambda *_: engine.found.update(later))
    assert delivery.run() == result
    assert ("it is gone" in record["why"]) == bool(later)
    assert "no state store" not in record["why"]
