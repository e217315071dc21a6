"""Write the result of a check: for people, as JSON, or as SARIF for code scanning."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from infrastructure.ci.check_models.findings import RULES, CheckResult, Finding
from prefect_flows.core.documents import DocumentError, parse_json, read_text
from prefect_flows.core.errors import ConfigurationError
from prefect_flows.reporting.column_lineage import get_short_name

# https://docs.oasis-open.org/sarif/sarif/v2.1.0/
SARIF_VERSION = "2.1.0"
SARIF_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
MAX_NAMES = 3


def format_text(result: CheckResult, project_dir: Path) -> str:
    """Format a result as a compiler does, with the line of each error."""
    lines: list[str] = []
    for finding in result.findings:
        lines += [*_format_finding(finding, project_dir), ""]
    lines += _format_unchecked(result)
    checked = ", ".join(f"{count:,} nodes for {name}" for name, count in result.checked.items())
    errors = len(result.findings)
    end = f"{errors:,} error{'' if errors == 1 else 's'}" if errors else "No errors"
    lines.append(f"{end}; checked: {checked or 'nothing'}.")
    return "\n".join(lines)


def _format_finding(finding: Finding, project_dir: Path) -> Iterator[str]:
    place = finding.place
    where = ", ".join(finding.warehouses)
    yield f"{place}: error: {finding.message} [{finding.rule}, {where}]"
    file = project_dir / place.file
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    if 0 < place.line <= len(lines):
        text = lines[place.line - 1]
        number = str(place.line)
        # A tab stays a tab, so that the mark stands below its column.
        indent = "".join(c if c == "\t" else " " for c in text[: place.column - 1])
        yield f"  {number} | {text}"
        yield f"  {' ' * len(number)} | {indent}^"
    if finding.suggestion:
        yield f"  fix: {finding.suggestion}"


def _format_unchecked(result: CheckResult) -> Iterator[str]:
    reasons: Counter[tuple[str, tuple[str, ...]]] = Counter()
    nodes: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for each in result.unchecked:
        key = each.reason, each.warehouses
        reasons[key] += 1
        nodes.setdefault(key, []).append(get_short_name(each.node))
    for (reason, warehouses), count in reasons.items():
        named = ", ".join(nodes[reason, warehouses][:MAX_NAMES])
        more = f" and {count - MAX_NAMES} more" if count > MAX_NAMES else ""
        yield f"not checked on {', '.join(warehouses)}: {named}{more}, because {reason}"
    if reasons:
        yield ""


def format_json(result: CheckResult) -> str:
    """Format a result as JSON: `findings`, `unchecked`, `checked`."""
    document = result.to_document()
    del document["lineage"]
    return json.dumps(document, indent=2)


def read_result(file: Path) -> CheckResult:
    """Read a result that was written as JSON.

    Raises:
        ConfigurationError: the file cannot be read, or holds something else.
    """
    try:
        return CheckResult.from_document(parse_json(read_text(file)) | {"lineage": {}})
    except (OSError, DocumentError, TypeError, KeyError, ValidationError) as error:
        raise ConfigurationError(
            f"The result of the SQL check cannot be read: {error}.",
            where=str(file),
            fix=f"uv run millrace check models --format json > {file}",
        ) from error


def format_sarif(result: CheckResult, version: str) -> str:
    """Format the findings as SARIF 2.1.0."""
    rules = list(RULES)
    run = {
        "tool": {
            "driver": {
                "name": "millrace check models",
                "version": version,
                "rules": [
                    {"id": rule, "shortDescription": {"text": text}} for rule, text in RULES.items()
                ],
            }
        },
        "columnKind": "unicodeCodePoints",
        "results": [_to_sarif(finding, rules.index(finding.rule)) for finding in result.findings],
    }
    return json.dumps({"$schema": SARIF_SCHEMA, "version": SARIF_VERSION, "runs": [run]}, indent=2)


def _to_sarif(finding: Finding, rule: int) -> dict[str, Any]:
    text = f"{finding.message} (on {', '.join(finding.warehouses)})"
    if finding.suggestion:
        text += f"; fix: {finding.suggestion}"
    return {
        "ruleId": finding.rule,
        "ruleIndex": rule,
        "level": "error",
        "message": {"text": text},
        "locations": [
            {
                "physicalLocation": {
                    "artifactLocation": {"uri": finding.place.file},
                    "region": {
                        "startLine": finding.place.line,
                        "startColumn": finding.place.column,
                    },
                }
            }
        ],
    }
