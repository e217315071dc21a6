"""Times `millrace check models` on this project and on a generated one.

    uv run python benchmarks/check_models.py [--rounds N] [--models N]

Each round checks each project three times, in a process of its own: cold (nothing of an earlier
check but the compiled analyzer), after an edit of a model, and unchanged. Prints Markdown.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import sys
import tempfile
from pathlib import Path
from statistics import median

import generated_project
from measured_process import Measured, measure

REPOSITORY = Path(__file__).resolve().parents[1]
COMMAND = [sys.executable, "-m", "infrastructure.cli", "check", "models"]
CASES = ("cold", "one model edited", "unchanged")
TIMEOUT_SECONDS = 600
# The roots of the generated project, in SQL that both warehouses have.
ROOT = "select n as id, n * 7 as value from (select 1 as n union all select 2 as n) as numbers\n"


def write_generated(folder: Path, models: int) -> None:
    """Write the generated project: its models have two columns, and two tests each."""
    project = generated_project.models(3 * models)
    generated_project.write(folder / "dbt", project)
    for model in project:
        if not model.parents:
            (folder / "dbt" / "models" / "roots" / f"{model.name}.sql").write_text(ROOT)


def check(folder: Path) -> Measured:
    """Check a project.

    Raises:
        SystemExit: the check failed, or found something.
    """
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("MILLRACE_")}
    environment = inherited | {"MILLRACE_PROJECT_DIR": str(folder), "PYTHONPATH": str(REPOSITORY)}
    log = folder / "log"
    measured = measure(COMMAND, folder, environment, log, TIMEOUT_SECONDS)
    if measured.exit_code != 0:
        sys.exit(log.read_text())
    return measured


def measure_cases(folder: Path) -> dict[str, Measured]:
    """Check a project from scratch, after an edit, and unchanged."""
    shutil.rmtree(folder / ".local", ignore_errors=True)
    found = {"cold": check(folder)}
    edited = min((folder / "dbt" / "models").rglob("*.sql"))
    edited.write_text(edited.read_text() + "-- edited\n")
    found["one model edited"] = check(folder)
    found["unchanged"] = check(folder)
    return found


def main(rounds: int, models: int) -> None:
    """Measure and print."""
    work = Path(tempfile.mkdtemp(prefix="millrace-benchmark-"))
    try:
        this, generated = work / "this", work / "generated"
        this.mkdir()
        shutil.copytree(
            REPOSITORY / "dbt", this / "dbt", ignore=shutil.ignore_patterns("target", "logs")
        )
        write_generated(generated, models)
        projects = {"this project": this, f"{models:,} models": generated}
        check(this)  # compiles the analyzer, if this machine has not done so
        runs = {name: [measure_cases(folder) for _ in range(rounds)]
                for name, folder in projects.items()}  # fmt: skip
    finally:
        shutil.rmtree(work)
    print(
        f"{os.cpu_count()} cores, Python {platform.python_version()}, load of the minute before "
        f"the end {os.getloadavg()[0]:.1f}.\n"
    )
    print("| project | | wall, s | all, s | CPU, s | peak, MB |\n|---|---|---|---|---|---|")
    for name, of_project in runs.items():
        for case in CASES:
            cells = [found[case] for found in of_project]
            print(
                f"| {name} | {case} | {median(c.wall for c in cells):.1f} "
                f"| {', '.join(f'{c.wall:.1f}' for c in cells)} "
                f"| {median(c.cpu for c in cells):.1f} | {median(c.peak for c in cells):.0f} |"
            )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="How many rounds.")
    parser.add_argument("--models", type=int, default=1000, help="Models of the generated project.")
    arguments = parser.parse_args()
    main(arguments.rounds, arguments.models)
