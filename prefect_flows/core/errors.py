"""Every error a person meets, in one small tree.

    MillraceError             exit code 2: nothing was changed; 1 when something was
    ├── ConfigurationError    a setting, a block, a file or a parameter is wrong
    │   ├── ContractError     Terraform's outputs do not keep the contract; lists every fault
    │   ├── BlockMissing      setup has not been run for this target
    │   ├── ProjectError      the dbt project does not parse
    │   └── SelectionError    the selection matches nothing
    ├── ServerError           a server of this machine does not start or stop
    ├── PrefectUnreachable    the Prefect API does not answer, or refuses
    ├── WarehouseUnreachable  the warehouse does not answer, or refuses the credentials
    ├── StateStoreError       the state store cannot be read or written
    │   └── DamagedFile       a file does not hold what was written to it
    ├── TargetBusy            another run of the target is under way
    ├── BackupError           a backup cannot be made, is damaged, or does not fit
    ├── IngestionError        exit code 1: a source could not be read or loaded
    ├── StageTimedOut         exit code 1: a stage did not end within its timeout
    ├── RunCancelled          exit code 130: the run was told to stop
    └── StageFailed           exit code 1: a dbt stage ran, and some of its nodes failed

Each error says what is wrong, where, and the exact command or edit that fixes it. Some are faults
of a system: a server that does not answer, a cause that may pass and did not, a stage without end.
Others are faults of data, code or configuration, and wait for whoever wrote them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from typing import ClassVar


class MillraceError(Exception):
    """What is wrong, where it is, and what fixes it.

    Attributes:
        exit_code: what a command line returns when it ends with this error.
        of_a_system: whether it is a fault of a server, and not of data, code or configuration.
        retryable: whether the same work may pass when it is tried again.
        of_sources: the sources that it kept from being brought in, each with its own error.
        rerun: the command that runs what a run of the pipeline left; none where no run had begun.
    """

    exit_code: int = 2
    of_a_system: ClassVar[bool] = False

    def __init__(self, what: str, *, where: str, fix: str, retryable: bool = False) -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.fix = fix
        self.retryable = retryable
        self.of_sources: Mapping[str, MillraceError] = {}
        self.rerun: str | None = None

    def after_changes(self) -> None:
        """Exit with 1: the error came when something had been changed already."""
        if self.exit_code == MillraceError.exit_code:
            self.exit_code = 1

    def __str__(self) -> str:
        text = f"{self.what}\n  where: {self.where}\n  fix:   {self.fix}"
        return text if self.rerun is None else f"{text}\n  rerun: {self.rerun}"


@contextmanager
def after_changes() -> Iterator[None]:
    """Let an error of what comes after changes exit with 1."""
    try:
        yield
    except MillraceError as error:
        error.after_changes()
        raise


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A question after a blank, with the most similar name; empty where none is similar."""
    similar = get_close_matches(name, list(known), n=1)
    return f" Did you mean {similar[0]!r}?" if similar else ""


class ConfigurationError(MillraceError):
    """A setting, a block, a file or a parameter is wrong."""


class ContractError(ConfigurationError):
    """Terraform's outputs do not keep the contract.

    Attributes:
        faults: one line a fault, each beginning with its path in the document.
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

    of_a_system = True


class StateStoreError(MillraceError):
    """The state store cannot be read or written."""

    of_a_system = True


class DamagedFile(StateStoreError):
    """A file of the state store, or of this machine, does not hold what was written to it."""


class TargetBusy(MillraceError):
    """Another run of the target is under way."""


class BackupError(MillraceError):
    """A backup cannot be made, or is not fit to be restored; nothing was changed."""


class IngestionError(MillraceError):
    """A source could not be read or loaded; what was loaded before stays as it was."""

    exit_code = 1


class StageTimedOut(MillraceError, TimeoutError):
    """A stage did not end within its timeout. Prefect shows a `TimeoutError` as TimedOut."""

    exit_code = 1
    of_a_system = True


class RunCancelled(MillraceError):
    """The run was told to stop, by Ctrl-C, SIGTERM or Prefect. Its next run goes on from there."""

    exit_code = 130


class StageFailed(MillraceError):
    """A dbt stage ran, and some of its nodes failed.

    Attributes:
        record: what the stage did, as the pipeline returns it.
    """

    exit_code = 1

    def __init__(
        self, what: str, *, where: str, fix: str, record: dict[str, object], retryable: bool
    ) -> None:
        super().__init__(what, where=where, fix=fix, retryable=retryable)
        self.record = record
