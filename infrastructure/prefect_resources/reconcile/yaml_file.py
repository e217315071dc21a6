"""Read and validate a YAML file of resources, and report all faults together."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from prefect_flows.core.documents import DocumentError, parse_yaml, read_text
from prefect_flows.core.errors import ConfigurationError
from prefect_flows.core.validation_messages import list_faults

Model = TypeVar("Model", bound=BaseModel)


def read(file: Path, model: type[Model]) -> Model:
    """Read a file that the option `--file` names.

    Raises:
        ConfigurationError: the file does not exist or is invalid. The error does not show invalid
            values, since one may be a secret in the wrong place.
    """
    fix = f"correct {file.name}; its comments describe the allowed keys"
    try:
        return model.model_validate(parse_yaml(read_text(file)))
    except OSError as error:
        raise ConfigurationError(
            f"{file.name} cannot be read: {error.strerror}.",
            where=str(file),
            fix="name the file with --file, or get it back from git",
        ) from error
    except DocumentError as error:
        raise ConfigurationError(
            f"{file.name} cannot be read: {error}.", where=str(file), fix=fix
        ) from error
    except ValidationError as error:
        faults = "\n".join(f"  - {fault}" for fault in list_faults(error))
        raise ConfigurationError(
            f"{error.error_count()} fault(s) in {file.name}:\n{faults}", where=str(file), fix=fix
        ) from error
