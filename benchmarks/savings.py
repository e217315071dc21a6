"""What each saving of `prefect_flows/transform/dbt_patches.py` is worth.

    uv run python benchmarks/savings.py [--nodes 300] [--rounds 5]

`dbt build` in a process of its own, on a parsed project and with an empty database: as it comes,
with each saving alone, and with all of them, in alternating rounds. Measured is the time that
`build` takes inside the process, and the processor's time, which a busy machine disturbs less.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from ground import TARGET, Ground, Place
from rich.console import Console
from rich.table import Table

SAVINGS = [
    "skip_debug_events",
    "look_up_relations_by_key",
    "look_up_names_quickly",
    "reuse_compiled_templates",
    "build_contexts_lazily",
    "read_relations_of_tests",
    "share_empty_table",
    "leave_defaults_out_of_schemas",
    "collect_garbage_rarely",
]
VARIANTS = {"dbt as it comes": [], **{name: [name] for name in SAVINGS}, "all": SAVINGS}
CHILD = """
import contextlib, json, sys, time
from dbt.cli.main import dbtRunner
from prefect_flows.transform import dbt_patches
common = json.loads(sys.argv[2])
manifest = dbtRunner().invoke(["parse", *common]).result
with contextlib.ExitStack() as contexts:
    for name in json.loads(sys.argv[1]):
        contexts.enter_context(getattr(dbt_patches, name)())
    wall, processor = time.perf_counter(), time.process_time()
    done = dbtRunner(manifest=manifest).invoke(["build", *common])
    print(json.dumps([time.perf_counter() - wall, time.process_time() - processor]))
sys.exit(not done.success)
"""


def seconds_of(place: Place, savings: list[str]) -> tuple[float, float]:
    """Wall and processor seconds of `dbt build` with some savings."""
    place.empty()
    common = [
        "--project-dir", str(place.dbt_dir), "--profiles-dir", str(place.dbt_dir),
        "--target", TARGET, "--log-level", "none", "--log-level-file", "info",
    ]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", CHILD, json.dumps(savings), json.dumps(common)],
        cwd=place.folder,
        env=place.ground.environment(place.folder),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    place.prove()
    wall, processor = json.loads(done.stdout.splitlines()[-1])
    return wall, processor


def main(nodes: int, rounds: int) -> None:
    """Measure and print a table."""
    with (
        tempfile.TemporaryDirectory(prefix="millrace-savings-") as work,
        Ground(Path(work)) as ground,
    ):
        place = ground.place(nodes)
        seconds_of(place, [])
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in VARIANTS}
        for _ in range(rounds):
            for name, savings in VARIANTS.items():
                found[name].append(seconds_of(place, savings))
    medians = {
        name: [statistics.median(values) for values in zip(*runs, strict=True)]
        for name, runs in found.items()
    }
    base = medians["dbt as it comes"]
    table = Table("dbt build, inside the process", "wall, s", "ratio", "processor, s", "ratio")
    for name, (wall, processor) in medians.items():
        table.add_row(
            name, f"{wall:.2f}", f"{wall / base[0]:.2f}", f"{processor:.2f}",
            f"{processor / base[1]:.2f}",
        )  # fmt: skip
    Console().print(f"{nodes} nodes, {rounds} rounds, medians", table)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    main(given.nodes, given.rounds)
