"""A BigQuery REST API in front of the analyzer, with what dbt needs of it.

dbt itself sends its statements, so the analyzer checks each of them: models, contracts, snapshots,
tests, unit tests, and the scripts of incremental models.
"""

from __future__ import annotations

import csv
import datetime as dt
import http.server
import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from tests.support.bigquery.analyzer import Analyzer, Answer, SqlError, Table, to_fields
from tests.support.bigquery.stand_ins import PROJECT
from tests.support.project import serving

# The dataset in which BigQuery keeps the rows of a query.
RESULTS = "_results"


@dataclass(frozen=True)
class Statement:
    """A statement that dbt sent.

    Attributes:
        node: the unique id of dbt's node, if the statement belongs to one.
        answer: none where the analyzer refuses the statement.
        refusal: the analyzer's message.
    """

    node: str
    sql: str
    answer: Answer | None = None
    refusal: str = ""


@dataclass
class AnalyzerServer:
    """The server's address, the statements that it received, and its jobs."""

    analyzer: Analyzer
    url: str = ""
    statements: list[Statement] = field(default_factory=list)
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)

    def profile(self, dataset: str) -> dict[str, Any]:
        """Return an output of profiles.yml that leads here."""
        return {
            "type": "bigquery", "method": "oauth-secrets", "token": "made-up", "project": PROJECT,
            "dataset": dataset, "location": "US", "threads": 2, "job_retries": 0,
            "api_endpoint": self.url,
        }  # fmt: skip

    def respond(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        """Answer a request: a status and a document."""
        for wanted, pattern, respond in ROUTES:
            found = re.fullmatch(pattern, path)
            if found and method == wanted:
                return respond(self, body, *found.groups())
        return _fail(501, "notImplemented", f"Not implemented: {method} {path}")

    @property
    def datasets(self) -> set[str]:
        """The datasets that hold tables; dbt makes them with statements, which change nothing."""
        return {dataset for _, dataset, _ in self.analyzer.tables}

    def list_datasets(self, body: bytes) -> tuple[int, Any]:
        found = [{"datasetReference": _to_reference(name)} for name in sorted(self.datasets)]
        return 200, {"datasets": found}

    def list_tables(self, body: bytes, dataset: str) -> tuple[int, Any]:
        if dataset not in self.datasets:
            return _not_found(dataset)
        found = [path for path in self.analyzer.tables if path[1] == dataset]
        return 200, {"tables": [self._to_table(*path[1:]) for path in found]}

    def list_routines(self, body: bytes, dataset: str) -> tuple[int, Any]:
        return 200, {"routines": []}

    def get_routine(self, body: bytes, dataset: str, name: str) -> tuple[int, Any]:
        """There are none: dbt looks for one where it finds no table of a name."""
        return _not_found(f"{dataset}.{name}")

    def get_table(self, body: bytes, dataset: str, name: str) -> tuple[int, Any]:
        if dataset != RESULTS and (PROJECT, dataset, name) not in self.analyzer.tables:
            return _not_found(f"{dataset}.{name}")
        return 200, self._to_table(dataset, name)

    def delete_table(self, body: bytes, dataset: str, name: str) -> tuple[int, Any]:
        if (PROJECT, dataset, name) not in self.analyzer.tables:
            return _not_found(f"{dataset}.{name}")
        self.analyzer.drop_table((PROJECT, dataset, name))
        return 200, {}

    def start_job(self, body: bytes) -> tuple[int, Any]:
        job = json.loads(body)
        comment, sql = re.fullmatch(
            r"/\* (\{.*?\}) \*/\s*(.*)", job["configuration"]["query"]["query"], re.DOTALL
        ).groups()
        node = json.loads(comment).get("node", "")
        try:
            answer = self.analyzer.run(sql)
        except SqlError as error:
            self.statements.append(Statement(node, sql, refusal=str(error)))
            return _fail(400, "invalidQuery", str(error))
        self.statements.append(Statement(node, sql, answer))
        target = answer.created or (PROJECT, RESULTS, job["jobReference"]["jobId"])
        return 200, self._add_job(
            job,
            result=answer.result,
            query={
                **job["configuration"]["query"],
                "destinationTable": _to_reference(*target[1:]),
            },
            statistics={"statementType": answer.statement},
        )

    def load(self, body: bytes) -> tuple[int, Any]:
        """Load a CSV file, as dbt does with a seed: the job, an empty line, then the file."""
        header, _, content = body.partition(b"\n\n")
        job = json.loads(header)
        load = job["configuration"]["load"]
        to = load["destinationTable"]
        columns = {column["name"]: column["type"] for column in load["schema"]["fields"]}
        read = {name: READERS[kind.upper()] for name, kind in columns.items()}
        rows = [
            [None if row[name] == "" else read[name](row[name]) for name in columns]
            for row in csv.DictReader(content.decode().splitlines())
        ]
        types = {name: SQL_NAMES.get(kind.upper(), kind) for name, kind in columns.items()}
        self.analyzer.add_table((PROJECT, to["datasetId"], to["tableId"]), types, rows)
        return 200, self._add_job(job)

    def get_job(self, body: bytes, job: str) -> tuple[int, Any]:
        return 200, self.jobs[job]["job"]

    def get_rows(self, body: bytes, job: str) -> tuple[int, Any]:
        result: Table = self.jobs[job]["result"]
        rows = [{"f": [_to_cell(value) for value in row]} for row in result.rows]
        return 200, {
            "jobReference": self.jobs[job]["job"]["jobReference"],
            "jobComplete": True,
            "schema": {"fields": list(to_fields(result.columns))},
            "totalRows": str(len(rows)),
            "rows": rows,
        }

    def _add_job(
        self,
        job: dict[str, Any],
        *,
        result: Table | None = None,
        query: dict[str, Any] | None = None,
        statistics: dict[str, str] | None = None,
    ) -> dict[str, Any]:
        if query is not None:
            job["configuration"]["query"] = query
        job |= {
            "status": {"state": "DONE"},
            "statistics": {"totalBytesProcessed": "0", "query": statistics or {}},
        }
        self.jobs[job["jobReference"]["jobId"]] = {"job": job, "result": result}
        return job

    def _to_table(self, dataset: str, name: str) -> dict[str, Any]:
        if dataset == RESULTS:
            table = self.jobs[name]["result"]
        else:
            table = self.analyzer.tables[PROJECT, dataset, name]
        return {
            "tableReference": _to_reference(dataset, name),
            "type": table.kind,
            "schema": {"fields": list(to_fields(table.columns))},
            "numRows": str(len(table.content.table_data.row)),
            "lastModifiedTime": str(time.time_ns() // 1_000_000),
        }


DATASETS = rf"/bigquery/v2/projects/{PROJECT}/datasets"
JOBS = rf"/bigquery/v2/projects/{PROJECT}/jobs"
UPLOADS = rf"/(?:resumable/)?upload/bigquery/v2/projects/{PROJECT}/jobs"
ROUTES: list[tuple[str, str, Callable[..., tuple[int, Any]]]] = [
    ("GET", DATASETS, AnalyzerServer.list_datasets),
    ("GET", rf"{DATASETS}/(\w+)/tables", AnalyzerServer.list_tables),
    ("GET", rf"{DATASETS}/(\w+)/routines", AnalyzerServer.list_routines),
    ("GET", rf"{DATASETS}/(\w+)/routines/([\w-]+)", AnalyzerServer.get_routine),
    ("GET", rf"{DATASETS}/(\w+)/tables/([\w-]+)", AnalyzerServer.get_table),
    # Descriptions, which the analyzer has no use for.
    ("PATCH", rf"{DATASETS}/(\w+)/tables/([\w-]+)", AnalyzerServer.get_table),
    ("DELETE", rf"{DATASETS}/(\w+)/tables/([\w-]+)", AnalyzerServer.delete_table),
    ("POST", JOBS, AnalyzerServer.start_job),
    ("PUT", UPLOADS, AnalyzerServer.load),
    ("GET", rf"{JOBS}/([\w-]+)", AnalyzerServer.get_job),
    ("GET", rf"/bigquery/v2/projects/{PROJECT}/queries/([\w-]+)", AnalyzerServer.get_rows),
]
# The types of a seed's columns.
READERS: dict[str, Callable[[str], Any]] = {
    "STRING": str, "INTEGER": int, "INT64": int, "FLOAT": float, "FLOAT64": float,
}  # fmt: skip
SQL_NAMES = {"INTEGER": "INT64", "FLOAT": "FLOAT64"}


@contextmanager
def serve_analyzer(analyzer: Analyzer) -> Iterator[AnalyzerServer]:
    """Serve BigQuery's API on loopback."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # A body otherwise waits up to 40 ms until the client acknowledges the headers.
        disable_nagle_algorithm = True
        # An upload's first request describes the job, and its second one brings the file.
        upload = b""

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            path = urlsplit(self.path).path
            if self.command == "POST" and re.fullmatch(UPLOADS, path):
                Handler.upload = body
                self.answer(200, {}, Location=f"{server.url}{path}")
                return
            if self.command == "PUT":
                body = Handler.upload + b"\n\n" + body
            self.answer(*server.respond(self.command, path, body))

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_any  # noqa: N815 their names

        def answer(self, status: int, document: Any, **headers: str) -> None:
            content = json.dumps(document).encode()
            self.send_response(status)
            for name, value in {**headers, "Content-Type": "application/json"}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    server = AnalyzerServer(analyzer)
    with serving(Handler) as server.url:
        yield server


def _not_found(name: str) -> tuple[int, Any]:
    return _fail(404, "notFound", f"Not found: {name}")


def _fail(status: int, reason: str, message: str) -> tuple[int, Any]:
    """Write an error as Google's APIs do: https://cloud.google.com/bigquery/docs/error-messages."""
    detail = {"message": message, "domain": "global", "reason": reason}
    return status, {"error": {"code": status, "message": message, "errors": [detail]}}


def _to_reference(dataset: str, table: str | None = None) -> dict[str, str]:
    found = {"projectId": PROJECT, "datasetId": dataset}
    return found if table is None else found | {"tableId": table}


def _to_cell(value: Any) -> dict[str, Any]:
    """Write a value as the API does in JSON."""
    match value:
        case None:
            return {"v": None}
        case bool():
            return {"v": str(value).lower()}
        case list():
            return {"v": [_to_cell(element) for element in value]}
        case dt.datetime() if value.tzinfo:
            return {"v": str((value - dt.datetime.fromtimestamp(0, dt.UTC)) // MICROSECOND)}
        case dt.date():
            return {"v": value.isoformat()}
    return {"v": str(value)}


MICROSECOND = dt.timedelta(microseconds=1)
