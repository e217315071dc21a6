"""{{ cookiecutter.__source }} from real files into both warehouses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from prefect_flows.core.errors import IngestionError
from prefect_flows.ingest.source_load import ingest
from tests.support.warehouses import Warehouse

SOURCE = "{{ cookiecutter.__source }}"
ROWS = f"select id, name from raw_{SOURCE}.items order by id"
HEADER = "id,name,updated_at\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "inbox"
    folder.mkdir()
    (folder / "1.csv").write_text(
        HEADER + "1,item 1,2026-01-01T10:00:00Z\n2,item 2,2026-01-02T10:00:00Z\n"
    )
    return folder


def load(warehouse: Warehouse, folder: Path, **arguments: Any) -> dict[str, int]:
    return ingest(SOURCE, warehouse.profile, folder=str(folder), **arguments).rows


def test_new_files_are_loaded_once_and_merged(warehouse: Warehouse, folder: Path) -> None:
    assert load(warehouse, folder) == {"items": 2}
    assert load(warehouse, folder) == {"items": 0}
    (folder / "2.csv").write_text(
        HEADER + "1,renamed,2026-02-01T10:00:00Z\n3,item 3,2026-02-01T10:00:00Z\n"
    )
    assert load(warehouse, folder) == {"items": 2}
    assert warehouse.query(ROWS) == [(1, "renamed"), (2, "item 2"), (3, "item 3")]
    assert load(warehouse, folder, full_refresh=True) == {"items": 4}
    assert len(warehouse.query(ROWS)) == 3


def test_the_staging_model_and_its_tests(warehouse: Warehouse, folder: Path) -> None:
    load(warehouse, folder)
    warehouse.dbt("source", "freshness", "--select", f"source:{SOURCE}")
    warehouse.dbt("build", "--select", f"stg_{SOURCE}__items")
    assert warehouse.count(f"stg_{SOURCE}__items") == 2


def test_an_empty_folder_still_makes_the_table(warehouse: Warehouse, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert load(warehouse, tmp_path / "empty") == {"items": 0}
    assert warehouse.query(ROWS) == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (HEADER + "three,item 3,2026-01-03T10:00:00Z\n", "invalid value 'three'"),
        (HEADER + ",item 3,2026-01-03T10:00:00Z\n", "Casting field 'id' with null values"),
        ("id,title\n3,item 3\n", "field names are not matching"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_and_nothing_is_lost(
    warehouse: Warehouse, folder: Path, text: str, said: str
) -> None:
    load(warehouse, folder)
    before = warehouse.query(ROWS)
    (folder / "3.csv").write_text(text)
    with pytest.raises(IngestionError) as error:
        load(warehouse, folder)
    assert said in str(error.value)
    assert "3.csv" in error.value.where
    assert warehouse.query(ROWS) == before


def test_a_folder_that_is_not_there(warehouse: Warehouse, tmp_path: Path) -> None:
    with pytest.raises(IngestionError, match="The folder of the files is not there"):
        load(warehouse, tmp_path / "nowhere")
