"""A node's hash changes with all that it is built from, and with nothing else."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from dbt.adapters.factory import get_adapter_by_type
from dbt.cli.main import dbtRunner

from prefect_flows.transform.node_hashes import CodeHashes, find_changed_nodes
from prefect_flows.transform.results import NodeResult
from prefect_flows.transform.resume import load_resume_state, node_entry
from tests.support.project import SCRATCH_DBT

PROFILE = """
millrace:
  target: test
  outputs: {test: {type: postgres, host: /nowhere, port: 1, user: u, password: p, dbname: d,
                   schema: s, threads: 1}}
"""
TESTED = """
models:
  - name: numbers
    columns:
      - name: id
        data_tests: [{accepted_values: {name: accepted, arguments: {values: [1, 2]}}}]
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "dbt"
    shutil.copytree(SCRATCH_DBT, folder)
    (folder / "profiles.yml").write_text(PROFILE)
    (folder / "models" / "properties.yml").write_text(TESTED)
    (folder / "models" / "apart.sql").write_text("select {{ seven() }} as id")
    (folder / "macros").mkdir()
    (folder / "macros" / "seven.sql").write_text("{% macro seven() %}{{ digits(7) }}{% endmacro %}")
    (folder / "macros" / "digits.sql").write_text("{% macro digits(n) %}{{ n }}{% endmacro %}")
    (folder / "seeds").mkdir()
    (folder / "seeds" / "grown.csv").write_text("id\n1\n")
    return folder


def hashes(project: Path, **variables: object) -> dict[str, str]:
    parsed = dbtRunner().invoke(
        [
            "parse",
            "--project-dir",
            str(project),
            "--profiles-dir",
            str(project),
            "--vars",
            json.dumps(variables),
            "--log-level",
            "none",
            "--log-level-file",
            "none",
            "--no-partial-parse",
            "--maximum-seed-size-mib",
            "0",
        ]
    )
    assert parsed.exception is None
    manifest = parsed.result
    adapter: Any = get_adapter_by_type("postgres")  # type: ignore[no-untyped-call]
    code = CodeHashes(manifest, adapter.config)  # type: ignore[arg-type]
    return {i.split(".")[2]: code.get(i) for i in (*manifest.nodes, *manifest.sources)}  # type: ignore[union-attr]


def changed(project: Path, before: dict[str, str]) -> set[str]:
    after = hashes(project)
    return {name for name in after if after[name] != before.get(name)}


@pytest.mark.conformance
def test_each_change_reaches_what_is_behind_it_and_nothing_else(project: Path) -> None:
    before = hashes(project)
    assert changed(project, before) == set()

    def edit(file: str, old: str, new: str) -> set[str]:
        path = project / file
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))
        found = changed(project, before)
        path.write_text(text)
        return found

    assert edit("models/doubled.sql", "* 2", "* 3") == {"doubled"}
    assert edit("models/numbers.sql", "select 2", "select 3") == {"numbers", "doubled", "accepted"}
    assert edit("models/numbers.sql", "'table'", "'view'") == {"numbers", "doubled", "accepted"}
    assert edit("models/properties.yml", "[1, 2]", "[1, 2, 3]") == {"accepted"}
    assert edit("macros/digits.sql", "{{ n }}", "{{ n }}0") == {"apart"}
    assert edit("seeds/grown.csv", "1", "2") == {"grown"}
    assert edit("profiles.yml", "schema: s,", "schema: other,") == set(before)
    assert changed(project, before) == set()


SQL = {
    "models/of_project.sql": "select {{ var('of_project') }} as id",
    "models/of_option.sql": "select {{ var('of_option') }} as id",
    "models/inherited.sql": "select '{{ var('reads_environment') }}' as id",
    "models/made_up.sql": "select {{ var('of_' ~ 'project') }} as id",
    "models/of_environment.sql": "select '{{ env_var('CODE_TEST') }}' as id",
    "models/by_macros.sql": "select {{ outer() }} as id",
    "models/hooked.sql": "{{ config(post_hook=\"select {{ var('of_hook') }}\") }} select 1 as id",
    "models/hooked_by_macro.sql": "{{ config(post_hook='{{ of_a_hook() }}') }} select 1 as id",
    "models/by_name.sql": "select {{ by_name('named') }} as id",
    "models/tested.sql": "select 1 as id",
    "snapshots/kept.sql": "{% snapshot kept %}{{ config(unique_key='id', strategy='own') }}"
    "select 1 as id{% endsnapshot %}",
    "models/described.sql": "{{ config(persist_docs={'columns': true}) }} select 1 as id",
    "models/limited.sql": "select 1 as id",
    "models/replacing.sql": "{{ config(materialized='incremental', incremental_strategy='own') }}"
    "select 1 as id",
    "models/merged.sql": "{{ config(materialized='incremental', unique_key='id',"
    " incremental_strategy='delete+insert') }} select 1 as id",
    "models/untouched.sql": "select 'on target' as id",
    "macros/in_a_circle.sql": "{% macro outer() %}{{ inner() }}{% endmacro %}"
    "{% macro inner() %}{% if false %}{{ outer() }}{% endif %}{{ var('of_macro') }}{% endmacro %}",
    "macros/own.sql": "{% macro get_incremental_own_sql(arg_dict) %}one{% endmacro %}"
    "{% macro default__get_delete_insert_merge_sql() %}one{% endmacro %}"
    "{% macro snapshot_own_strategy(node) %}one{% endmacro %}"
    "{% macro of_a_hook() %}one{% endmacro %}{% macro named() %}one{% endmacro %}",
    "macros/by_name.sql": "{% macro by_name(name) %}{{ context[name]() }}{% endmacro %}",
    "models/properties.yml": """
models:
  - name: tested
    columns: [{name: id, data_tests: [{accepted_values:
      {name: of_test, arguments: {values: ["{{ var('of_test') }}"]}}}]}]
  - {name: described, columns: [{name: id, description: one}]}
  - {name: limited, columns: [{name: id, description: one, constraints: [{type: not_null}]}]}
sources:
  - {name: raw, tables: [{name: watched, loaded_at_field: one}]}
""",
}
VARIABLES = {"of_project": 1, "of_hook": 1, "of_macro": 1, "of_test": 1,
             "reads_environment": "{{ env_var('CODE_TEST_INSIDE') }}"}  # fmt: skip


