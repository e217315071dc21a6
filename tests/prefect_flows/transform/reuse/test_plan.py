"""Which nodes a run executes, for each kind of node and of change. Nothing is built."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from dbt.adapters.factory import get_adapter_by_type
from dbt.cli.main import dbtRunner
from dbt.contracts.graph.manifest import Manifest

from prefect_flows.state.node_states import NodeState
from prefect_flows.transform.node_hashes import CodeHashes
from prefect_flows.transform.reuse.plan import Inputs, ReusePlan, SourceVersions, plan_reuse
from prefect_flows.transform.reuse.tracker import _has_new_rows

FILES = {
    "dbt_project.yml": "name: shop\nprofile: shop\nflags: {send_anonymous_usage_stats: false}\n",
    "profiles.yml": """
shop:
  target: test
  outputs: {test: {type: postgres, host: /nowhere, port: 1, user: u, password: p, dbname: d,
                   schema: s, threads: 1}}
""",
    "seeds/rates.csv": "id,rate\n1,2\n",
    "seeds/delivered.csv": "id\n1\n",
    "models/staged.sql": (
        "{{ config(materialized='ephemeral') }} select id from {{ source('raw', 'orders') }}"
    ),
    "models/seen.sql": "select id from {{ ref('staged') }}",
    "models/built.sql": (
        "{{ config(materialized='table') }} select s.id from {{ ref('seen') }} as s"
        " join {{ ref('rates') }} as r on s.id = r.id"
    ),
    "models/daily.sql": (
        "{{ config(materialized='incremental', incremental_strategy='microbatch', unique_key='id',"
        " event_time='day', batch_size='day', begin='2026-01-01') }}"
        " select 1 as id, current_timestamp as day from {{ ref('seen') }}"
    ),
    "models/declared.sql": (
        "{{ config(meta={'reuse': true}) }} select id, now() as at from {{ ref('built') }}"
    ),
    "models/opted_out.sql": "{{ config(meta={'reuse': false}) }} select 1 as id",
    "models/of_delivered.sql": "select id from {{ source('fed', 'delivered') }}",
    "models/apart.sql": "{{ config(materialized='table') }} select 1 as id",
    "snapshots/history.sql": (
        "{% snapshot history %}{{ config(unique_key='id', strategy='check', check_cols='all',"
        " target_schema='s') }} select * from {{ source('raw', 'orders') }}{% endsnapshot %}"
    ),
    "models/properties.yml": """
sources:
- {name: raw, schema: raw, tables: [{name: orders, columns: [{name: id, data_tests: [unique]}]}]}
- {name: fed, schema: s, tables: [{name: delivered}]}
models:
- {name: built, columns: [{name: id, data_tests: [not_null]}]}
unit_tests:
- name: ids_are_kept
  model: built
  given: [{input: ref('seen'), rows: [{id: 1}]}, {input: ref('rates'), rows: [{id: 1}]}]
  expect: {rows: [{id: 1}]}
