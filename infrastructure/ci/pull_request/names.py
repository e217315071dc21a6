"""Names of a pull request's schema and folder, and the owner that is stored on the schema."""

from __future__ import annotations

import json
import re
from datetime import datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from prefect_flows.core.errors import ConfigurationError
from prefect_flows.core.settings import Settings

# Variable that makes dbt's `generate_schema_name` put every model into the target's schema.
ONE_SCHEMA = "one_schema"
# Largest number that Postgres accepts as the key of an advisory lock.
MAX_NUMBER = 2**31 - 1
_SCHEMA = re.compile(r"ci_([1-9][0-9]{0,9})")


def get_schema(number: int) -> str:
    """Return the schema, or dataset, of a pull request."""
    return f"ci_{number}"


def parse_number(schema: str) -> int | None:
    """Return the pull request of a schema, or None if the name is not exactly `ci_<number>`."""
    found = _SCHEMA.fullmatch(schema)
    number = int(found[1]) if found else None
    return number if number is not None and number <= MAX_NUMBER else None


def get_folder(settings: Settings, number: int) -> Path:
    """Return the folder of a pull request's builds."""
    return settings.local_dir / "pull_request" / str(number)


class SchemaOwner(BaseModel):
    """Owner of a CI schema, stored as its comment (Postgres) or description (BigQuery).

    Attributes:
        repository: owner/name; None if the build did not know it.
        build: id of the build whose relations are in the schema.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    made_by: Literal["millrace pull request"] = "millrace pull request"
    number: int
    repository: str | None
    build: str
    built_at: datetime

    def belongs_to_another(self, repository: str | None) -> bool:
        """Return whether it belongs to another repository; False if either is unknown."""
        both = self.repository is not None and repository is not None
        return both and str(self.repository).lower() != str(repository).lower()

    @classmethod
    def parse(cls, text: str | None, schema: str) -> SchemaOwner | None:
        """Parse the owner of a schema; None if the text is not the owner of this schema."""
        try:
            owner = cls.model_validate(json.loads(text or ""))
        except (json.JSONDecodeError, ValidationError):
            return None
        return owner if schema == get_schema(owner.number) else None


def foreign_schema_error(schema: str, where: str) -> ConfigurationError:
    """Build the error for a schema with a pull request's name that Millrace did not create."""
    return ConfigurationError(
        f"The schema {schema} exists, and has no Millrace owner for this pull request.",
        where=where,
        fix=f"see what it holds; rename it, or drop it by hand, then try again: {schema} is "
        "never dropped by itself without its owner",
    )


def other_repository_error(owner: SchemaOwner, repository: str, where: str) -> ConfigurationError:
    """Build the error for a schema that a pull request of another repository uses."""
    return ConfigurationError(
        f"The schema {get_schema(owner.number)} belongs to a pull request of {owner.repository}, "
        f"not of {repository}.",
        where=where,
        fix="give the pull requests of each repository a target in a database, or a project, of "
        "its own",
    )
