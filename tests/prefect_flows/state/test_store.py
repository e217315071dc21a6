"""The state store: in a folder, and in servers that speak S3 and Google's storage."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from prefect_flows.core.errors import StateStoreError
from prefect_flows.state.journal import Journal
from prefect_flows.state.store import StateStore
from tests.support.object_stores import gs_bucket, s3_bucket


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    pytest.importorskip("s3fs", reason="SKIPPED: s3:// needs `uv sync --extra s3`")
    with s3_bucket(tmp_path_factory.mktemp("moto")) as url:
        yield url


@pytest.fixture(scope="module")
def gs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with gs_bucket(tmp_path_factory.mktemp("gcs")) as url:
        yield url


@pytest.fixture(params=["folder", "s3", "gs"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> StateStore:
    if request.param == "folder":
        return StateStore(str(tmp_path / "state"))
    return StateStore(f"{request.getfixturevalue(request.param)}/{tmp_path.name}")


def entry(name: str) -> dict[str, object]:
    return {"node": name, "code": "1", "result": {}}


def test_what_is_written_is_read_listed_and_removed(store: StateStore) -> None:
    assert store.read("runs/dev/a/run.json") is None
    assert store.names("runs/dev") == []

    store.write("runs/dev/a/run.json", b"1")
    store.write("runs/dev/b/run.json", b"2")
    store.write("runs/dev/a/run.json", b"3")

    assert store.read("runs/dev/a/run.json") == b"3"
    assert store.names("runs/dev") == ["a", "b"]
    store.remove("runs/dev/a")
    store.remove("runs/dev/a")
    assert store.names("runs/dev") == ["b"]


def test_a_journal_keeps_its_order_and_leaves_out_what_was_cut_off(store: StateStore) -> None:
    journal = Journal(store, "runs/dev/a")
    journal.begin([entry("carried")])
    for number in range(12):
        journal.add([entry(f"{number}"), entry(f"{number}'")])
    warnings: list[str] = []
    entries = [entry["node"] for entry in Journal.read(store, "runs/dev/a", warnings.append)]
    expected = [name for number in range(12) for name in (f"{number}", f"{number}'")]
    assert entries == ["carried", *expected]

    store.append("runs/dev/a/journal.jsonl", b'{"node": "half', 13)
    assert len(Journal.read(store, "runs/dev/a", warnings.append)) == 25
    assert warnings == []


def test_readers_see_a_file_whole_or_not_at_all(tmp_path: Path) -> None:
    store = StateStore(str(tmp_path))
    contents = [bytes([number]) * 3_000_000 for number in range(2)]
    store.write("file", contents[0])
    over = threading.Event()

    def write() -> None:
        for number in range(60):
            store.write("file", contents[number % 2])
        over.set()

    thread = threading.Thread(target=write)
    thread.start()
    while not over.is_set():
        assert store.read("file") in contents
    thread.join()
    assert store.names(".") == ["file"], "an unfinished file was left behind"


def test_a_journal_that_cannot_be_written_is_reported_and_does_not_stop_the_run(
    tmp_path: Path,
) -> None:
    store = StateStore(str(tmp_path))
    journal = Journal(store, "runs/dev/a")
    journal.begin([])
    (tmp_path / "runs" / "dev" / "a" / "journal.jsonl").unlink()
    (tmp_path / "runs" / "dev" / "a" / "journal.jsonl").mkdir()

    journal.add([entry("a")])

    assert isinstance(journal.failure, StateStoreError)
    assert str(tmp_path) in str(journal.failure)


def test_a_store_that_cannot_be_is_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StateStoreError, match="The state store cannot be written: FileExists"):
        StateStore(str(tmp_path / "file")).write("run.json", b"")


@pytest.mark.parametrize("kind", ["s3", "gs"])
def test_a_bucket_that_does_not_exist_is_reported(
    request: pytest.FixtureRequest, kind: str
) -> None:
    request.getfixturevalue(kind)
    with pytest.raises(StateStoreError, match=rf"where: {kind}://other/run\.json"):
        StateStore(f"{kind}://other").write("run.json", b"")