def test_a_change_outside_of_a_node_s_own_text_reaches_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # GIVEN nodes that each depend on one thing that is not in their text
    for name in ("models", "macros", "seeds", "snapshots"):
        (tmp_path / name).mkdir()
    (tmp_path / "profiles.yml").write_text(PROFILE)
    for file, text in SQL.items():
        (tmp_path / file).write_text(text)
    # Without the option above, dbt takes the path of a larger one for its checksum.
    (tmp_path / "seeds" / "large.csv").write_text(f"id\n{'1' * 1024 * 1024}\n1\n")

    def parsed(number: int) -> dict[str, str]:
        variables = {name: number if value == 1 else value for name, value in VARIABLES.items()}
        settings = yaml.safe_load((SCRATCH_DBT / "dbt_project.yml").read_text())
        settings |= {"vars": variables, "models": {"+materialized": "table"}}
        (tmp_path / "dbt_project.yml").write_text(yaml.safe_dump(settings))
        monkeypatch.setenv("CODE_TEST", str(number))
        monkeypatch.setenv("CODE_TEST_INSIDE", str(number))
        return hashes(tmp_path, of_option=number)

    before = parsed(1)

    # WHEN all of these things change
    for file in ("macros/own.sql", "models/properties.yml"):
        text = SQL[file].replace("one", "two").replace("[{type: not_null}]", "[{type: unique}]")
        (tmp_path / file).write_text(text)
    with (tmp_path / "seeds" / "large.csv").open("r+") as seed:
        seed.seek(0, 2)
        seed.seek(seed.tell() - 2)
        seed.write("2")
    after = parsed(2)

    # THEN their nodes have, and no other
    assert {name for name in after if after[name] == before[name]} == {"tested", "untouched"}


def test_what_is_new_or_differs_has_changed() -> None:
    class Code:
        def get(self, unique_id: str) -> str:
            return f"code of {unique_id}"

    selected = {"model": ["same", "other", "new"], "test": ["same"]}
    before = {"same": "code of same", "other": "of yesterday"}
    changed = find_changed_nodes(before, selected, Code())  # type: ignore[arg-type]
    assert changed == {"model": ["other", "new"]}


LOADED = {
    "rows": {"t": 1}, "bytes": 1, "rejected_rows": 0, "extract_seconds": 0.5, "load_seconds": 1,
    "seconds": 1.5,
}  # fmt: skip
TESTED_RECORD = {
    "nodes": 1, "statuses": {"pass": 1}, "seconds": 1.0, "attempts": 1, "resumed": 0, "rows": 0,
    "bytes": 0, "failed": [], "warned": [],
}  # fmt: skip


def test_only_what_ended_well_with_the_same_code_is_carried_over() -> None:
    class Code:
        def get(self, unique_id: str) -> str:
            return f"code of {unique_id}"

    def entry(name: str, status: str, **changes: object) -> dict[str, object]:
        result = NodeResult(
            unique_id=name, name=name, resource_type="model", path="", fqn=(), status=status,
            message=None, seconds=1.5, failures=None, response={"rows_affected": 3},
        )  # fmt: skip
        return {**node_entry(result, Code()), **changes}  # type: ignore[arg-type]

    warnings: list[str] = []
    done = load_resume_state(
        [
            entry("good", "success"),
            entry("other code", "success", code="of yesterday"),
            entry("failed", "error"),
            entry("skipped", "skipped"),
            entry("failed at last", "success"),
            entry("failed at last", "error"),
            entry("passed at last", "error"),
            entry("passed at last", "pass"),
            {"stage": "ingest-a", "record": LOADED},
            entry("damaged at last", "success"),
            {**entry("damaged at last", "success"), "result": {"status": "success"}},
            {"stage": "ingest-b", "record": {}},
            {"stage": "dbt-run", "record": {"nodes": 1}},
            {"stage": "dbt-test", "record": TESTED_RECORD | {"statuses": [1]}},
            {"stage": "dbt-seed", "record": TESTED_RECORD},
        ],
        Code(),  # type: ignore[arg-type]
        warnings.append,
    )

    assert set(done.nodes) == {"good", "passed at last"}
    assert done.nodes["good"].resumed
    assert done.nodes["good"].rows == 3
    assert done.changed == ["other code"]
    assert done.records == {"ingest-a": LOADED, "dbt-seed": TESTED_RECORD}
    assert len(done.entries) == 4
    assert [warning.partition(" is corrupt")[0].rpartition(" ")[2] for warning in warnings] == [
        "last", "ingest-b", "dbt-run", "dbt-test",
    ]  # fmt: skip
