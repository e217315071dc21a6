"""A node's hash changes with all that it is built from, and with nothing else."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from dbt.cli.main import dbtRunner

from prefect_flows.transform.code import CodeHashes
from prefect_flows.transform.results import NodeResult
from prefect_flows.transform.resume import done_before, node_entry
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


def hashes(project: Path) -> dict[str, str]:
    parsed = dbtRunner().invoke(
        [
            "parse",
            "--project-dir",
            str(project),
            "--profiles-dir",
            str(project),
            "--log-level",
            "none",
            "--log-level-file",
            "none",
            "--no-partial-parse",
        ]
    )
    assert parsed.exception is None
    manifest = parsed.result
    code = CodeHashes(manifest)  # type: ignore[arg-type]
    return {i.split(".")[2]: code.of(i) for i in manifest.nodes}  # type: ignore[union-attr]


def changed(project: Path, before: dict[str, str]) -> set[str]:
    after = hashes(project)
    return {name for name in after if after[name] != before.get(name)}


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


def test_only_what_ended_well_with_the_same_code_is_carried_over() -> None:
    class Code:
        def of(self, unique_id: str) -> str:
            return f"code of {unique_id}"

    def entry(name: str, status: str, **changes: object) -> dict[str, object]:
        result = NodeResult(
            unique_id=name, name=name, resource_type="model", path="", fqn=(), status=status,
            message=None, seconds=1.5, failures=None, response={"rows_affected": 3},
        )  # fmt: skip
        return {**node_entry(result, Code()), **changes}  # type: ignore[arg-type]

    done = done_before(
        [
            entry("good", "success"),
            entry("other code", "success", code="of yesterday"),
            entry("failed", "error"),
            entry("skipped", "skipped"),
            entry("failed at last", "success"),
            entry("failed at last", "error"),
            entry("passed at last", "error"),
            entry("passed at last", "pass"),
            {"stage": "ingest-a", "record": {"rows": {"t": 1}}},
        ],
        Code(),  # type: ignore[arg-type]
    )

    assert set(done.nodes) == {"good", "passed at last"}
    assert done.nodes["good"].resumed
    assert done.nodes["good"].rows == 3
    assert done.changed == ["other code"]
    assert done.records == {"ingest-a": {"rows": {"t": 1}}}
    assert len(done.entries) == 3
