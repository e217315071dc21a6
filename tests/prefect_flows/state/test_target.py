"""Where a new machine takes the parsed project from."""

from __future__ import annotations

from pathlib import Path

import pytest

from prefect_flows.state.store import StateStore
from prefect_flows.state.target import PARTIAL_PARSE, TargetState


@pytest.fixture
def image(tmp_path: Path) -> Path:
    folder = tmp_path / "parsed"
    (folder / "dev").mkdir(parents=True)
    (folder / "dev" / PARTIAL_PARSE).write_bytes(b"of the image")
    return folder


def state(tmp_path: Path, image: Path | None, machine: str = "machine") -> TargetState:
    return TargetState(
        StateStore(str(tmp_path / "store")), "dev", tmp_path / machine / "dev", image
    )


def test_a_new_container_takes_it_from_its_image(tmp_path: Path, image: Path) -> None:
    assert state(tmp_path, image).bring_partial_parse() == "the image"
    assert (tmp_path / "machine" / "dev" / PARTIAL_PARSE).read_bytes() == b"of the image"


def test_the_state_store_goes_before_the_image(tmp_path: Path, image: Path) -> None:
    first = state(tmp_path, image)
    first.bring_partial_parse()
    (tmp_path / "machine" / "dev" / PARTIAL_PARSE).write_bytes(b"of the last run")
    first.keep_partial_parse()
    assert state(tmp_path, image, "another").bring_partial_parse() == "the state store"
    assert (tmp_path / "another" / "dev" / PARTIAL_PARSE).read_bytes() == b"of the last run"


def test_what_lies_on_the_volume_stays(tmp_path: Path, image: Path) -> None:
    state(tmp_path, image).bring_partial_parse()
    assert state(tmp_path, image).bring_partial_parse() is None


def test_none_where_there_is_none(tmp_path: Path, image: Path) -> None:
    assert state(tmp_path, None).bring_partial_parse() is None
    other = TargetState(StateStore(str(tmp_path / "store")), "prod", tmp_path / "prod", image)
    assert other.bring_partial_parse() is None


def test_the_store_is_given_what_came_from_the_image(tmp_path: Path, image: Path) -> None:
    first = state(tmp_path, image)
    first.bring_partial_parse()
    first.keep_partial_parse()
    assert first.store.names(first.folder) == [PARTIAL_PARSE]
