"""Classifies errors as transient, data, code, … by SQLSTATE (Postgres) or reason (BigQuery).

Only `transient` failures are retried. The class comes from the error code of the database, not from
its message. Postgres: SQLSTATE, see https://www.postgresql.org/docs/current/errcodes-appendix.html.
BigQuery: reason, see https://cloud.google.com/bigquery/docs/error-messages. Errors of other
adapters, and codes that are not listed here, count as `code` and are not retried.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from enum import StrEnum
from typing import TYPE_CHECKING, Any, TypeGuard

import psycopg2

if TYPE_CHECKING:
    from google.api_core.exceptions import GoogleAPICallError


_ITERATORS_END = (StopIteration, StopAsyncIteration, GeneratorExit)


class FailureClass(StrEnum):
    """What kind of problem caused a failure; decides whether it is retried, and who fixes it."""

    TRANSIENT = "transient"
    DATA = "data"
    CODE = "code"
    CONFIGURATION = "configuration"
    CANCELLED = "cancelled"


# SQLSTATE → class. A key of two characters stands for a whole class of codes.
POSTGRES_CAUSES = {
    "08": FailureClass.TRANSIENT,  # connection exception
    "40001": FailureClass.TRANSIENT,  # serialization failure
    "40P01": FailureClass.TRANSIENT,  # deadlock detected
    "53200": FailureClass.TRANSIENT,  # out of memory
    "53300": FailureClass.TRANSIENT,  # too many connections
    "55P03": FailureClass.TRANSIENT,  # lock not available
    "57P01": FailureClass.TRANSIENT,  # admin shutdown
    "57P02": FailureClass.TRANSIENT,  # crash shutdown
    "57P03": FailureClass.TRANSIENT,  # cannot connect now: the server is starting
    "57014": FailureClass.CANCELLED,  # query canceled
    "28": FailureClass.CONFIGURATION,  # invalid authorization
    "3D000": FailureClass.CONFIGURATION,  # database does not exist
    "3F000": FailureClass.CONFIGURATION,  # schema does not exist
    "42P01": FailureClass.CONFIGURATION,  # relation does not exist
    "42501": FailureClass.CONFIGURATION,  # insufficient privilege
    "53100": FailureClass.CONFIGURATION,  # disk full
}


# Message of a refused connection → its SQLSTATE, which libpq drops. Messages in another language
# than English match nothing, and their refusals count as transient.
POSTGRES_REFUSALS = {
    r"too many (?:clients|connections)|connection slots are reserved": "53300",
    r"the database system is ": "57P03",
    r'authentication failed|pg_hba\.conf|is not permitted to log in|role ".*" does not': "28000",
    r'database ".*" does not exist': "3D000",
    r"permission denied for database": "42501",
}


def get_sqlstate(error: psycopg2.Error) -> str | None:
    """Return the SQLSTATE of a Postgres error; None if the server sent none."""
    if error.pgcode is not None:
        return error.pgcode
    _, _, message = str(error).partition("FATAL:")
    return next(
        (code for pattern, code in POSTGRES_REFUSALS.items() if re.search(pattern, message)), None
    )


def postgres_cause(error: psycopg2.Error) -> FailureClass:
    """Classify a Postgres error by its SQLSTATE.

    A connection error without a SQLSTATE comes from the client: the connection was refused or lost.
    It counts as transient, because the pipeline has connected with the same credentials before.
    psycopg2 raises the plain `DatabaseError` if a crashing server closes the connection during a
    statement and libpq has not yet noticed.
    """
    code = get_sqlstate(error)
    if code is None:
        lost = isinstance(error, (psycopg2.OperationalError, psycopg2.InterfaceError)) or (
            type(error) is psycopg2.DatabaseError
        )
        return FailureClass.TRANSIENT if lost else FailureClass.CODE
    return POSTGRES_CAUSES.get(code) or POSTGRES_CAUSES.get(code[:2]) or FailureClass.CODE


def is_transient_refusal(error: BaseException) -> bool:
    """Return whether Postgres answered with a transient error, such as too many connections."""
    return any(
        isinstance(link, psycopg2.Error)
        and get_sqlstate(link) is not None
        and postgres_cause(link) is FailureClass.TRANSIENT
        for link in exception_chain(error)
    )


# Other reasons count as `code`: invalid, invalidQuery, resourcesExceeded, …
BIGQUERY_CAUSES = {
    "backendError": FailureClass.TRANSIENT,
    "internalError": FailureClass.TRANSIENT,
    "jobBackendError": FailureClass.TRANSIENT,
    "jobInternalError": FailureClass.TRANSIENT,
    "jobRateLimitExceeded": FailureClass.TRANSIENT,
    "quotaExceeded": FailureClass.TRANSIENT,
    "rateLimitExceeded": FailureClass.TRANSIENT,
    "tableUnavailable": FailureClass.TRANSIENT,  # a table that another Google product manages
    "stopped": FailureClass.CANCELLED,
    "accessDenied": FailureClass.CONFIGURATION,
    "authError": FailureClass.CONFIGURATION,
    "billingNotEnabled": FailureClass.CONFIGURATION,
    "blocked": FailureClass.CONFIGURATION,
    "notFound": FailureClass.CONFIGURATION,
    "policyViolation": FailureClass.CONFIGURATION,
    "proxyAuthenticationRequired": FailureClass.CONFIGURATION,
    "required": FailureClass.CONFIGURATION,  # 401: the request carries no credentials
}
# (module, class) of errors of Google's client that come without an answer; subclasses first.
CLIENT_CAUSES = {
    ("google.auth.exceptions", "TransportError"): FailureClass.TRANSIENT,
    ("google.auth.exceptions", "GoogleAuthError"): FailureClass.CONFIGURATION,
    ("requests.exceptions", "SSLError"): FailureClass.CONFIGURATION,
    ("requests.exceptions", "ConnectionError"): FailureClass.TRANSIENT,
    ("requests.exceptions", "Timeout"): FailureClass.TRANSIENT,
}
# HTTP status → class, for answers without a known reason, for example those of a proxy.
HTTP_CAUSES = {
    401: FailureClass.CONFIGURATION,
    403: FailureClass.CONFIGURATION,
    404: FailureClass.CONFIGURATION,
    407: FailureClass.CONFIGURATION,
    408: FailureClass.TRANSIENT,
    429: FailureClass.TRANSIENT,
}


def bigquery_cause(error: GoogleAPICallError) -> FailureClass:
    """Classify a BigQuery error by its reason, or else by its HTTP status.

    The status of a failed job (an error without a response) is ignored: the client makes it up, and
    uses 500 for every reason that it does not know.
    """
    for detail in error.errors:
        reason = detail.get("reason") if isinstance(detail, dict) else None
        if reason in BIGQUERY_CAUSES:
            return BIGQUERY_CAUSES[reason]
    if error.response is None or error.code is None:
        return FailureClass.CODE
    server_failed = error.code >= 500 and error.code != 501  # 501: not implemented
    return (
        FailureClass.TRANSIENT if server_failed else HTTP_CAUSES.get(error.code, FailureClass.CODE)
    )


def classify(error: BaseException) -> FailureClass:
    """Classify an error by the first warehouse error in its exception chain; `code` if none."""
    for link in exception_chain(error):
        cause = _classify_one(link)
        if cause is not None:
            return cause
    return FailureClass.CODE


def _classify_one(error: BaseException) -> FailureClass | None:
    """Classify one error without its chain; None if it is not an error of a warehouse."""
    if isinstance(error, psycopg2.Error):
        return postgres_cause(error)
    if is_google_api_error(error):
        return bigquery_cause(error)
    for (module, name), cause in CLIENT_CAUSES.items():
        if _is_instance(error, module, name):
            # google-auth marks an error `retryable` if its server failed rather than refused.
            return FailureClass.TRANSIENT if getattr(error, "retryable", False) else cause
    return None


def is_google_api_error(error: BaseException) -> TypeGuard[GoogleAPICallError]:
    """Return whether the error is an error response of a Google API."""
    return _is_instance(error, "google.api_core.exceptions", "GoogleAPICallError")


def is_google_auth_error(error: BaseException) -> bool:
    """Return whether the error comes from google-auth, which got no access token."""
    return _is_instance(error, "google.auth.exceptions", "GoogleAuthError")


def _is_instance(error: BaseException, module: str, name: str) -> bool:
    """Return whether the error is an instance of a class, without importing the class's module.

    Importing `google.api_core.exceptions` takes 80 ms. If the module is not loaded, no instance of
    its class can exist.
    """
    loaded: Any = sys.modules.get(module)
    return loaded is not None and isinstance(error, getattr(loaded, name))


def exception_chain(error: BaseException) -> Iterator[BaseException]:
    """Yield the error and its causes, outermost first, as a traceback shows them.

    The chain ends at an exception that ends an iterator: code that handles one is unrelated to it.
    """
    link: BaseException | None = error
    while link is not None and not isinstance(link, _ITERATORS_END):
        yield link
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)


def root_cause(error: BaseException) -> BaseException:
    """Return the innermost error that explains the others.

    This is the last `__cause__`, or else the last `OSError` or psycopg2 error in its chain.
    """
    root = error
    while root.__cause__ is not None:
        root = root.__cause__
    return [root, *(e for e in exception_chain(root) if isinstance(e, (OSError, psycopg2.Error)))][
        -1
    ]
