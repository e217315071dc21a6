"""Files of a source in the project (`Source`), and a fault in one of them (`Fault`)."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from infrastructure.prefect_resources.deployments.prefect_yaml import FILE
from prefect_flows.core import documents
from prefect_flows.core.documents import parse_yaml, read_text
from prefect_flows.core.project_folder import ENGINE_DIR, has_engine, shorten_path
from prefect_flows.core.settings import Settings
from prefect_flows.ingest import source_registry
from prefect_flows.ingest.source_load import raw_schema

PACKAGE = "pyproject.toml"
TEMPLATE = Path("infrastructure/config/source_template")
REQUIRED = ("__init__.py", "source.py", "flow.py", FILE, PACKAGE, "Dockerfile", "README.md")
# In a clone, sources are members of the uv workspace, and can have images of their own.
ONLY_IN_CLONE = (PACKAGE, "Dockerfile")


@dataclass(frozen=True, order=True)
class Fault:
    """A problem in a file of the project, and how to fix it."""

    file: str
    what: str
    fix: str

    def __str__(self) -> str:
        return f"{self.file}: {self.what}; {self.fix}"


class UnreadableFileError(Exception):
    """A file is missing or cannot be parsed; carries the fault to report."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(str(fault))
        self.fault = fault


@dataclass(frozen=True)
class Source:
    """A folder of sources, and the source's files in other folders.

    Attributes:
        settings: settings of the project.
        name: the folder's name.
    """

    settings: Settings
    name: str

    @property
    def project(self) -> Path:
        """The project's folder."""
        return self.settings.project_dir

    @property
    def is_in_clone(self) -> bool:
        """Whether the engine's code is in the project too, so that its image is built there."""
        return has_engine(self.project)

    @property
    def folder(self) -> str:
        """The source's folder, relative to the project."""
        return self._show(self.settings.sources_dir / self.name)

    def relative_path(self, file: str) -> str:
        """Return the path of a file in the source's folder, relative to the project."""
        return f"{self.folder}/{file}"

    def _show(self, path: Path) -> str:
        return str(shorten_path(path, self.project))

    @property
    def models(self) -> str:
        """Folder of the source's staging models."""
        return self._show(self.settings.dbt_dir / "models" / "staging" / self.name)

    @property
    def sources_yml(self) -> str:
        """File that declares the source's tables to dbt."""
        return f"{self.models}/_{self.name}__sources.yml"

    @property
    def models_yml(self) -> str:
        """File that describes the source's staging models."""
        return f"{self.models}/_{self.name}__models.yml"

    @property
    def tests(self) -> str:
        """File with the source's tests, in a clone."""
        return f"tests/prefect_flows/sources/test_{self.name}.py"

    @property
    def package(self) -> str:
        """Name of the source's Python package."""
        return f"millrace-{source_registry.dashed_name(self.name)}"

    @property
    def schema(self) -> str:
        """Schema that the source is loaded into."""
        return raw_schema(self.name)

    def read_text(self, file: str) -> str:
        """Read a file.

        Raises:
            UnreadableFileError: the file is missing or is not text.
        """
        try:
            return read_text(self.project / file)
        except (OSError, documents.DocumentError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise UnreadableFileError(
                Fault(file, f"it cannot be read: {reason}", "add it")
            ) from error

    def read_yaml(self, file: str) -> Mapping[str, Any]:
        """Parse a YAML file that contains a mapping.

        Raises:
            UnreadableFileError: the file is missing, or does not contain a YAML mapping.
        """
        try:
            document = parse_yaml(self.read_text(file))
        except documents.DocumentError as error:
            raise UnreadableFileError(Fault(file, str(error), "correct it")) from error
        if not isinstance(document, Mapping):
            raise UnreadableFileError(
                Fault(file, "it does not contain a mapping", "write `key: value` lines")
            )
        return document

    def read_toml(self, file: str) -> Mapping[str, Any]:
        """Parse a TOML file.

        Raises:
            UnreadableFileError: the file is missing, or is not TOML.
        """
        try:
            return tomllib.loads(self.read_text(file))
        except tomllib.TOMLDecodeError as error:
            raise UnreadableFileError(
                Fault(file, f"it is not TOML: {error}", "correct it")
            ) from error

    def parse_python(self, file: str) -> ast.Module:
        """Parse a Python file without running it.

        Raises:
            UnreadableFileError: the file is missing, or is not valid Python.
        """
        try:
            return ast.parse(self.read_text(file))
        except SyntaxError as error:
            what = f"line {error.lineno} is not Python: {error.msg}"
            raise UnreadableFileError(Fault(file, what, "correct it")) from error

    @property
    def modules(self) -> Iterator[str]:
        """Paths of the source's Python files, relative to the project."""
        for file in sorted((self.settings.sources_dir / self.name).rglob("*.py")):
            yield self._show(file)

    @cached_property
    def is_disabled(self) -> bool:
        """Whether `disabled_sources` in `dbt_project.yml` contains this source."""
        return self.name in list_disabled_sources(self.settings)


def list_disabled_sources(settings: Settings) -> list[str]:
    """Return the sources that `dbt_project.yml` disables."""
    document = parse_yaml(read_text(settings.dbt_project_file))
    return list((document.get("vars") or {}).get("disabled_sources") or [])


def list_sources(settings: Settings) -> list[Source]:
    """Return a source for every folder in the project's folder of sources, valid or not."""
    if not settings.sources_dir.is_dir():
        return []
    return [
        Source(settings, folder.name)
        for folder in sorted(settings.sources_dir.iterdir())
        if folder.is_dir() and folder.name != "__pycache__" and not folder.name.startswith(".")
    ]


def new_source_command(settings: Settings) -> str:
    """Return the command that makes a source from the template."""
    template = TEMPLATE if has_engine(settings.project_dir) else ENGINE_DIR / TEMPLATE
    folder = shorten_path(settings.sources_dir, settings.project_dir)
    return f"uvx cookiecutter {template} --output-dir {folder}"
