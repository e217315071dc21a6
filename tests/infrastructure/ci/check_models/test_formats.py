"""The ways to write the result of a check."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema

from infrastructure.ci.check_models.findings import (
    CheckResult,
    Finding,
    Place,
    Unchecked,
    merge_results,
)
from infrastructure.ci.check_models.formats import format_json, format_sarif, format_text

PLACE = Place("dbt/models/a.sql", 2, 5)
FINDING = Finding(
    PLACE, "sql", 'column "idd" does not exist', "did you mean id?", "model.p.a", ("postgres",)
)
RESULT = CheckResult(
    [FINDING],
    [
        Unchecked("source.p.raw.orders", "its types are unknown", ("postgres",)),
        Unchecked("model.p.b", "its types are unknown", ("postgres",)),
    ],
    {"postgres": 12},
)
# What https://json.schemastore.org/sarif-2.1.0.json requires of a log with results.
SARIF = {
    "type": "object",
    "required": ["version", "runs"],
    "properties": {
        "version": {"const": "2.1.0"},
        "runs": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["tool", "results"],
                "properties": {
                    "columnKind": {"enum": ["utf16CodeUnits", "unicodeCodePoints"]},
                    "tool": {
                        "type": "object",
                        "required": ["driver"],
                        "properties": {
                            "driver": {
                                "type": "object",
                                "required": ["name", "rules"],
                                "properties": {
                                    "rules": {
                                        "type": "array",
                                        "uniqueItems": True,
                                        "items": {
                                            "required": ["id", "shortDescription"],
                                            "properties": {
                                                "shortDescription": {"required": ["text"]}
                                            },
                                        },
                                    }
                                },
                            }
                        },
                    },
                    "results": {
                        "type": "array",
                        "items": {
                            "type": "object",
                            "required": ["message", "ruleId", "level", "locations"],
                            "properties": {
                                "level": {"enum": ["none", "note", "warning", "error"]},
                                "message": {"required": ["text"]},
                                "locations": {
                                    "items": {
                                        "required": ["physicalLocation"],
                                        "properties": {
                                            "physicalLocation": {
                                                "required": ["artifactLocation", "region"],
                                                "properties": {
                                                    "artifactLocation": {
                                                        "properties": {
                                                            "uri": {
                                                                "type": "string",
                                                                "format": "uri-reference",
                                                            }
                                                        }
                                                    },
                                                    "region": {
                                                        "properties": {
                                                            "startLine": {"minimum": 1},
                                                            "startColumn": {"minimum": 1},
                                                        }
                                                    },
                                                },
                                            }
                                        },
                                    }
                                },
                            },
                        },
                    },
                },
            },
        },
    },
}


def test_text_shows_the_line(tmp_path: Path) -> None:
    file = tmp_path / "dbt" / "models" / "a.sql"
    file.parent.mkdir(parents=True)
    file.write_text("select\n    idd\nfrom b\n")
    assert format_text(RESULT, tmp_path) == (
        'dbt/models/a.sql:2:5: error: column "idd" does not exist [sql, postgres]\n'
        "  2 |     idd\n"
        "    |     ^\n"
        "  fix: did you mean id?\n"
        "\n"
        "not checked on postgres: raw.orders, b, because its types are unknown\n"
        "\n"
        "1 error; checked: 12 nodes for postgres."
    )


def test_text_of_a_sound_project(tmp_path: Path) -> None:
    result = CheckResult(checked={"postgres": 3, "bigquery": 3})
    assert format_text(result, tmp_path) == (
        "No errors; checked: 3 nodes for postgres, 3 nodes for bigquery."
    )


def test_json() -> None:
    document = json.loads(format_json(RESULT))
    assert document["findings"][0]["place"] == {
        "file": "dbt/models/a.sql", "line": 2, "column": 5,
    }  # fmt: skip
    assert CheckResult.from_document(document | {"lineage": {}}) == RESULT


def test_sarif() -> None:
    document = json.loads(format_sarif(RESULT, "1.2.3"))
    jsonschema.validate(document, SARIF)
    (run,) = document["runs"]
    (result,) = run["results"]
    assert run["tool"]["driver"]["rules"][result["ruleIndex"]]["id"] == result["ruleId"] == "sql"
    assert result["message"]["text"].endswith("(on postgres); fix: did you mean id?")


def test_an_error_of_both_warehouses_is_reported_once() -> None:
    other = Finding(PLACE, "sql", "Unrecognized name: idd", "", "model.p.a", ("bigquery",))
    place = Place("dbt/models/a.sql", 9, 1)
    elsewhere = Finding(place, "sql", "more", "", "model.p.a", ("bigquery",))
    unchecked = [Unchecked("model.p.b", "its types are unknown", ("bigquery",))]
    merged = merge_results([RESULT, CheckResult([other, elsewhere], unchecked, {"bigquery": 1})])
    assert [each.message for each in merged.findings] == ['column "idd" does not exist', "more"]
    assert merged.findings[0].warehouses == ("postgres", "bigquery")
    assert {each.node: each.warehouses for each in merged.unchecked} == {
        "model.p.b": ("postgres", "bigquery"), "source.p.raw.orders": ("postgres",),
    }  # fmt: skip
    assert merged.checked == {"postgres": 12, "bigquery": 1}
