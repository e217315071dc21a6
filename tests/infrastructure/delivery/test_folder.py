"""The files of a host's folder: written whole, and a damaged one is named with what fixes it."""

from __future__ import annotations

from pathlib import Path

import pytest

from infrastructure.delivery.on_host.errors import DeliveryRefused
from infrastructure.delivery.on_host.folder import UNDER_WAY, Folder, Release, write

RELEASE = Release("r1", "image@sha256:1", "v1", "head")
DAMAGES = ("", "{", "1", "null", "\0\0")


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    folder = Folder(tmp_path)
    folder.add_release(RELEASE, "services: {}", {})
    folder.mark_as_good(RELEASE)
    folder.save_draining_workers({"worker-1"})
    folder.create_record("d1", {"result": UNDER_WAY})
    return folder


def test_what_is_written_is_read(folder: Folder) -> None:
    assert folder.get_current_release() == RELEASE
    assert folder.read_draining_workers() == {"worker-1"}
    assert folder.find_killed_delivery() == {"result": UNDER_WAY}


@pytest.mark.parametrize("damage", [*DAMAGES, "[]", "{}"])
def test_a_damaged_file_is_named_with_what_fixes_it(folder: Folder, damage: str) -> None:
    for name, read in (
        ("releases/r1/release.json", lambda: folder.read_release("r1")),
        ("current.json", folder.list_good_releases),
        ("draining.json", folder.read_draining_workers),
        ("deliveries/d1/record.json", folder.find_killed_delivery),
    ):
        file = folder.path / name
        before = file.read_text()
        file.write_text(damage)
        if (name, damage) in {("draining.json", "[]"), ("deliveries/d1/record.json", "{}")}:
            continue
        with pytest.raises(DeliveryRefused, match="A file of this host is damaged") as refused:
            read()
        assert refused.value.where == str(file)
        file.write_text(before)


def test_a_write_that_fails_leaves_no_draft(tmp_path: Path) -> None:
    (tmp_path / "current.json").mkdir()
    with pytest.raises(IsADirectoryError):
        write(tmp_path / "current.json", "{}")
    assert [each.name for each in tmp_path.iterdir()] == ["current.json"]
