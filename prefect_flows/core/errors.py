"""Every error that a user sees, with its exit code: what is wrong, where, and what fixes it.

    MillraceError             exit code 2: nothing was changed; 1 if something was
    ├── ConfigurationError    a setting, a block, a file or a parameter is wrong
    │   ├── ContractError     Terraform's outputs break the contract; lists every violation
    │   ├── BlockMissing      setup has not been run for this target
    │   ├── ProjectError      the dbt project does not parse
    │   └── SelectionError    the selection matches nothing
    ├── ServerError           a server of this machine does not start or stop
    ├── PrefectUnreachable    the Prefect API does not answer, or refuses
    ├── WarehouseUnreachable  the warehouse does not answer, or refuses the credentials
    ├── StateStoreError       the state store cannot be read or written
    │   └── CorruptFileError  a file is corrupt
    ├── TargetBusy            another run holds the target
    ├── PublishError          the built models cannot be published
    ├── BackupError           a backup cannot be made, is corrupt, or does not fit
    ├── IngestionError        exit code 1: a source could not be read or loaded
    ├── StageTimedOut         exit code 1: a stage did not end within its timeout
    ├── RunCancelled          exit code 130: the run was cancelled
    └── StageFailed           exit code 1: a dbt stage ran, and some of its nodes failed

Some errors are infrastructure errors (`is_infrastructure_error`): a server does not answer, or a
stage times out. The others are errors of data, code or configuration, which somebody has to fix.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from typing import ClassVar


class MillraceError(Exception):
    """The base of all expected errors; its message says what is wrong, where, and what fixes it.

    Attributes:
        exit_code: exit code of a command that ends with this error.
        is_infrastructure_error: whether this is an infrastructure error, not one of data, code or
            configuration.
        retryable: whether a retry may succeed.
        source_errors: name → error of each source that was not ingested because of this error.
        rerun: the command that runs the rest of a failed run; None if no run had started.
        details: further lines that a command prints before the error; None if there are none.
    """

    exit_code: int = 2
    is_infrastructure_error: ClassVar[bool] = False

    def __init__(self, what: str, *, where: str, fix: str, retryable: bool = False) -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.fix = fix
        self.retryable = retryable
        self.source_errors: Mapping[str, MillraceError] = {}
        self.rerun: str | None = None
        self.details: str | None = None

    def after_changes(self) -> None:
        """Change exit code 2 to 1, because something had already been changed."""
        if self.exit_code == MillraceError.exit_code:
            self.exit_code = 1

    def __str__(self) -> str:
        text = f"{self.what}\n  where: {self.where}\n  fix:   {self.fix}"
        return text if self.rerun is None else f"{text}\n  rerun: {self.rerun}"


@contextmanager
def after_changes() -> Iterator[None]:
    """Give an error that is raised in this context exit code 1: something was already changed."""
    try:
        yield
    except MillraceError as error:
        error.after_changes()
        raise


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return " Did you mean …?" with the most similar name; empty if none is similar."""
    similar = get_close_matches(name, list(known), n=1)
    return f" Did you mean {similar[0]!r}?" if similar else ""


class ConfigurationError(MillraceError):
    """A setting, a block, a file or a parameter is wrong."""


class ContractError(ConfigurationError):
    """Terraform's outputs break the contract.

    Attributes:
        faults: one line for each violation, which begins with its path in the document.
    """

    def __init__(self, faults: list[str], *, where: str, fix: str) -> None:
        listed = "\n".join(f"  - {fault}" for fault in faults)
        super().__init__(
            f"{len(faults)} fault(s) in Terraform's outputs:\n{listed}", where=where, fix=fix
        )
        self.faults = faults


class BlockMissing(ConfigurationError):
    """A block that setup makes does not exist for this target."""


class ProjectError(ConfigurationError):
    """The dbt project does not parse."""


class SelectionError(ConfigurationError):
    """The selection matches no node of the dbt project."""


class ServerError(MillraceError):
    """A server of this machine does not start or stop."""


class PrefectUnreachable(MillraceError):
    """The Prefect API does not answer, or refuses."""


class WarehouseUnreachable(MillraceError):
    """The warehouse does not answer, or refuses the credentials."""

    is_infrastructure_error = True


class StateStoreError(MillraceError):
    """The state store cannot be read or written."""

    is_infrastructure_error = True


class CorruptFileError(StateStoreError):
    """A file of the state store or of this machine is corrupt."""


class TargetBusy(MillraceError):
    """Another run holds the target."""


class BackupError(MillraceError):
    """A backup cannot be made or restored; nothing was changed."""


class IngestionError(MillraceError):
    """A source could not be read or loaded; rows of earlier loads are unchanged."""

    exit_code = 1


class PublishError(MillraceError):
    """The built models cannot be published; readers see what they saw before."""


class StageTimedOut(MillraceError, TimeoutError):
    """A stage did not end within its timeout; as a `TimeoutError`, Prefect shows it as TimedOut."""

    exit_code = 1
    is_infrastructure_error = True


class RunCancelled(MillraceError):
    """The run was cancelled by Ctrl-C, SIGTERM or Prefect. The next run resumes it."""

    exit_code = 130


class StageFailed(MillraceError):
    """A dbt stage ran, and some of its nodes failed.

    Attributes:
        record: what the stage did; the pipeline returns it.
    """

    exit_code = 1

    def __init__(
        self, what: str, *, where: str, fix: str, record: dict[str, object], retryable: bool
    ) -> None:
        super().__init__(what, where=where, fix=fix, retryable=retryable)
        self.record = record
