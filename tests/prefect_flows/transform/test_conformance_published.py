"""Nodes end in a target that publishes as they do at dbt's command line.

In the pipeline's place, every model, seed and snapshot is published. Readers see dbt's rows of a
run that passed.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.support.conformance.on_postgres import OnPostgres
from tests.support.conformance.project import Doors, Scenario, Strategy
from tests.support.conformance.scenarios import SCENARIOS
from tests.support.conformance.truth import Truth, differences
from tests.support.project import Project

pytestmark = pytest.mark.conformance

# Between them, each kind of trouble, and both strategies. The others run each night.
EACH_TIME = ("sound-run_then_test", "everything-build")
SCHEMAS = ("conformance.", "conformance_marts.", "conformance_seeds.", "conformance_snapshots.")


@pytest.fixture(scope="module")
def doors(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Doors:
    folder = tmp_path_factory.mktemp("published") / "millrace"
    return Doors(project, folder, OnPostgres(project), publish=True)


@pytest.mark.parametrize(
    ("scenario", "strategy"),
    [
        pytest.param(
            scenario,
            strategy,
            id=(name := f"{scenario.name}-{strategy}"),
            marks=[] if name in EACH_TIME else [pytest.mark.nightly],
        )
        for scenario in SCENARIOS
        for strategy in scenario.strategies
    ],
)
def test_nodes_end_alike_in_a_target_that_publishes(
    doors: Doors, scenario: Scenario, strategy: Strategy
) -> None:
    if scenario.again is not None:
        # A run without tests would publish nothing.
        scenario = replace(scenario, again=tuple(s for s in scenario.again if s != "test"))
    for dbt, pipeline in doors.compared(scenario, strategy):
        published = not pipeline.failed
        found = "\n".join(
            differences(_rows_of_readers(dbt, published), _rows_of_readers(pipeline, published))
        )
        assert not found, f"{found}\n\n{dbt.said}\n\n{pipeline.said}"


def _rows_of_readers(truth: Truth, published: bool) -> Truth:
    """The truth with the rows of what readers query, if they are published; else without any.

    A view is published as a table, and keys and indexes are those of another table.
    """
    relations = {
        name: replace(
            relation,
            kind="any",
            columns=tuple(
                (column, kind.removesuffix(" not null")) for column, kind in relation.columns
            ),
            layout=(),
            definition=None,
        )
        for name, relation in truth.relations.items()
        if published and name.startswith(SCHEMAS)
    }
    return replace(truth, relations=relations)
