"""Check a source's folder: its name, required files, package, Dockerfile and README."""

from __future__ import annotations

import re
from collections.abc import Iterator

from infrastructure.ci.check_sources import models
from infrastructure.ci.check_sources.code import is_malformed_requirement
from infrastructure.ci.check_sources.folder import (
    ONLY_IN_CLONE,
    PACKAGE,
    REQUIRED,
    Fault,
    Source,
    new_source_command,
)

NAME_PATTERN = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*__[a-z0-9]+(_[a-z0-9]+)*")
# Postgres truncates names to 63 bytes, and `stg_<name>__<table>` must fit.
MAX_NAME_LENGTH = 40
USER = "10001:10001"


def check_name(source: Source) -> Iterator[Fault]:
    """Check that the folder is named `<owner>__<name>`."""
    folder = source.folder
    if not NAME_PATTERN.fullmatch(source.name):
        yield Fault(
            folder,
            "the folder is not named <owner>__<name> in lowercase letters, digits and single "
            "underscores",
            f"git mv {folder} {folder.removesuffix(source.name)}<owner>__<name>",
        )
    elif len(source.name) > MAX_NAME_LENGTH:
        yield Fault(
            folder,
            f"the name has {len(source.name)} characters; names of models would be cut",
            f"use {MAX_NAME_LENGTH} at most",
        )


def check_files(source: Source) -> Iterator[Fault]:
    """Check that the source has its required files, including tests and dbt models."""
    files = [file for file in REQUIRED if source.is_in_clone or file not in ONLY_IN_CLONE]
    required = [source.relative_path(file) for file in files]
    required += [source.sources_yml]
    required += [] if models.get_any_table(source) else [source.models_yml]
    required += [source.tests] if source.is_in_clone else []
    for file in required:
        if not (source.project / file).is_file():
            command = new_source_command(source.settings)
            yield Fault(file, "it is missing", f"copy that of another source, or: {command}")


def check_package(source: Source) -> Iterator[Fault]:
    """Check that the package is a member of the uv workspace and only adds dependencies."""
    if not source.is_in_clone:
        return
    file = source.relative_path(PACKAGE)
    document = source.read_toml(file)
    project, uv = document.get("project", {}), document.get("tool", {}).get("uv", {})
    if project.get("name") != source.package:
        yield Fault(
            file,
            f"the package is called {project.get('name')!r}",
            f'write name = "{source.package}" under [project]',
        )
    dependencies = project.get("dependencies", [])
    for each in filter(is_malformed_requirement, dependencies):
        yield Fault(file, f"{each!r} is not a valid dependency", 'write it like "requests>=2.32"')
    if "millrace" not in dependencies:
        yield Fault(file, "the project is not a dependency", 'write dependencies = ["millrace", …]')
    if uv.get("sources", {}).get("millrace") != {"workspace": True}:
        yield Fault(
            file,
            "the project is not taken from this workspace",
            "write millrace = { workspace = true } under [tool.uv.sources]",
        )
    if uv.get("package") is not False:
        yield Fault(
            file,
            "uv would build a package of it, and its code is part of prefect_flows",
            "write package = false under [tool.uv]",
        )


def check_image(source: Source) -> Iterator[Fault]:
    """Check that the Dockerfile extends the project's image and keeps its user."""
    if not source.is_in_clone:
        return
    file = source.relative_path("Dockerfile")
    lines = [line.split("#")[0].split() for line in source.read_text(file).splitlines()]
    instructions = {line[0].upper(): line[1:] for line in lines if line}
    if instructions.get("FROM", [])[:1] not in (["${BASE_IMAGE}"], ["$BASE_IMAGE"]):
        yield Fault(
            file,
            "it does not extend the project's image",
            "write ARG BASE_IMAGE, then FROM ${BASE_IMAGE}",
        )
    if instructions.get("USER", [USER]) != [USER]:
        yield Fault(
            file,
            f"runs would be those of user {' '.join(instructions['USER'])}",
            f"end it with USER {USER}",
        )


def check_readme(source: Source) -> Iterator[Fault]:
    """Check that the README begins with the source's name."""
    file = source.relative_path("README.md")
    if source.read_text(file).partition("\n")[0] != f"# {source.name}":
        yield Fault(file, "it does not begin with the source's name", f"write # {source.name}")
