"""What a failure names is that node, and no other: dbt itself is asked what a selector selects."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from dbt.cli.main import dbtRunner

from prefect_flows.transform.repro_command import build_selector
from prefect_flows.transform.results import NodeResult, display_name
from tests.support.project import SCRATCH_DBT

NOWHERE = {"type": "postgres", "host": "/nowhere", "port": 1, "user": "u", "password": "p",
           "dbname": "d", "schema": "s", "threads": 1}  # fmt: skip
FILES = {
    # A folder called as its model, a folder called as the model beside it, and one called as both.
    "models/ledger.sql": "select 1 as id",
    "models/ledger/other.sql": "select 1 as id",
    "models/account/account.sql": "select 1 as id",
    "models/account/beside.sql": "select 1 as id",
    "models/account/account/inside.sql": "select 1 as id",
    "models/customer_v1.sql": "select 1 as id",
    "models/customer_v2.sql": "select 1 as id",
    "seeds/delivered.csv": "id\n1\n",
    "tests/ledger_is_whole.sql": "select 1 as id from {{ ref('other') }}",
    "models/properties.yml": """
models:
  - {name: customer, latest_version: 1, versions: [{v: 1}, {v: 2}],
     columns: [{name: id, data_tests: [unique]}]}
  - {name: other, columns: [{name: id, data_tests: [not_null]}]}
sources:
  - {name: raw, tables: [{name: ledger}, {name: other}]}
  - {name: cooked, tables: [{name: ledger}]}
snapshots:
  - &history
    {name: history, relation: ref('other'),
     config: {unique_key: id, strategy: check, check_cols: [id]}}
  - {<<: *history, name: history_of_all}
unit_tests:
  - {name: adds_up, model: other, given: [], expect: {rows: [{id: 1}]}}
""",
}


@pytest.mark.conformance
def test_a_selector_selects_the_node_alone(tmp_path: Path) -> None:
    project = tmp_path / "dbt"
    shutil.copytree(SCRATCH_DBT, project)
    profile = {"millrace": {"target": "test", "outputs": {"test": NOWHERE}}}
    (project / "profiles.yml").write_text(json.dumps(profile))
    for name, text in FILES.items():
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text(text)
    common = ["--project-dir", str(project), "--profiles-dir", str(project), "--log-level", "none"]
    common += ["--log-level-file", "none", "--target-path", str(tmp_path / "target")]
    parsed = dbtRunner().invoke(["parse", *common])
    assert parsed.exception is None
    manifest: Any = parsed.result

    def selected(node: Any) -> list[str]:
        kind, name = str(node.resource_type), display_name(node)
        path, fqn = node.original_file_path, tuple(node.fqn)
        result = NodeResult(node.unique_id, name, kind, path, fqn, "error", None, 0.0, None)
        keys = ["--output", "json", "--output-keys", "unique_id"]
        of_kind = ["--select", build_selector(result), "--resource-type", kind]
        listed = dbtRunner(manifest=manifest).invoke(["ls", *of_kind, *keys, *common])
        assert listed.exception is None
        return [json.loads(line)["unique_id"] for line in listed.result]  # type: ignore[union-attr]

    nodes = [*manifest.nodes.values(), *manifest.sources.values(), *manifest.unit_tests.values()]
    # dbt takes a second for each, so those whose names say the least, of every type.
    names = {"ledger", "account", "customer", "history", "delivered", "adds_up"}
    ambiguous = [node for node in nodes if node.name in names or node.name.startswith("unique_")]
    assert {str(node.resource_type) for node in ambiguous} == {
        "model", "seed", "snapshot", "source", "test", "unit_test",
    }  # fmt: skip
    assert {node.unique_id: selected(node) for node in ambiguous} == {
        node.unique_id: [node.unique_id] for node in ambiguous
    }
    models = [display_name(node) for node in nodes if str(node.resource_type) == "model"]
    assert {"customer.v1", "customer.v2"} < set(models)
    assert len(set(models)) == len(models)
