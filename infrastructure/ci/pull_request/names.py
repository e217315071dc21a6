"""What a pull request's things are called, and the mark that says of a schema whose it is."""

from __future__ import annotations

import json
import re
from datetime import datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from prefect_flows.core.errors import ConfigurationError
from prefect_flows.core.settings import Settings

# Tells dbt's `generate_schema_name` to put every model into the target's schema.
ONE_SCHEMA = "one_schema"
# The largest that Postgres takes for the key of a lock.
MOST_NUMBER = 2**31 - 1
_SCHEMA = re.compile(r"ci_([1-9][0-9]{0,9})")


def schema_of(number: int) -> str:
    """The schema, or dataset, of a pull request."""
    return f"ci_{number}"


def number_of(schema: str) -> int | None:
    """The pull request of a schema; none where the name is not exactly `ci_<number>`."""
    found = _SCHEMA.fullmatch(schema)
    number = int(found[1]) if found else None
    return number if number is not None and number <= MOST_NUMBER else None


def folder_of(settings: Settings, number: int) -> Path:
    """Where a build leaves what `compare` reads."""
    return settings.local_dir / "pull_request" / str(number)


class SchemaOwner(BaseModel):
    """What a schema of ours carries: Postgres as its comment, BigQuery as its description.

    Attributes:
        repository: owner/name; none where the build was not told.
        build: id of the build whose relations are in the schema.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    made_by: Literal["millrace pull request"] = "millrace pull request"
    number: int
    repository: str | None
    build: str
    built_at: datetime

    def is_of_another(self, repository: str | None) -> bool:
        """Whether it is known to be of another repository than this one."""
        both = self.repository is not None and repository is not None
        return both and str(self.repository).lower() != str(repository).lower()

    @classmethod
    def read(cls, text: str | None, schema: str) -> SchemaOwner | None:
        """The mark that a schema carries; none where it is no mark, or that of another one."""
        try:
            mark = cls.model_validate(json.loads(text or ""))
        except (json.JSONDecodeError, ValidationError):
            return None
        return mark if schema == schema_of(mark.number) else None


def not_ours(schema: str, where: str) -> ConfigurationError:
    """The error of a schema that has the name of a pull request's, and not its mark."""
    return ConfigurationError(
        f"The schema {schema} exists, and does not say that it was made for this pull request.",
        where=where,
        fix=f"see what it holds; rename it, or drop it by hand, then do this again: {schema} is "
        "never dropped by itself without its mark",
    )


def of_another_repository(mark: SchemaOwner, repository: str, where: str) -> ConfigurationError:
    """The error of a schema that a pull request of another repository is built into."""
    return ConfigurationError(
        f"The schema {schema_of(mark.number)} is that of a pull request of {mark.repository}, and "
        f"not of {repository}.",
        where=where,
        fix="give the pull requests of each repository a target in a database, or a project, of "
        "its own",
    )
