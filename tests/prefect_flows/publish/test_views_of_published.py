"""Views that would show readers what is built out of their sight."""

from __future__ import annotations

from types import SimpleNamespace

from prefect_flows.publish.models import PublishedModel, find_views_of_published


def node(name: str, materialized: str, *parents: str, kind: str = "model") -> SimpleNamespace:
    return SimpleNamespace(
        unique_id=name,
        name=name,
        resource_type=kind,
        config=SimpleNamespace(materialized=materialized),
        depends_on=SimpleNamespace(nodes=list(parents)),
        is_ephemeral_model=materialized == "ephemeral",
    )


def test_a_view_of_a_published_model_is_found_also_behind_an_ephemeral_one() -> None:
    nodes = [
        node("stg", "view"),
        node("fct", "table", "stg"),
        node("published_view", "view", "fct"),
        node("table_of_it", "table", "fct"),
        node("view_of_table", "view", "table_of_it"),
        node("view_of_it", "view", "stg", "fct"),
        node("inlined", "ephemeral", "fct"),
        node("view_of_inlined", "materialized_view", "inlined"),
        node("analysis", "view", "fct", kind="analysis"),
        node("test", "test", "fct", kind="test"),
    ]
    models = [
        PublishedModel(name, None, "marts", name, "default", keeps_rows=False, unique_key=())
        for name in ("fct", "published_view")
    ]
    assert find_views_of_published({n.unique_id: n for n in nodes}, models) == [
        ("view_of_inlined", "marts.fct"),
        ("view_of_it", "marts.fct"),
    ]
