"""Base model of the contract: no unknown fields, no type coercion."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Text = Annotated[str, Field(min_length=1)]


class Strict(BaseModel):
    """Part of Terraform's outputs."""

    # The string below a field is its description in documentation/reference/outputs.md.
    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True
    )
