"""Where a new machine takes the parsed project from: never from the state store."""

from __future__ import annotations

from pathlib import Path

import pytest

from prefect_flows.state.store import StateStore
from prefect_flows.state.target_state import PARTIAL_PARSE, TargetState


@pytest.fixture
def image(tmp_path: Path) -> Path:
    folder = tmp_path / "parsed"
    (folder / "dev").mkdir(parents=True)
    (folder / "dev" / PARTIAL_PARSE).write_bytes(b"of the image")
    return folder


def state(tmp_path: Path, image: Path | None) -> TargetState:
    store = StateStore(str(tmp_path / "store"))
    return TargetState(store, "dev", tmp_path / "machine" / "dev", image)


def test_a_new_container_takes_it_from_its_image(tmp_path: Path, image: Path) -> None:
    assert state(tmp_path, image).restore_partial_parse()
    assert (tmp_path / "machine" / "dev" / PARTIAL_PARSE).read_bytes() == b"of the image"


def test_what_lies_on_the_volume_stays(tmp_path: Path, image: Path) -> None:
    assert state(tmp_path, image).restore_partial_parse()
    assert not state(tmp_path, image).restore_partial_parse()


def test_none_where_there_is_none(tmp_path: Path, image: Path) -> None:
    assert not state(tmp_path, None).restore_partial_parse()
    other = TargetState(StateStore(str(tmp_path / "store")), "prod", tmp_path / "prod", image)
    assert not other.restore_partial_parse()


def test_what_somebody_put_into_the_store_is_not_taken(tmp_path: Path) -> None:
    target = state(tmp_path, None)
    target.write(PARTIAL_PARSE, b"of somebody else")
    assert not target.restore_partial_parse()
    assert not (tmp_path / "machine" / "dev" / PARTIAL_PARSE).exists()
