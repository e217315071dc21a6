"""Times the quickstart's commands, and the pipeline beside `dbt build` on the same project.

    uv run python benchmarks/quickstart.py [RUNS]

Works on a clone of the committed project in a temporary folder, with servers of its own and the
dependencies of this environment. The two whole processes alternate in one run, so that what else
the machine does hits both; medians are reported. Prints Markdown.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
UP = ["-m", "infrastructure.cli", "up"]
SETUP = ["-m", "infrastructure.cli", "setup"]
PIPELINE = ["prefect_flows/pipeline.py", "--target", "dev", "--source", "nyc__flights"]
DBT_BUILD = ["-m", "dbt.cli.main", "build"]
RUNS = 5


def seconds_of(clone: Path, arguments: list[str], cwd: Path | None = None) -> float:
    """Whole-process seconds of `python ARGUMENTS`."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "MILLRACE_"))}
    environment = inherited | {"PYTHONPATH": str(clone), "MILLRACE_PROJECT_DIR": str(clone)}
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd or clone,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        sys.exit(done.stdout + done.stderr)
    return time.monotonic() - started


def print_table(header: list[str], rows: list[list[str]]) -> None:
    """Print Markdown."""
    for line in [header, ["---"] * len(header), *rows]:
        print("| " + " | ".join(line) + " |")
    print()


def main(runs: int) -> None:
    """Measure and print."""
    work = Path(tempfile.mkdtemp(prefix="millrace-benchmark-"))
    work.chmod(0o755)
    clone = work / "clone"
    subprocess.run(["git", "clone", "--quiet", REPOSITORY, clone], check=True)
    try:
        commands = {"local up": UP, "setup_profiles": SETUP, "pipeline": PIPELINE}
        first = {name: seconds_of(clone, command) for name, command in commands.items()}
        second = {name: seconds_of(clone, command) for name, command in commands.items()}

        dbt: list[float] = []
        pipeline: list[float] = []
        for _ in range(runs):
            dbt.append(seconds_of(clone, DBT_BUILD, clone / "dbt"))
            pipeline.append(seconds_of(clone, [*PIPELINE, "--skip", "ingest"]))
    finally:
        seconds_of(clone, ["-m", "infrastructure.cli", "down"])
        shutil.rmtree(work)

    print(f"Python {platform.python_version()}, {os.cpu_count()} cores.\n")
    print_table(
        ["quickstart", "first, s", "second, s"],
        [[name, f"{first[name]:.1f}", f"{second[name]:.1f}"] for name in commands]
        + [["together", f"{sum(first.values()):.1f}", f"{sum(second.values()):.1f}"]],
    )
    ratio = statistics.median(pipeline) / statistics.median(dbt)
    print_table(
        [f"whole process, {runs} runs", "median, s", "all, s"],
        [
            [name, f"{statistics.median(times):.1f}", ", ".join(f"{t:.1f}" for t in times)]
            for name, times in (("dbt build", dbt), ("pipeline --skip ingest", pipeline))
        ]
        + [["pipeline / dbt build", f"{ratio:.2f}", ""]],
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=int, nargs="?", default=RUNS, help="How many runs.")
    main(parser.parse_args().runs)
