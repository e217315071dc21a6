"""Names of flow runs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from prefect.context import FlowRunContext

from prefect_flows.runtime.parameters import Parameters
from prefect_flows.runtime.run_names import describe_run, name_pipeline_run
from prefect_flows.source_flow import name_source_run


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ({}, "dev · whole"),
        ({"target": "prod", "changed": True}, "prod · whole, changed"),
        ({"select": ["fct_flights+", "tag:daily"]}, "dev · fct_flights+ tag:daily"),
        ({"sources": ["nyc__flights"]}, "dev · whole, loads nyc__flights"),
        ({"exclude": ["a"], "full_refresh": True}, "dev · whole without a, full refresh"),
        ({"failed": True}, "dev · what failed"),
        ({"from_date": "2013-03-01", "to_date": "2013-03-31"},
         "dev · whole, 2013-03-01 to 2013-03-31"),
        ({"empty": True}, "dev · whole, empty"),
        ({"select": ["a"], "sample": "3 days"}, "dev · a, sample of 3 days"),
    ],
)  # fmt: skip
def test_a_run_is_named_by_what_it_does(given: dict[str, Any], name: str) -> None:
    assert describe_run(Parameters(**given)) == name


def test_a_long_selection_is_shortened() -> None:
    assert len(describe_run(Parameters(select=["fct_flights+"] * 50))) < 80


@pytest.mark.example
@pytest.mark.parametrize(
    ("given", "pipeline", "source"),
    [
        ("brave-otter", "dev · whole", "dev · ingest nyc__flights"),
        ("backfill of March", "backfill of March", "backfill of March"),
    ],
)
def test_a_name_that_a_person_gave_stays(
    monkeypatch: pytest.MonkeyPatch, given: str, pipeline: str, source: str
) -> None:
    from prefect_flows.sources.nyc__flights.flow import ingest_nyc_flights

    context = SimpleNamespace(
        flow=ingest_nyc_flights, flow_run=SimpleNamespace(name=given), parameters={"target": "dev"}
    )
    monkeypatch.setattr(FlowRunContext, "get", lambda: context)
    assert name_pipeline_run() == pipeline
    assert name_source_run() == source
