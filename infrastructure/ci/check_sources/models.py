"""Check what dbt knows about a source: tables, freshness, owner and staging models."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from infrastructure.ci.check_sources.folder import Fault, Source, UnreadableFileError
from prefect_flows.core.project_folder import shorten_path
from prefect_flows.core.settings import Settings

LOADED_AT = ("loaded_at_field", "loaded_at_query")


def _find_declaration(source: Source) -> Mapping[str, Any] | None:
    found = _mappings(source.read_yaml(source.sources_yml).get("sources"))
    named = [each for each in found if each.get("name") == source.name]
    return named[0] if len(found) == len(named) == 1 else None


def list_tables(source: Source) -> list[str]:
    """Return the tables that the source declares to dbt."""
    declared = _find_declaration(source) or {}
    return [str(each.get("name")) for each in _mappings(declared.get("tables"))]


def get_any_table(source: Source) -> bool:
    """Return whether the source loads tables on request: `tables: []`, so no staging models."""
    try:
        return (_find_declaration(source) or {}).get("tables") == []
    except UnreadableFileError:
        return False


def list_staging_models(source: Source) -> list[str]:
    """Return the names of the models in the source's staging folder."""
    return [file.stem for file in sorted((source.project / source.models).glob("**/*.sql"))]


def check_declaration(source: Source) -> Iterator[Fault]:
    """Check that one dbt source is declared, with its raw schema, an owner and freshness."""
    file = source.sources_yml
    declared = _find_declaration(source)
    if declared is None:
        yield Fault(
            file, f"it does not declare the source {source.name} alone",
            f"write sources: with one entry, name: {source.name}",
        )  # fmt: skip
        return
    if declared.get("schema") != source.schema:
        yield Fault(
            file,
            f"dbt would read schema {declared.get('schema')}",
            f"write schema: {source.schema}",
        )
    if not get_any_table(source) and not list_tables(source):
        yield Fault(
            file, "it declares no table",
            "write tables: with a name and a description; tables: [] where any table may be asked "
            "for",
        )  # fmt: skip
    config = declared.get("config") or {}
    if not (config.get("meta") or {}).get("owner"):
        yield Fault(file, "it has no owner", "write meta: {owner: …} under config, a team's name")
    each_table = [each.get("config") or {} for each in _mappings(declared.get("tables"))]
    for keys, fix in (
        (LOADED_AT, "write loaded_at_query under config, as that of nyc__flights"),
        (("freshness",), "write freshness: {warn_after: {count: 36, period: hour}} under config"),
    ):
        if not any(config.get(key) for key in keys) and not (
            each_table and all(any(table.get(key) for key in keys) for table in each_table)
        ):
            yield Fault(file, f"{' or '.join(keys)} is not declared", fix)


def check_descriptions(source: Source) -> Iterator[Fault]:
    """Check that staging models have the source's prefix, and that each has a description."""
    found = list_staging_models(source)
    if not found and get_any_table(source):
        return
    if not found:
        yield Fault(
            source.models,
            "there is no staging model",
            f"add stg_{source.name}__<table>.sql for each table",
        )
    for model in found:
        if not re.fullmatch(rf"stg_{source.name}__[a-z0-9_]+", model):
            yield Fault(
                f"{source.models}/{model}.sql",
                "the model is not called by its source and table",
                f"rename it to stg_{source.name}__<table>.sql",
            )
    named = [str(each.get("name")) for each in _models(source)]
    for model in found:
        if model not in named:
            yield Fault(source.models_yml, f"{model} is not described", "add it under models:")
    for model in named:
        if model not in found:
            yield Fault(
                source.models_yml,
                f"it describes {model}, which is not a model in this folder",
                "correct the name, or add the file",
            )


def check_switch(source: Source) -> Iterator[Fault]:
    """Check that a disabled source also disables its dbt source and models."""
    if not source.is_disabled:
        return
    # Without the default, every project has to have the variable.
    expression = f"{{{{ '{source.name}' not in var('disabled_sources', []) }}}}"
    allowed = {_normalize(expression), _normalize(expression.replace(", []", ""))}
    fix = f'write enabled: "{expression}" under its config'
    off = [(source.sources_yml, f"the source {source.name}", _find_declaration(source) or {})]
    off += [(source.models_yml, str(each.get("name")), each) for each in _models(source)]
    for file, what, document in off:
        enabled = str((document.get("config") or {}).get("enabled", ""))
        if _normalize(enabled) not in allowed:
            yield Fault(file, f"disabled_sources has it, and {what} is enabled all the same", fix)


def _normalize(expression: str) -> str:
    return "".join(expression.split()).replace('"', "'")


def _models(source: Source) -> list[Mapping[str, Any]]:
    return _mappings(source.read_yaml(source.models_yml).get("models"))


def _mappings(value: Any) -> list[Mapping[str, Any]]:
    """Return the mappings in a list; dbt itself reports entries of other types."""
    return [each for each in value if isinstance(each, Mapping)] if isinstance(value, list) else []


def check_unknown_switches(settings: Settings, off: list[str], names: list[str]) -> Iterator[Fault]:
    """Yield a fault for each name in `disabled_sources` that is not a source."""
    for name in off:
        if name not in names:
            yield Fault(
                str(shorten_path(settings.dbt_project_file, settings.project_dir)),
                f"disabled_sources has {name}, and there is no such source",
                "take the name out, or correct it",
            )
