"""Turns dlt exceptions into errors with a fix: schema contract, warehouse or source failure."""

from __future__ import annotations

from dlt.common.exceptions import DltException, TerminalException, TransientException
from dlt.common.schema.exceptions import DataValidationError
from dlt.pipeline.exceptions import PipelineStepFailed

from prefect_flows.core.errors import IngestionError, MillraceError, WarehouseUnreachable
from prefect_flows.core.failure_class import FailureClass, classify, exception_chain, root_cause
from prefect_flows.core.hints import get_hint
from prefect_flows.core.profiles import Profile
from prefect_flows.ingest import source_registry


def translate_dlt_error(
    error: DltException, source: str, schema: str, profile: Profile
) -> MillraceError | KeyboardInterrupt:
    """Return the project's error for an exception of dlt."""
    step = error.step if isinstance(error, PipelineStepFailed) else "sync"
    chain = list(exception_chain(error))
    for link in chain:
        if isinstance(link, MillraceError):
            return link
        if isinstance(link, KeyboardInterrupt):
            return KeyboardInterrupt()
    root = root_cause(error)
    message = f"{type(root).__name__}: {str(root).strip()}"
    if step == "sync":
        # dlt's first connection: the cause is an address, a credential or a transient failure.
        return WarehouseUnreachable(
            f"Cannot connect to the warehouse of target {profile.target!r}: {message}",
            where=profile.address,
            fix=get_hint(error, profile),
            retryable=classify(error) is FailureClass.TRANSIENT,
        )
    where = f"schema {schema!r} of target {profile.target!r}"
    for link in chain:
        if isinstance(link, DataValidationError):
            return IngestionError(
                f"Source {source!r} violates the schema contract of table {link.table_name!r}: "
                f"column {link.column_name!r} is {_describe_breach(link)}.",
                where=where,
                fix=_contract_fix(link, source),
            )
    is_transient = classify(error) is FailureClass.TRANSIENT or (
        any(isinstance(link, TransientException) for link in chain)
        and not any(isinstance(link, TerminalException) for link in chain)
    )
    return IngestionError(
        f"Loading source {source!r} failed while dlt ran its step {step!r}: {message}.",
        where=where,
        fix="fix the cause and run it again; previously loaded rows are unchanged",
        retryable=is_transient,
    )


def _contract_fix(error: DataValidationError, source: str) -> str:
    if error.schema_entity == "data_type":
        # The column keeps its type, since views and models depend on it.
        return (
            "cast the column to its previous type where the source is read; "
            "or, if the change is right, load it as a table or column of another name"
        )
    return (
        "fix the source; or, if the change is right, allow it in the "
        f"schema_contract of {source_registry.get_sources_dir() / source / 'source.py'}"
    )


def _describe_breach(error: DataValidationError) -> str:
    if error.schema_entity == "columns":
        return "new"
    if error.schema_entity == "data_type":
        return "of a different type"
    return "in a table that is new"
