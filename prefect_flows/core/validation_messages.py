"""Readable messages for pydantic validation errors, without the invalid values."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from prefect_flows.core.names import TARGET_PATTERN

_MAPPING = "must be a mapping of names to values"
_MESSAGES = {
    "extra_forbidden": "there is no such field",
    "missing": "this field is required",
    "string_type": "must be text",
    "string_too_short": "must not be empty",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "list_type": "must be a list",
    "tuple_type": "must be a list",
    "dict_type": _MAPPING,
    "mapping_type": _MAPPING,
    "model_type": _MAPPING,
    "model_attributes_type": _MAPPING,
}


def validation_message(fault: Mapping[str, Any]) -> str:
    """Format an entry of `ValidationError.errors()` without its value, which may be a secret."""
    kind, context = fault["type"], fault.get("ctx", {})
    if kind in _MESSAGES and context.get("min_length", 1) == 1:
        return _MESSAGES[kind]
    if kind == "string_pattern_mismatch" and context["pattern"] == TARGET_PATTERN:
        return (
            "not a valid target name: lowercase letters and digits, with single dashes or "
            "underscores between them, beginning with a letter (it becomes part of a block's name)"
        )
    if kind == "union_tag_invalid":
        return f"the field {context['discriminator']} must be one of {context['expected_tags']}"
    if kind == "union_tag_not_found":
        return f"the field {context['discriminator']} is required"
    message = str(fault["msg"]).removeprefix("Value error, ").replace(" after validation", "")
    return re.sub(r"^[A-Z][a-z]+ should ", "must ", message)


def format_fault(fault: Mapping[str, Any]) -> str:
    """Format an entry of `ValidationError.errors()` as `path: message`, without its value."""
    path = ".".join(str(part) for part in fault["loc"] if part != "[key]")
    return f"{path}: {validation_message(fault)}" if path else validation_message(fault)


def list_faults(error: ValidationError) -> list[str]:
    """Format every entry of a `ValidationError`."""
    return [format_fault(fault) for fault in error.errors(include_input=False)]


def format_faults(error: ValidationError) -> str:
    """Format all entries of a `ValidationError` on one line."""
    return "; ".join(list_faults(error))
