"""Which models are published, in which groups, and what keeps a group back."""

from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from prefect_flows.core.errors import ConfigurationError
from prefect_flows.core.failure_class import FailureClass
from prefect_flows.publish.models import blocked_groups, get_published_models
from prefect_flows.state.run_summary import PublishedData
from prefect_flows.transform.results import NodeResult


class Config(dict[str, Any]):
    """A node's config as dbt has it: attributes and `get`."""

    @property
    def meta(self) -> dict[str, Any]:
        return self.get("meta", {})

    @property
    def materialized(self) -> str:
        return self.get("materialized", "table")


def node(name: str, folder: str = "marts", kind: str = "model", **config: Any) -> SimpleNamespace:
    return SimpleNamespace(
        unique_id=f"{kind}.shop.{name}",
        resource_type=kind,
        name=name,
        identifier=name,
        database="db",
        schema="prod_marts",
        fqn=["shop", folder, name],
        original_file_path=f"models/{folder}/{name}.sql",
        config=Config(config),
        is_ephemeral_model=config.get("materialized") == "ephemeral",
    )


def found(*nodes: SimpleNamespace) -> dict[str, Any]:
    return {model.name: model for model in get_published_models({n.unique_id: n for n in nodes})}


def test_models_of_a_folder_marts_are_published_and_meta_changes_that() -> None:
    published = found(
        node("fct"),
        node("stg", "staging"),
        node("marts", "staging"),
        node("off", meta={"publish": False}),
        node("extra", "staging", meta={"publish": True}),
        node("codes", "seeds", "seed", meta={"publish": True}),
        node("history", "snapshots", "snapshot"),
        node("inline", materialized="ephemeral"),
        node("a_test", "marts", "test"),
        node("ads", meta={"publish_group": "marketing"}),
    )
    assert list(published) == ["ads", "codes", "extra", "fct"]
    assert published["ads"].group == "marketing"
    assert published["fct"].group == "default"
    assert published["codes"].is_seed


def test_a_project_names_its_own_folders_of_marts() -> None:
    nodes = [node("fct"), node("revenue", "reporting"), node("reporting", "staging")]
    published = get_published_models({n.unique_id: n for n in nodes}, ["reporting", "exports"])
    assert [model.name for model in published] == ["revenue"]


@pytest.mark.parametrize(
    ("config", "keeps_rows", "unique_key"),
    [
        ({"materialized": "table"}, False, ()),
        ({"materialized": "view"}, False, ()),
        ({"materialized": "materialized_view"}, False, ()),
        ({"materialized": "incremental"}, True, ()),
        ({"materialized": "incremental", "unique_key": "id"}, True, ("id",)),
        ({"materialized": "incremental", "unique_key": ["day", "id"]}, True, ("day", "id")),
        ({"materialized": "made_up_elsewhere"}, True, ()),
    ],
)
def test_what_keeps_its_rows_starts_from_the_published_ones(
    config: dict[str, Any], keeps_rows: bool, unique_key: tuple[str, ...]
) -> None:
    model = found(node("fct", **config))["fct"]
    assert (model.keeps_rows, model.unique_key) == (keeps_rows, unique_key)


def test_a_snapshot_is_known_by_its_scd_id() -> None:
    config = {"materialized": "snapshot", "unique_key": "id", "meta": {"publish": True}}
    model = found(node("history", "snapshots", "snapshot", **config))["history"]
    assert (model.keeps_rows, model.unique_key) == (True, ("dbt_scd_id",))


@pytest.mark.parametrize(
    ("meta", "said"),
    [
        ({"publish": "yes"}, "The meta of fct has publish: 'yes'."),
        ({"publish_group": ""}, "The meta of fct has publish_group: ''."),
        ({"publish_group": 3}, "The meta of fct has publish_group: 3."),
    ],
)
def test_a_wrong_setting_is_refused_with_its_file(meta: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        found(node("fct", meta=meta))
    assert refused.value.what == said
    assert refused.value.where == "models/marts/fct.sql"


def result(unique_id: str, status: str) -> NodeResult:
    kind, _, name = unique_id.split(".")
    cause = FailureClass.DATA if status in ("fail", "error") else None
    return NodeResult(
        unique_id, name, kind, "", ("shop", name), status, None, 0.1, None, cause=cause
    )


PARENTS = {
    "model.shop.stg": ["source.shop.raw.t"],
    "model.shop.fct": ["model.shop.stg"],
    "model.shop.ads": ["model.shop.clicks"],
    "model.shop.leaf": ["model.shop.fct"],
    "test.shop.on_fct": ["model.shop.fct"],
    "test.shop.on_stg": ["model.shop.stg"],
    "test.shop.on_clicks": ["model.shop.clicks"],
    "test.shop.on_leaf": ["model.shop.leaf"],
}


@pytest.mark.parametrize(
    ("failed", "blocked"),
    [
        ("model.shop.fct", {"default"}),
        ("test.shop.on_fct", {"default"}),
        ("test.shop.on_stg", {"default"}),
        ("source.shop.t", {"default"}),
        ("model.shop.ads", {"marketing"}),
        ("test.shop.on_clicks", {"marketing"}),
        # What touches no group blocks the default one.
        ("test.shop.on_leaf", {"default"}),
        ("operation.shop.hook", {"default"}),
    ],
)
def test_a_failure_blocks_the_groups_that_it_touches(failed: str, blocked: set[str]) -> None:
    built = get_published_models(
        {n.unique_id: n for n in (node("fct"), node("ads", meta={"publish_group": "marketing"}))}
    )
    results = [result(failed, "fail"), result("test.shop.fine", "pass")]
    assert set(blocked_groups(built, results, PARENTS)) == blocked
    assert blocked_groups(built, [result(failed, "warn")], PARENTS) == {}


def test_a_failure_upstream_of_two_groups_blocks_both() -> None:
    built = get_published_models(
        {n.unique_id: n for n in (node("fct"), node("leaf", meta={"publish_group": "other"}))}
    )
    blocked = blocked_groups(built, [result("test.shop.on_stg", "fail")], PARENTS)
    assert set(blocked) == {"default", "other"}


@pytest.mark.parametrize(
    ("run_ids", "said"),
    [
        ([], "Readers see no published data yet."),
        (["a"], "Readers see the data of this run since 2026-11-30 04:05 UTC."),
        (["b"], "Readers see the data of run b, published at 2026-11-30 04:05 UTC."),
        (
            ["a", "b"],
            "Readers see data of this run, run b, published until 2026-11-30 04:05 UTC.",
        ),
        (
            ["b", "c", "d", "e", "f"],
            "Readers see data of run b, run c, run d and 2 more, published until "
            "2026-11-30 04:05 UTC.",
        ),
    ],
)
def test_which_data_readers_see_is_said_in_one_sentence(run_ids: list[str], said: str) -> None:
    since = datetime(2026, 11, 30, 4, 5, tzinfo=UTC) if run_ids else None
    assert PublishedData(run_ids=run_ids, since=since).sentence("a") == said
