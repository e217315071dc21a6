"""Generate the reference of settings, Terraform outputs and flow parameters from JSON schemas."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
from itertools import pairwise
from typing import Any

from prefect import Flow
from prefect.utilities.callables import parameter_schema
from pydantic import BaseModel

from infrastructure.ci.reference.markdown import escape_cell
from infrastructure.setup_profiles import contract
from prefect_flows.core.errors import ConfigurationError
from prefect_flows.core.markup import markdown_table
from prefect_flows.core.settings import PREFIX, Settings, StagePolicies, StagePolicy
from prefect_flows.ingest import source_registry

SETTINGS_FILE = "prefect_flows/core/settings.py"
WORDS = {"string": "text", "integer": "whole number", "boolean": "true, false"}
LIMITS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}


def format_type(schema: dict[str, Any]) -> str:
    """Describe the type of a value and its limits."""
    match schema:
        case {"const": value}:
            said = f"`{value}`"
        case {"enum": choices}:
            said = ", ".join(f"`{choice}`" for choice in choices)
        case {"format": "password"}:
            said = "secret text"
        case {"$ref": path}:
            name = path.rpartition("/")[2]
            said = f"[{name}](#{name.lower()})"
        case {"anyOf": kinds} | {"oneOf": kinds}:
            words = [format_type(one) for one in kinds if one.get("type") != "null"]
            said = " or ".join(dict.fromkeys(words))
        case {"type": "array", "items": inner}:
            said = f"list of {format_type(inner)}"
        case {"type": "object", "patternProperties": patterns}:
            said = f"object of {format_type(next(iter(patterns.values())))}"
        case {"type": "object", "additionalProperties": dict() as value}:
            said = f"object of {format_type(value)}"
        case _:
            said = WORDS.get(schema.get("type", ""), schema.get("type", "anything"))
    limits = [f"{sign} {schema[limit]:g}" for limit, sign in LIMITS.items() if limit in schema]
    return ", ".join([said, *limits])


def build_rows(schema: dict[str, Any], *, prefix: str = "", where: str) -> list[list[str]]:
    """Return name, type, default and description of each property.

    Raises:
        ConfigurationError: a property has no description.
    """
    found = []
    for name, field in schema.get("properties", {}).items():
        if not field.get("description"):
            raise ConfigurationError(
                f"'{name}' has no description.",
                where=where,
                fix="say what it is: a field in a string below it, a flow's parameter under "
                "`Args:` in its docstring",
            )
        required = name in schema.get("required", [])
        default = "required" if required else _format_default(field.get("default"))
        label = f"`{prefix}{name.upper() if prefix else name}`"
        found.append([label, format_type(field), default, escape_cell(field["description"])])
    return found


def _format_default(default: Any) -> str:
    if default in (None, [], {}, ""):
        return ""
    return f"`{default if isinstance(default, str) else json.dumps(default)}`"


HEADS = ["name", "type", "default", "what it is"]


def build_model_schema(model: type[BaseModel]) -> dict[str, Any]:
    """Return the JSON schema of a model, with the strings below its fields as descriptions.

    Pydantic's `use_attribute_docstrings` does the same, and reads source files whenever the model
    is imported.
    """
    schema = model.model_json_schema()
    (definition,) = ast.parse(inspect.getsource(model)).body
    assert isinstance(definition, ast.ClassDef)  # noqa: S101
    for field, below in pairwise(definition.body):
        match field, below:
            case (
                ast.AnnAssign(target=ast.Name(id=name)),
                ast.Expr(value=ast.Constant(value=str(text))),
            ):
                schema["properties"][name]["description"] = inspect.cleandoc(text)
    return schema


def build_settings_page() -> str:
    """Generate the page of all settings."""
    schema = build_model_schema(Settings)
    # They get their own table.
    stages = schema["properties"].pop("stages")
    policies = build_model_schema(StagePolicies)["properties"]
    of_policy = list(StagePolicy.model_fields)
    return "\n\n".join([
        "# Settings",
        "Variables of the environment, or lines of `.env` in the project's folder. A deployment "
        "overrides its own with `job_variables.env`. A variable that begins with `MILLRACE_` and "
        "is none of these is refused.",
        markdown_table(
            HEADS, build_rows(schema, prefix=PREFIX, where="prefect_flows/core/settings.py")
        ),
        "## Stages",
        escape_cell(stages["description"])
        + " `MILLRACE_STAGES__DBT_RUN__RETRIES=4` changes one: the stage and its setting, in "
        "capitals, between double underscores.",
        markdown_table(
            ["setting", "type", "what it is"],
            [
                [row[0], row[1], row[3]]
                for row in build_rows(build_model_schema(StagePolicy), where=SETTINGS_FILE)
            ],
        ),
        markdown_table(
            ["stage", *(f"`{name}`" for name in of_policy), ""],
            [
                [
                    f"`{name}`",
                    *(f"{getattr(field.default, one):g}" for one in of_policy),
                    escape_cell(policies[name].get("description", "")),
                ]
                for name, field in StagePolicies.model_fields.items()
            ],
        ),
    ])  # fmt: skip


def build_outputs_page() -> str:
    """Generate the page of Terraform's outputs."""
    where = "infrastructure/setup_profiles/contract.py"
    schema = contract.Contract.model_json_schema()
    return "\n\n".join([
        "# Outputs of Terraform",
        "What every root module gives, and the embedded default; setup validates the whole "
        "document before it writes anything. [The contract](../contract.md) says what becomes "
        "of it.",
        markdown_table(HEADS, build_rows(schema, where=where)),
        *(
            f"## {name}\n\n{part['description']}\n\n"
            f"{markdown_table(HEADS, build_rows(part, where=where))}"
            for name, part in schema["$defs"].items()
        ),
    ])  # fmt: skip


def build_flows_page() -> str:
    """Generate the page of the parameters of every deployed flow."""
    parts = [
        "# Parameters of flows",
        "What a deployment's `parameters` hold, `prefect deployment run … --param` takes and the "
        "form in Prefect's UI asks for. The pipeline hands `source_arguments` on: to a source "
        "what stands under its name.",
    ]
    sources = [f"{source_registry.PACKAGE}.{name}.flow" for name in source_registry.source_names()]
    for name in ("prefect_flows.pipeline", *sources):
        for flow in vars(importlib.import_module(name)).values():
            if isinstance(flow, Flow) and flow.fn.__module__ == name:
                schema = parameter_schema(flow).model_dump(mode="json", exclude_unset=True)
                where = f"{name}: {flow.fn.__name__}"
                parts += [
                    f"## {flow.name}",
                    f"`{name}.{flow.fn.__name__}`",
                    (flow.description or "").partition("\n\nArgs:")[0].strip(),
                    markdown_table(HEADS, build_rows(schema, where=where)),
                ]
    return "\n\n".join(parts)
