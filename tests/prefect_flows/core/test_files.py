"""Files and temporary folders of this machine: whole, private, and gone after a kill."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest
from pydantic import TypeAdapter

from prefect_flows.core.files import make_folder, read_or_quarantine, write_file
from prefect_flows.core.temporary_folders import LOCK_FILE, private_folder, remove_orphaned
from prefect_flows.state.store import StateStore
from tests.support.project import REPOSITORY, SCRATCH_DBT

NUMBERS = TypeAdapter(list[int])


def mode_of(file: Path) -> int:
    return stat.S_IMODE(file.stat().st_mode)


def test_a_write_that_fails_leaves_the_old_file_and_no_draft(tmp_path: Path) -> None:
    """A limit on the size of files stops a write in its middle, as a full disk does."""
    file = tmp_path / "state" / "targets" / "dev" / "timings.json"
    store = StateStore(str(tmp_path / "state"))
    store.write("targets/dev/timings.json", b"[]")
    code = f"""
import resource
from prefect_flows.core.errors import StateStoreError
from prefect_flows.state.store import StateStore
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    StateStore({str(tmp_path / "state")!r}).write("targets/dev/timings.json", b"1" * 100_000)
except StateStoreError as error:
    print(error)
"""
    done = subprocess.run(
        # Python would cut off the bytecode that it writes, too.
        [sys.executable, "-B", "-c", code], cwd=REPOSITORY, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert "The state store cannot be written: OSError: [Errno 27] File too large" in done.stdout
    assert file.read_bytes() == b"[]"
    assert [each.name for each in file.parent.iterdir()] == ["timings.json"]


def test_other_users_cannot_read_what_is_written(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        store = StateStore(str(tmp_path / "local" / "state"))
        store.write("targets/dev/report.html", b"rows")
        store.append("runs/dev/a/journal.jsonl", b"{}\n", 1)
        store.lock_file("dev")
    finally:
        os.umask(before)
    made = [each for each in (tmp_path / "local").rglob("*") if each.suffix != ".lock"]
    assert {each.name for each in made if mode_of(each) & stat.S_IRWXO} == set()
    assert mode_of(tmp_path / "local" / "state" / "targets" / "dev" / "report.html") == 0o640


def test_a_folder_that_is_there_keeps_its_permissions(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    make_folder(tmp_path / "a" / "b")
    assert [mode_of(each) for each in (tmp_path, tmp_path / "a", tmp_path / "a" / "b")] == [
        0o755, 0o750, 0o750,
    ]  # fmt: skip


@pytest.mark.parametrize("damage", [b"", b"[1", b"{}", b"\xff\0"])
def test_a_damaged_file_of_this_machine_is_renamed_with_a_warning(
    tmp_path: Path, damage: bytes
) -> None:
    file = tmp_path / "numbers.json"
    warnings: list[str] = []
    assert read_or_quarantine(file, NUMBERS, warnings.append) is None
    write_file(file, b"[1]")
    assert read_or_quarantine(file, NUMBERS, warnings.append) == [1]
    assert warnings == []
    file.write_bytes(damage)
    assert read_or_quarantine(file, NUMBERS, warnings.append) is None
    (aside,) = tmp_path.iterdir()
    assert aside.read_bytes() == damage
    assert str(aside) in warnings[0]


HOLDS = """
import sys
from prefect_flows.core.temporary_folders import private_folder
with private_folder("dlt") as folder:
    (folder / "rows.parquet").write_text("made up")
    print(folder, flush=True)
    sys.stdin.read()
"""


def test_the_folder_of_a_killed_process_is_removed_by_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "millrace-of-somebody-else").mkdir()
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", HOLDS], cwd=REPOSITORY,
            env=os.environ | {"TMPDIR": str(tmp_path)},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for _ in range(2)
    ]  # fmt: skip
    try:
        killed, living = (Path(p.stdout.readline().strip()) for p in processes)  # type: ignore[union-attr]
        assert mode_of(killed) == 0o700
        processes[0].kill()
        processes[0].wait()
        assert killed.exists()
        with private_folder("dbt") as folder:
            assert set(tmp_path.iterdir()) == {
                folder, living, tmp_path / "millrace-of-somebody-else",
            }  # fmt: skip
        assert (living / "rows.parquet").exists(), "its process lives"
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    assert remove_orphaned(tmp_path) == [living]


def test_folders_that_are_made_and_swept_at_once_stay(tmp_path: Path) -> None:
    over = threading.Event()

    def sweep() -> None:
        while not over.is_set():
            remove_orphaned(tmp_path)

    sweepers = [threading.Thread(target=sweep) for _ in range(2)]
    for sweeper in sweepers:
        sweeper.start()
    try:
        for _ in range(200):
            with private_folder("dlt", tmp_path) as folder:
                assert (folder / LOCK_FILE).exists()
                (folder / "rows").write_text("1")
                assert (folder / "rows").read_text() == "1"
    finally:
        over.set()
        for sweeper in sweepers:
            sweeper.join()
    assert list(tmp_path.iterdir()) == []


PARSES = """
import sys
from pathlib import Path
from prefect_flows.core.profiles import Profile
from prefect_flows.transform.session import DbtSession
output = {"type": "postgres", "host": "127.0.0.1", "port": 1, "user": "u", "dbname": "d",
          "schema": "s", "threads": 1, "password": "made-up-password"}
profile = Profile.from_output("millrace", "dev", output)
with DbtSession(Path(sys.argv[1]), profile, Path(sys.argv[2]), {}) as session:
    assert session.manifest is not None
print("parsed", flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="SKIPPED: no /proc")
def test_no_child_keeps_the_secrets_of_a_command_that_has_ended(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", PARSES, str(SCRATCH_DBT), str(tmp_path / "target")],
        cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "parsed\n"
        children = psutil.Process(process.pid).children(recursive=True)
        assert children, "dbt's locks have a resource tracker"
        for child in children:
            environment = child.environ()
            assert [n for n in environment if n.startswith("DBT_ENV_SECRET")] == [], child.cmdline()
            assert "made-up-password" not in environment.values()
    finally:
        process.kill()
        process.communicate()