""",
}
ALL = {
    "rates", "delivered", "seen", "built", "daily", "declared", "opted_out", "of_delivered",
    "apart", "history", "unique", "not_null", "unit",
}  # fmt: skip
TESTS = {"source_unique_raw_orders_id": "unique", "not_null_built_id": "not_null"}
ORDERS = "source.shop.raw.orders"


@dataclass(frozen=True)
class Parsed:
    """A parsed project, and the states of its nodes after a run that passed."""

    manifest: Manifest
    code: CodeHashes
    states: Mapping[str, NodeState]
    sources: SourceVersions

    def name(self, unique_id: str) -> str:
        name = unique_id.split(".")[2]
        return "unit" if unique_id.startswith("unit_test.") else TESTS.get(name, name)

    @property
    def ids(self) -> dict[str, str]:
        return {self.name(unique_id): unique_id for unique_id in self.states}

    def plan(self, **changes: Any) -> ReusePlan:
        """The plan for all nodes; by default, nothing has changed."""
        given: dict[str, Any] = {
            "selected": list(self.states),
            "states": self.states,
            "relations": {i: state.relation for i, state in self.states.items()},
            "sources": self.sources,
            "done": (),
            **changes,
        }
        return plan_reuse(
            manifest=self.manifest, code=self.code, inputs=Inputs(self.manifest), **given
        )

    def executed(self, **changes: Any) -> dict[str, str]:
        """Name → reason, without the node that opts out."""
        reasons = self.plan(**changes).reasons
        named = {self.name(i): reason for i, reason in reasons.items()}
        assert named.pop("opted_out", "its meta says `reuse: false`")
        return named

    def changing(self, name: str, **changes: Any) -> dict[str, str]:
        """The same after something else is known of a node."""
        unique_id = self.ids[name]
        state = self.states[unique_id].model_copy(update=changes)
        return self.executed(states={**self.states, unique_id: state})


@pytest.fixture(scope="module")
def parsed(tmp_path_factory: pytest.TempPathFactory) -> Parsed:
    folder = tmp_path_factory.mktemp("shop")
    for name, text in FILES.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    options = ["--project-dir", str(folder), "--profiles-dir", str(folder)]
    quiet = ["--log-level", "none", "--log-level-file", "none", "--no-partial-parse"]
    done = dbtRunner().invoke(["parse", *options, *quiet])
    assert done.exception is None
    manifest: Any = done.result
    adapter: Any = get_adapter_by_type("postgres")  # type: ignore[no-untyped-call]
    code, inputs = CodeHashes(manifest, adapter.config), Inputs(manifest)
    versions = dict.fromkeys(manifest.sources, "1 row")
    states = {
        i: NodeState(
            status="success",
            run="first",
            ended_at=datetime.now(UTC),
            code=code.get(i),
            own_code=code.get_own(i),
            inputs={each: versions.get(each, "first") for each in inputs.get(i)},
            relation=f"relation of {i}",
            always="it uses now" if i.endswith(".declared") else None,
        )
        for i in (*manifest.nodes, *manifest.unit_tests)
        if not getattr(manifest.nodes.get(i), "is_ephemeral_model", False)
    }
    return Parsed(manifest, code, states, SourceVersions(versions))


def test_nothing_changed(parsed: Parsed) -> None:
    assert set(parsed.ids) == ALL
    plan = parsed.plan()
    assert {parsed.name(i) for i in plan.reasons} == {"opted_out"}
    assert {parsed.name(i) for i in plan.reused} == ALL - {"opted_out"}


def test_new_rows_of_a_source_reach_all_nodes_behind_ephemeral_models_and_views(
    parsed: Parsed,
) -> None:
    behind = {
        "seen": "raw.orders has changed",
        "history": "raw.orders has changed",
        "unique": "raw.orders has changed",
        "built": "seen is built",
        "daily": "seen is built",
        "not_null": "built is built",
        "declared": "built is built",
    }
    changed = replace(parsed.sources, versions={ORDERS: "2 rows"})
    assert parsed.executed(sources=changed) == behind
    loaded = replace(parsed.sources, loaded={ORDERS})
    assert parsed.executed(sources=loaded)["seen"] == "raw.orders has new data"
    assert parsed.executed(sources=loaded).keys() == behind.keys()
    unknown = replace(parsed.sources, versions={ORDERS: None})
    reason = "it is not known whether raw.orders has new data"
    assert parsed.executed(sources=unknown)["history"] == reason
    assert parsed.executed(sources=unknown).keys() == behind.keys()


def test_code_seeds_and_relations(parsed: Parsed) -> None:
    behind_rates = {"built", "not_null", "declared"}
    changed = parsed.changing("rates", own_code="other")
    assert changed.pop("rates") == "its code or configuration changed"
    assert changed.keys() == behind_rates
    assert parsed.changing("apart", relation="other") == {
        "apart": "its relation was changed outside the pipeline"
    }
    ids = parsed.ids
    relations = {i: s.relation for i, s in parsed.states.items() if i != ids["apart"]}
    assert parsed.executed(relations=relations) == {"apart": "its relation is missing"}
    # What an ephemeral model says is part of the hash of what reads it.
    assert parsed.changing("seen", code="other")["seen"] == "code upstream of it changed"


def test_a_source_that_the_project_fills(parsed: Parsed) -> None:
    assert parsed.changing("delivered", own_code="other") == {
        "delivered": "its code or configuration changed",
        "of_delivered": "delivered is built",
    }


@pytest.mark.parametrize("status", ["fail", "warn", "error", "skipped", "runtime error"])
def test_what_did_not_pass_runs_until_it_passes(parsed: Parsed, status: str) -> None:
    assert parsed.changing("not_null", status=status) == {
        "not_null": f"its last result was {status}"
    }


def test_what_was_not_finished_runs_again(parsed: Parsed) -> None:
    changed = parsed.changing("built", status=None)
    assert changed["built"] == "the last run did not finish it"
    assert changed.keys() == {"built", "not_null", "declared"}
    unknown = {i: s for i, s in parsed.states.items() if i != parsed.ids["built"]}
    assert parsed.executed(states=unknown, selected=[*unknown, parsed.ids["built"]]) == {
        "built": "no run has executed it",
        "not_null": "built is built",
        "declared": "built is built",
    }


def test_an_input_that_another_run_has_built(parsed: Parsed) -> None:
    # A run that selected only `seen` has built it, or `built` failed in the run that did.
    assert parsed.changing("seen", run="second")["built"] == "seen has changed"


def test_an_input_that_is_not_selected(parsed: Parsed) -> None:
    unfinished = parsed.states[parsed.ids["seen"]].model_copy(update={"status": None})
    states = {**parsed.states, parsed.ids["seen"]: unfinished}
    assert parsed.executed(states=states, selected=[parsed.ids["built"]]) == {
        "built": "no run has built seen"
    }


@pytest.mark.parametrize("relation", [None, "another"])
def test_an_input_that_is_not_selected_and_was_changed_by_hand(
    parsed: Parsed, relation: str | None
) -> None:
    relations = {i: state.relation for i, state in parsed.states.items()}
    relations[parsed.ids["rates"]] = relation
    executed = parsed.executed(selected=[parsed.ids["built"]], relations=relations)
    assert executed == {"built": "rates is missing or was changed outside the pipeline"}


def test_new_rows_behind_a_view_that_is_not_selected(parsed: Parsed) -> None:
    changed = replace(parsed.sources, versions={ORDERS: "2 rows"})
    assert parsed.executed(sources=changed, selected=[parsed.ids["built"]]) == {
        "built": "raw.orders has changed"
    }


def test_a_microbatch_model_runs_when_a_batch_begins(parsed: Parsed) -> None:
    yesterday = datetime.now(UTC) - timedelta(days=1)
    assert parsed.changing("daily", ended_at=yesterday) == {"daily": "a new batch has begun"}


def test_sql_that_changes_by_itself(parsed: Parsed) -> None:
    # `declared` has a reason, and its meta says that it may be reused.
    assert parsed.changing("apart", always="it uses now") == {"apart": "it uses now"}


def test_a_unit_test_does_not_depend_on_rows(parsed: Parsed) -> None:
    loaded = replace(parsed.sources, loaded={ORDERS})
    assert "unit" not in parsed.executed(sources=loaded)
    assert "unit" in parsed.changing("unit", own_code="other")


def test_all_nodes_of_a_full_refresh_run(parsed: Parsed) -> None:
    plan = parsed.plan(rebuild="full_refresh is set")
    assert set(plan.reasons.values()) == {"full_refresh is set"}
    assert plan.reasons.keys() == parsed.states.keys()


def test_what_a_resumed_run_has_built_is_built(parsed: Parsed) -> None:
    executed = parsed.executed(done={parsed.ids["seen"]})
    assert executed["seen"] == "the resumed run had built it"
    assert executed["built"] == "seen is built"


@pytest.mark.parametrize(
    ("table", "rows", "removed", "new"),
    [
        ("orders", {"orders": 0, "customers": 5}, {}, False),
        ("orders", {"orders": 1}, {}, True),
        ("orders", {"orders": 0}, {"orders": 2}, True),
        # A child table, or one that the load names by its rows: not counted.
        ("orders__items", {"orders": 1}, {}, True),
        ("orders__items", {"orders": 0}, {}, False),
    ],
)
def test_loads(
    parsed: Parsed, table: str, rows: dict[str, int], removed: dict[str, int], new: bool
) -> None:
    source = replace(parsed.manifest.sources[ORDERS], identifier=table, schema="raw_shop")
    loads = {
        "shop": {"schema": "raw_shop", "rows": rows, "removed": removed},
        "other": {"schema": "raw_other", "rows": {table: 9}, "removed": {}},
    }
    assert _has_new_rows(source, loads) is new
