"""What the models of the contract have in common: nothing unknown, nothing converted."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Text = Annotated[str, Field(min_length=1)]


class Strict(BaseModel):
    """A part of Terraform's outputs."""

    # What stands below a field is its description: documentation/reference/outputs.md.
    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True
    )
