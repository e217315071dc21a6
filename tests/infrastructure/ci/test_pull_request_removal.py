"""The sweep drops only schemas that carry our mark, on a real Postgres."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from infrastructure.ci.pull_request.cleanup import sweep
from infrastructure.ci.pull_request.context import Context
from infrastructure.ci.pull_request.names import SchemaOwner
from prefect_flows.core.settings import Settings
from prefect_flows.state.store import StateStore
from tests.support.embedded_postgres import Warehouse, warehouse

OURS = "millrace/demo"


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warehouse]:
    with warehouse(tmp_path_factory.mktemp("sweep")) as found:
        yield found


def test_the_sweep_drops_only_what_a_closed_pull_request_left(
    database: Warehouse, tmp_path: Path
) -> None:
    def make(schema: str, number: int | None = None, repository: str | None = OURS) -> None:
        database.query(f"create schema {schema}")
        if number is not None:
            mark = SchemaOwner(
                number=number, repository=repository, build="b", built_at=datetime.now(UTC)
            )
            database.query(f"comment on schema {schema} is '{mark.model_dump_json()}'")

    make("ci_1", 1)
    make("ci_2", 2)
    make("ci_3")
    make("ci_4", 1)
    make("ci_5", 5, "somebody/else")
    make("ci_6", 6, None)
    context = Context(Settings(local_dir=tmp_path), database.profile, StateStore(str(tmp_path)))

    planned = sweep(context, OURS, lambda: {2}, dry_run=True)
    found = sweep(context, OURS, lambda: {2}, dry_run=False)

    assert planned == found | {"ci_1": "would be dropped"}
    assert found == {
        "ci_1": "dropped",
        "ci_2": "left: its pull request is open",
        "ci_3": "left: Millrace did not create it",
        "ci_4": "left: Millrace did not create it",
        "ci_5": "left: it belongs to somebody/else",
        "ci_6": "left: it belongs to no repository",
    }
    schemas = database.query("select nspname from pg_namespace where nspname like 'ci%' order by 1")
    assert [name for (name,) in schemas] == ["ci_2", "ci_3", "ci_4", "ci_5", "ci_6"]
