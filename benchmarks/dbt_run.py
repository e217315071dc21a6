"""The pipeline beside `dbt build` and beside its peers, on generated dbt projects.

    uv run python benchmarks/dbt_run.py [--peers] [--sizes 10,300,3000] [--rounds 5]
        [--contestants dbt,pipeline,…] [--markdown FILE] [--json FILE]

Everything is made in a temporary folder, with a Postgres and a Prefect server of its own, and with
virtual environments of their own for the peers. Each contestant is a whole process, from its start
to its exit, on the same project, the same servers and the same number of threads; it starts with an
empty database and a warm partial parse. The contestants alternate, so that what else the machine
does hits them all. After every run the database is asked whether each table was built and each test
read it; a run that did not do so has no time.

The unmeasured first run of each goes through a proxy that counts what it sends to the Prefect API.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from contestants import CONTESTANTS, Contestant
from counting_proxy import counting_proxy
from ground import BenchmarkError, Ground, Place
from measured_process import measure
from report import Result, Run, about_this_machine, as_json, markdown, print_table
from rich.console import Console

console = Console()


@dataclass(frozen=True)
class Options:
    """What the command line says."""

    sizes: list[int]
    rounds: int
    contestants: list[Contestant]
    timeout_seconds: float
    work: Path | None
    markdown: Path | None
    json: Path | None


def main() -> None:
    """Measure and report."""
    options = _options()
    results: list[Result] = []
    about = about_this_machine()  # before the benchmark itself is what it does
    console.print(about, soft_wrap=True, highlight=False)
    with _work_folder(options.work) as work, Ground(work) as ground:
        known = ground.run(ground.folder, "prefect_flows/pipeline.py", "--help")
        contestants = [c for c in options.contestants if c.needs is None or c.needs in known]
        refused = _install_peers(contestants, work)
        for nodes in options.sizes:
            results += _compare(ground.place(nodes), contestants, refused, options)
            print_table(console, nodes, results)
            # After each size, so that what took hours is not lost with what fails after it.
            if options.markdown:
                options.markdown.write_text(markdown(about, results))
            if options.json:
                options.json.write_text(as_json(about, results))


def _compare(
    place: Place, contestants: list[Contestant], refused: dict[str, str], options: Options
) -> list[Result]:
    """Run the contestants in turns, and return what each took."""
    results = [
        Result(place.nodes, c.name, c.what, failure=refused.get(c.name)) for c in contestants
    ]
    for number in range(options.rounds + 1):
        for contestant, result in zip(contestants, results, strict=True):
            if result.failure is not None:
                continue
            try:
                if number == 0:
                    _warm_up(contestant, place, result, options.timeout_seconds)
                    seen = "warm"
                else:
                    run = _run(contestant, place, {}, options.timeout_seconds)
                    result.runs.append(run)
                    seen = f"{run.wall:.1f} s"
            except BenchmarkError as error:
                result.failure = seen = str(error)
            line = f"{place.nodes} nodes, round {number} of {options.rounds}, {contestant.name}"
            console.print(f"{line}: {seen}", soft_wrap=True, markup=False, highlight=False)
    return results


def _warm_up(contestant: Contestant, place: Place, result: Result, timeout_seconds: float) -> None:
    """Make what the first run makes, and count what a run sends to the Prefect API."""
    contestant.prepare(place, contestant.environment(place))
    if contestant.keeps:
        _run(contestant, place, {}, timeout_seconds)
    with counting_proxy(place.ground.prefect_port) as (url, sent):
        api = {
            "PREFECT_API_URL": url,
            "PREFECT_API_AUTH_STRING": place.ground.auth_string,
            # The plugin sends the local server's password to no other address, nor to the proxy's.
            "PREFECT_PLUGINS_ENABLED": "false",
        }
        _run(contestant, place, api, timeout_seconds)
    if contestant.reports:
        result.count(sent)


def _run(
    contestant: Contestant, place: Place, variables: dict[str, str], timeout_seconds: float
) -> Run:
    """Run a contestant once, and see that it did what its time will stand for."""
    if not contestant.keeps:
        place.empty(contestant.target)
    elif contestant.rebuilds:
        place.forget_reads(contestant.target)
    log = place.folder / "logs" / f"{contestant.name}.log"
    environment = contestant.environment(place) | variables
    command, cwd = contestant.command(place), contestant.cwd(place)
    took = measure(command, cwd, environment, log, timeout_seconds)
    if took.exit_code is None:
        raise BenchmarkError(f"> {timeout_seconds:.0f} s")
    if took.exit_code != 0:
        last = " ".join(log.read_text(errors="replace").split())[-300:]
        raise BenchmarkError(f"exit code {took.exit_code}: {last}")
    place.prove(contestant.target)
    first = None if contestant.keeps else place.first_model_at(contestant.target)
    return Run.of(took, first)


def _install_peers(contestants: list[Contestant], work: Path) -> dict[str, str]:
    """Install what the contestants need; the names of those that cannot take part, and why."""
    refused = {}
    for contestant in contestants:
        if contestant.peer is not None:
            try:
                contestant.peer.install(work)
            except BenchmarkError as error:
                refused[contestant.name] = str(error)
                console.print(f"{contestant.name}: {error}", soft_wrap=True, markup=False)
    return refused


@contextmanager
def _work_folder(given: Path | None) -> Iterator[Path]:
    """The folder where everything is made: a given one is kept, a temporary one is removed."""
    if given is not None:
        given.mkdir(parents=True, exist_ok=True)
        for leftover in [given / "ground", *given.glob("nodes-*")]:
            shutil.rmtree(leftover, ignore_errors=True)
        yield given.resolve()
        return
    work = Path(tempfile.mkdtemp(prefix="millrace-benchmark-"))
    work.chmod(0o755)  # for root, Postgres runs as another user
    try:
        yield work
    finally:
        shutil.rmtree(work)


def _options() -> Options:
    names = [contestant.name for contestant in CONTESTANTS]
    parser = argparse.ArgumentParser(
        description="The pipeline beside dbt build and beside its peers, on generated projects."
    )
    parser.add_argument("--sizes", default="10,300,3000", help="nodes of each project")
    parser.add_argument("--rounds", type=int, default=5, help="measured runs of each contestant")
    parser.add_argument("--contestants", default="", help=f"some of: {','.join(names)}")
    parser.add_argument("--peers", action="store_true", help="Dagster, Airflow and SQLMesh too")
    parser.add_argument(
        "--timeout", type=float, default=1200.0, help="seconds after which a run is stopped"
    )
    parser.add_argument(
        "--work", type=Path, help="a folder to work in and to keep, with the peers in it"
    )
    parser.add_argument("--markdown", type=Path, help="file to write the tables to")
    parser.add_argument("--json", type=Path, help="file to write every value to")
    given = parser.parse_args()
    wanted = given.contestants.split(",") if given.contestants else names
    unknown = sorted(set(wanted) - set(names))
    if unknown:
        parser.error(f"unknown contestants {', '.join(unknown)}; there are {', '.join(names)}")
    chosen = [
        c
        for c in CONTESTANTS
        if c.name in wanted and (c.peer is None or given.peers or given.contestants)
    ]
    return Options(
        sizes=[int(size) for size in given.sizes.split(",")],
        rounds=given.rounds,
        contestants=chosen,
        timeout_seconds=given.timeout,
        work=given.work,
        markdown=given.markdown,
        json=given.json,
    )


if __name__ == "__main__":
    try:
        main()
    except BenchmarkError as stopped:
        sys.exit(str(stopped))
