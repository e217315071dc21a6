"""The dashboard: it has what Grafana needs, and asks only for metrics that there are."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml

from prefect_flows.reporting.metrics.exposition import METRICS
from tests.support.project import REPOSITORY

FILE = REPOSITORY / "infrastructure" / "platforms" / "grafana" / "millrace.json"
DASHBOARD: dict[str, Any] = json.loads(FILE.read_text())
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]
EXPRESSIONS = [
    *(query["expr"] for panel in PANELS for query in panel.get("targets", [])),
    *(annotation["expr"] for annotation in DASHBOARD["annotations"]["list"]),
]


def test_every_metric_is_asked_for_and_no_other() -> None:
    text = " ".join([*EXPRESSIONS, json.dumps(DASHBOARD["templating"])])
    asked = set(re.findall(r"millrace_\w+", text))
    assert asked <= set(METRICS), "a query of what nobody exposes shows nothing"
    # What alerts are made of, and no picture.
    assert set(METRICS) - asked == {"millrace_run_whole", "millrace_state_faults"}


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_every_query_is_of_the_chosen_targets_and_of_labels_that_there_are(expression: str) -> None:
    assert 'target=~"$target"' in expression
    (metric,) = set(re.findall(r"millrace_\w+", expression))
    labels = set(METRICS[metric][1])
    matched = re.findall(r"[{,]\s*(\w+)\s*=?[=!~]", expression)
    grouped = [
        name for names in re.findall(r"by \(([^)]*)\)", expression) for name in names.split(", ")
    ]
    assert {*matched, *grouped} <= labels


def test_promtool_takes_every_query(tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("no promtool on the PATH: nobody parsed the queries of the dashboard")
    rules = [
        {"record": f"query:{number}", "expr": expression.replace("$target", "dev|prod")}
        for number, expression in enumerate(EXPRESSIONS)
    ]
    file = tmp_path / "rules.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}))
    done = subprocess.run(
        [promtool, "check", "rules", str(file)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(rules)} rules found" in done.stdout


def test_it_has_the_fields_that_grafana_needs() -> None:
    assert DASHBOARD["uid"] == "millrace"
    assert DASHBOARD["title"]
    assert DASHBOARD["schemaVersion"] >= 36
    assert "id" not in DASHBOARD, "one that is imported gets its id there"
    assert {"time", "timezone", "annotations", "templating", "editable"} <= set(DASHBOARD)
    source, target = DASHBOARD["templating"]["list"]
    assert (source["type"], source["query"]) == ("datasource", "prometheus")
    assert (target["name"], target["multi"], target["includeAll"]) == ("target", True, True)
    ids = [panel["id"] for panel in PANELS]
    assert len(ids) == len(set(ids))
    for panel in PANELS:
        assert {"id", "type", "title", "gridPos"} <= set(panel)
        if panel["type"] == "row":
            continue
        assert {"datasource", "fieldConfig", "options", "targets"} <= set(panel)
        assert panel["targets"]
        references = [query["refId"] for query in panel["targets"]]
        assert len(references) == len(set(references))
        for part in (panel, *panel["targets"]):
            # No data source of somebody's own.
            assert part["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


def test_no_panel_lies_over_another() -> None:
    for one, other in combinations([panel["gridPos"] for panel in PANELS], 2):
        assert one["x"] + one["w"] <= 24
        apart = (
            one["x"] + one["w"] <= other["x"]
            or other["x"] + other["w"] <= one["x"]
            or one["y"] + one["h"] <= other["y"]
            or other["y"] + other["h"] <= one["y"]
        )
        assert apart, (one, other)
