"""The comment of very many models, and of names that are no plain words."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from infrastructure.ci.check_models.findings import CheckResult, Finding, Place, Unchecked
from infrastructure.ci.check_models.formats import format_json, read_result
from infrastructure.ci.pull_request.build_record import Build, ChangedNode, Failure, Rows
from infrastructure.ci.pull_request.comment import MARKER, build_comment
from infrastructure.ci.pull_request.differences import Comparison, Difference
from infrastructure.ci.pull_request.lineage_diagram import MOST_EDGES, MOST_NODES
from prefect_flows.core.errors import ConfigurationError

# GitHub's limit of a comment.
LIMIT = 65_536


def build(built: list[ChangedNode], failures: list[Failure] | None = None, **more: Any) -> Build:
    return Build(
        id="0", number=7, target="ci", production="prod", warehouse="postgres",
        schema_name="ci_7", version="0123456789ab", repository=None,
        started_at=datetime(2026, 1, 1, tzinfo=UTC), seconds=12.0,
        outcome="failed" if failures else "passed", nodes=built, failures=failures or [],
        tests={"pass": 10}, **more,
    )  # fmt: skip


def graph(parents: dict[str, list[str]]) -> dict[str, Any]:
    children: dict[str, list[str]] = {node: [] for node in parents}
    for node, above in parents.items():
        for each in above:
            children[each].append(node)
    return {"nodes": {}, "parent_map": parents, "child_map": children}


EMPTY: dict[str, Any] = graph({})


def a_thousand(letters: int) -> tuple[Build, Comparison, dict[str, Any]]:
    """A thousand models, all of which differ in everything, with long names and failures."""
    names = [f"model.millrace.{'a_long_name_' * (letters // 12)}{n:04d}" for n in range(1000)]
    built = [
        ChangedNode(
            unique_id=name, change="modified", status="success", seconds=9.0, usual_seconds=1.0,
            parts=["code", "configuration", "macros", "contract", "name", "descriptions"],
        )
        for name in names
    ]  # fmt: skip
    differences = [
        Difference(
            unique_id=name, key=["id"], rows_before=10**9, rows_after=10**9 + 1, added=2,
            removed=1, changed=10**6, notes=["a remark on it " * 30],
            changed_by_column={f"{'a_long_column_' * 4}{c}": 10**6 for c in range(50)},
            columns_added={f"added_{c}": "character varying(256)" for c in range(50)},
        )
        for name in names
    ]  # fmt: skip
    row = ["x" * 500] * 40
    rows = Rows(columns=["column_" * 20] * 40, rows=[row] * 10, hidden_columns=["e" * 90] * 9)
    failures = [
        Failure(
            unique_id=f"test.millrace.{n}", name=f"test_{n}_" * 20, resource_type="test",
            status="fail", path="models/" + "a_folder/" * 20 + "a.yml", owner="somebody " * 20,
            message="It does not hold. " * 500, failures=10**6,
            rows=rows,
        )
        for n in range(200)
    ]  # fmt: skip
    breaks = {name: ["Columns were removed: " + "a_column " * 200] for name in names}
    parents = {name: names[max(0, place - 9) : place] for place, name in enumerate(names)}
    return (
        build(built, failures, contract_breaks=breaks),
        Comparison(build="0", differences=differences),
        graph(parents),
    )


@pytest.mark.parametrize("letters", [12, 120])
def test_a_thousand_models_stay_below_the_limit_of_github(letters: int) -> None:
    made, comparison, manifest = a_thousand(letters)
    text = build_comment(made, comparison, EMPTY, manifest)
    assert len(text) < LIMIT
    # Not by leaving out nearly all: of everything there is a part, and the rest is counted.
    assert len(text) > 15_000
    assert re.search(r"And 9\d0 more: 9\d0 differs\.|And 975 more: 975 differs\.", text)
    assert "- and 19" in text
    assert "### Contract breaks" in text
    assert text.rstrip().endswith("`documentation/pull_requests.md`</sub>")
    drawn = text.partition("```mermaid\n")[2].partition("```")[0]
    assert drawn.count(":::") == MOST_NODES
    assert drawn.count("-->") <= MOST_EDGES
    assert "940 of 1,000 models are left out." in text


def test_a_thousand_models_without_a_difference_are_listed_shortly() -> None:
    built = [
        ChangedNode(unique_id=f"model.millrace.m{n}", change="downstream", status="success")
        for n in range(1000)
    ]
    differences = [
        Difference(
            unique_id=each.unique_id, key=["id"], rows_before=5, rows_after=5,
            added=0, removed=0, changed=0,
        )
        for each in built
    ]  # fmt: skip
    differences[777] = differences[777].model_copy(update={"changed": 1})
    text = build_comment(build(built), Comparison(build="0", differences=differences), EMPTY, EMPTY)
    lines = [line for line in text.splitlines() if line.startswith("| m")]
    # What differs comes first, wherever it stands in the project.
    assert lines[1].startswith("| m777 |")
    assert "And 800 more: 800 same." in text
    assert "Of 1,000 models, seeds and snapshots: 1 differ in rows or columns, 999 do not" in text


def test_nothing_in_a_name_or_a_message_is_markup() -> None:
    name = "model.millrace.a|b`<img src=x>`@somebody[x](http://y)"
    failure = Failure(
        unique_id=name, name="a|b<script>@team", resource_type="test", status="fail", path="a.yml",
        owner="@owners", message="```\n<b>@everybody</b>\n```", failures=1,
        rows=Rows(columns=["a|b"], rows=[["@x|<i>\nsecond line"]]),
    )  # fmt: skip
    built = ChangedNode(unique_id=name, change="modified", parts=["code"], status="success")
    difference = Difference(unique_id=name, notes=["<!-- --> @note"], rows_after=1)
    text = build_comment(
        build([built], [failure], contract_breaks={"a<b": ["@c"]}),
        Comparison(build="0", differences=[difference]),
        EMPTY,
        graph({name: []}),
    )
    assert text.startswith(MARKER + "\n")
    outside = re.sub(r"^(`{3,}).*?^\1", "", text[len(MARKER) :], flags=re.DOTALL | re.MULTILINE)
    assert outside.count("@") > 4
    assert not re.search(r"@\w", outside), "somebody would be called"
    allowed = {"<details>", "</details>", "<summary>", "</summary>", "<sub>", "</sub>"}
    assert set(re.findall(r"(?<!\\)<[^>]*>", outside)) <= allowed
    (line,) = (each for each in text.splitlines() if "| modified: code" in each)
    assert len(re.findall(r"(?<!\\)\|", line)) == 9
    # Mermaid's own characters are given by their numbers.
    (box,) = re.findall(r'n0\["(.*)"\]', text)
    assert not set('"<>`[]|@') & set(box.replace("<br/>", ""))


def test_errors_of_the_sql_check_are_in_the_comment() -> None:
    made, comparison, manifest = build([]), Comparison(build="0", differences=[]), EMPTY
    place = Place("dbt/models/a.sql", 3, 9)
    message = "column <idd> does not exist"
    found = Finding(place, "sql", message, "did you mean id?", "model.p.a", ("postgres",))
    unchecked = Unchecked("source.p.raw.b", "its types are unknown", ("postgres",))
    check = CheckResult([found] * 40, [unchecked], {"postgres": 3})
    text = build_comment(made, comparison, EMPTY, manifest, check)
    assert "### SQL check" in text
    assert "- `dbt/models/a.sql:3:9` (postgres): column " in text
    assert "; did you mean id?" in text
    assert "<idd>" not in text
    assert "- and 20 more" in text
    assert "- raw.b: its types are unknown" in text

    text = build_comment(made, comparison, EMPTY, manifest, CheckResult(checked={"postgres": 3}))
    assert "### SQL check\n\nNo errors in 3 nodes for postgres." in text
    assert "SQL check" not in build_comment(made, comparison, EMPTY, manifest)


def test_a_result_is_read_from_its_file(tmp_path: Path) -> None:
    file = tmp_path / "check.json"
    check = CheckResult([], [], {"postgres": 3})
    file.write_text(format_json(check))
    assert read_result(file) == check
    file.write_text("[]")
    with pytest.raises(ConfigurationError, match=r"(?s)cannot be read.*millrace check") as error:
        read_result(file)
    assert error.value.where == str(file)
