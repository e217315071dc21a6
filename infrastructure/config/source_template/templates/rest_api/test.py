"""{{ cookiecutter.__source }} from a real HTTP server into both warehouses."""

from __future__ import annotations

import http.server
import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from prefect_flows.core.errors import IngestionError
from prefect_flows.ingest.source_load import ingest
from prefect_flows.sources.{{ cookiecutter.__source }} import source
from tests.support.project import serving
from tests.support.warehouses import Warehouse

SOURCE = "{{ cookiecutter.__source }}"
ROWS = f"select id, name from raw_{SOURCE}.items order by id"
TOKEN = "made-up-token"


class Api:
    """What the API has, and what it was asked."""

    def __init__(self) -> None:
        self.items = [
            {"id": number, "name": f"item {number}", "updated_at": f"2026-01-0{number}T10:00:00Z"}
            for number in (1, 2, 3)
        ]
        self.asked: list[dict[str, str]] = []
        self.url = ""

    def answer(self, query: dict[str, str]) -> dict[str, Any]:
        """A page of two."""
        since = query.get("updated_since", "")[:19]
        found = [item for item in self.items if str(item.get("updated_at", "9"))[:19] >= since]
        first = 2 * (int(query["page"]) - 1)
        return {"items": found[first : first + 2]}


@pytest.fixture
def api() -> Iterator[Api]:
    api = Api()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            query = {key: value for key, (value,) in parse_qs(urlsplit(self.path).query).items()}
            known = self.headers.get("Authorization") == f"Bearer {TOKEN}"
            api.asked.append(query)
            self.send_response(200 if known else 401)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(api.answer(query) if known else {}).encode())

    with serving(Handler) as api.url:
        yield api


def load(warehouse: Warehouse, api: Api, **arguments: Any) -> dict[str, int]:
    given = {"api_url": api.url, "token": TOKEN} | arguments
    return ingest(SOURCE, warehouse.profile, **given).rows


def test_what_changed_is_loaded_and_merged(warehouse: Warehouse, api: Api) -> None:
    assert load(warehouse, api) == {"items": 3}
    api.items[0] |= {"name": "renamed", "updated_at": "2026-02-01T10:00:00Z"}
    # The newest of the load before comes again.
    assert load(warehouse, api) == {"items": 2}
    assert warehouse.query(ROWS) == [(1, "renamed"), (2, "item 2"), (3, "item 3")]
    assert load(warehouse, api, full_refresh=True) == {"items": 3}
    assert len(warehouse.query(ROWS)) == 3


def test_the_staging_model_and_its_tests(warehouse: Warehouse, api: Api) -> None:
    load(warehouse, api)
    warehouse.dbt("source", "freshness", "--select", f"source:{SOURCE}")
    warehouse.dbt("build", "--select", f"stg_{SOURCE}__items")
    assert warehouse.count(f"stg_{SOURCE}__items") == 3


def test_an_api_without_items_still_makes_the_table(warehouse: Warehouse, api: Api) -> None:
    api.items = []
    assert load(warehouse, api) == {"items": 0}
    assert warehouse.query(ROWS) == []


def test_a_field_that_is_gone_is_refused_and_nothing_is_lost(
    warehouse: Warehouse, api: Api
) -> None:
    load(warehouse, api)
    before = warehouse.query(ROWS)
    api.items.append({"id": 4, "title": "item 4", "updated_at": "2026-02-01T10:00:00Z"})
    with pytest.raises(IngestionError) as error:
        load(warehouse, api)
    assert "Table 'items': the API's answer has no field 'name' any more" in str(error.value)
    assert "where: item 4" in str(error.value)
    assert warehouse.query(ROWS) == before


def test_a_wrong_token_is_said_and_not_shown(warehouse: Warehouse, api: Api) -> None:
    with pytest.raises(IngestionError) as error:
        load(warehouse, api, token="made-up-wrong")
    assert "401" in str(error.value)
    assert source.ACCESS in str(error.value)
    assert "made-up-wrong" not in str(error.value)
    assert len(api.asked) == 1, "a refusal does not pass"
