"""What is read from a project that dbt itself has parsed."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from dbt.cli.main import dbtRunner

from prefect_flows.transform.lineage import (
    LineageNode,
    ancestors,
    build_lineage,
    get_children,
    get_parents,
    nearest,
    personal_columns,
)

PROPERTIES = {
    "version": 2,
    "groups": [
        {"name": "sales", "owner": {"name": "Sales", "email": "sales@example.org"}},
        {"name": "nameless", "owner": {"email": ["a@example.org", "b@example.org"]}},
    ],
    "sources": [
        {
            "name": "raw",
            "tables": [
                {
                    "name": "people",
                    "columns": [
                        {"name": "Email", "config": {"meta": {"pii": True}}},
                        {"name": "id", "config": {"meta": {"pii": False}}},
                    ],
                }
            ],
        }
    ],
    "models": [
        {
            "name": "stg_people",
            "config": {"group": "sales"},
            "columns": [
                {"name": "email", "data_tests": ["unique"], "config": {"meta": {"pii": "yes"}}},
                {"name": "phone", "config": {"meta": {"pii": True}}},
            ],
        },
        {"name": "passing", "config": {"group": "nameless", "materialized": "ephemeral"}},
        {"name": "mart", "config": {"group": "sales", "meta": {"owner": "ann@example.org"}}},
    ],
    "unit_tests": [
        {
            "name": "counts_people",
            "model": "mart",
            "given": [{"input": "ref('passing')", "rows": [{"id": 1}]}],
            "expect": {"rows": [{"id": 1}]},
        }
    ],
    "exposures": [
        {
            "name": "board",
            "type": "dashboard",
            "owner": {"name": "Bob", "email": "bob@example.org"},
            "depends_on": ["ref('mart')"],
        }
    ],
}
MODELS = {
    "stg_people": "select * from {{ source('raw', 'people') }}",
    "passing": "select * from {{ ref('stg_people') }}",
    "mart": "select id from {{ ref('passing') }}",
}


@pytest.fixture(scope="module")
def lineage(tmp_path_factory: pytest.TempPathFactory) -> dict[str, LineageNode]:
    folder = tmp_path_factory.mktemp("parsed")
    models = folder / "models"
    models.mkdir()
    (folder / "dbt_project.yml").write_text(
        "name: shop\nprofile: shop\nflags: {send_anonymous_usage_stats: false}\n"
    )
    output = {
        "type": "postgres", "host": "127.0.0.1", "port": 1, "user": "nobody", "password": "none",
        "dbname": "none", "schema": "shop", "threads": 1,
    }  # fmt: skip
    profile = {"shop": {"target": "dev", "outputs": {"dev": output}}}
    (folder / "profiles.yml").write_text(yaml.safe_dump(profile))
    (models / "properties.yml").write_text(yaml.safe_dump(PROPERTIES, sort_keys=False))
    for name, sql in MODELS.items():
        Path(models, f"{name}.sql").write_text(sql)
    arguments = ["parse", "--project-dir", str(folder), "--profiles-dir", str(folder)]
    done = dbtRunner().invoke([*arguments, "--log-level", "none", "--log-path", str(folder)])
    assert done.success, done.exception
    return build_lineage(done.result)


def _test_of(lineage: dict[str, LineageNode]) -> LineageNode:
    return next(node for node in lineage.values() if node.resource_type == "test")


def test_all_kinds_of_nodes_are_there(lineage: dict[str, LineageNode]) -> None:
    assert sorted(node.resource_type for node in lineage.values()) == [
        "exposure", "model", "model", "model", "source", "test", "unit_test",
    ]  # fmt: skip
    mart = lineage["model.shop.mart"]
    assert (mart.name, mart.path) == ("mart", "models/mart.sql")
    assert mart.parents == ("model.shop.passing",)
    assert mart.relation == '"none"."shop"."mart"'
    assert lineage["exposure.shop.board"].parents == ("model.shop.mart",)


def test_an_owner_is_the_nodes_own_else_its_groups(lineage: dict[str, LineageNode]) -> None:
    assert lineage["model.shop.mart"].owner == "ann@example.org"
    assert lineage["model.shop.stg_people"].owner == "Sales <sales@example.org>"
    assert lineage["model.shop.stg_people"].group == "sales"
    assert lineage["model.shop.passing"].owner == "a@example.org, b@example.org"
    assert lineage["exposure.shop.board"].owner == "Bob <bob@example.org>"
    assert lineage["source.shop.raw.people"].owner is None


def test_personal_columns_are_read_in_lower_case(lineage: dict[str, LineageNode]) -> None:
    assert lineage["source.shop.raw.people"].pii_columns == {"email"}
    assert lineage["model.shop.stg_people"].pii_columns == {"email", "phone"}
    assert lineage["model.shop.mart"].pii_columns == frozenset()
    assert personal_columns(lineage, "model.shop.mart") == {"email", "phone"}
    assert personal_columns(lineage, _test_of(lineage).unique_id) == {"email", "phone"}


def test_tests_know_what_they_are_about(lineage: dict[str, LineageNode]) -> None:
    assert _test_of(lineage).attached_to == "model.shop.stg_people"
    (unit,) = (node for node in lineage.values() if node.resource_type == "unit_test")
    assert unit.name == "counts_people"
    assert unit.attached_to == "model.shop.mart"


def test_the_graph_is_walked_both_ways(lineage: dict[str, LineageNode]) -> None:
    assert "exposure.shop.board" in get_children(lineage)["model.shop.mart"]
    assert ancestors(lineage, "exposure.shop.board") == {
        "model.shop.mart", "model.shop.passing", "model.shop.stg_people", "source.shop.raw.people",
    }  # fmt: skip
    edges = get_parents(lineage)
    # The ephemeral model was not executed: it is passed through.
    assert nearest(edges, "model.shop.mart", {"model.shop.stg_people"}) == {"model.shop.stg_people"}
