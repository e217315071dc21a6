"""Why something failed: a class, taken from the database's own error code and never from prose.

Only `transient` causes are tried again. Codes of Postgres are SQLSTATEs, listed in
https://www.postgresql.org/docs/current/errcodes-appendix.html, and those of BigQuery reasons,
listed in https://cloud.google.com/bigquery/docs/error-messages. An error of another adapter
counts as `code` until its codes are known here: it is reported, and not retried.
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
    """Class of a failure."""

    TRANSIENT = "transient"
    DATA = "data"
    CODE = "code"
    CONFIGURATION = "configuration"
    CANCELLED = "cancelled"


# Two characters are a whole class of codes.
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


# What a server says when it refuses a connection, and the code that it says it with. libpq drops
# this code, and psycopg2 has no other. A server that speaks another language than English is not
# understood, and its refusal counts as one that may pass.
POSTGRES_REFUSALS = {
    r"too many (?:clients|connections)|connection slots are reserved": "53300",
    r"the database system is ": "57P03",
    r'authentication failed|pg_hba\.conf|is not permitted to log in|role ".*" does not': "28000",
    r'database ".*" does not exist': "3D000",
    r"permission denied for database": "42501",
}


def postgres_code(error: psycopg2.Error) -> str | None:
    """SQLSTATE of an error of Postgres; none where the server did not say one."""
    if error.pgcode is not None:
        return error.pgcode
    _, _, said = str(error).partition("FATAL:")
    return next((code for words, code in POSTGRES_REFUSALS.items() if re.search(words, said)), None)


def postgres_cause(error: psycopg2.Error) -> FailureClass:
    """Class of an error of Postgres.

    An error without a code came from the client's side of a connection: it was refused or lost.
    The pipeline has connected with the same credentials just before, so the server went away.
    """
    code = postgres_code(error)
    if code is None:
        lost = isinstance(error, (psycopg2.OperationalError, psycopg2.InterfaceError))
        return FailureClass.TRANSIENT if lost else FailureClass.CODE
    return POSTGRES_CAUSES.get(code) or POSTGRES_CAUSES.get(code[:2]) or FailureClass.CODE


def is_refusal_that_may_pass(error: BaseException) -> bool:
    """Whether a server said that it takes no connections now, so that its address is right."""
    return any(
        isinstance(link, psycopg2.Error)
        and postgres_code(link) is not None
        and postgres_cause(link) is FailureClass.TRANSIENT
        for link in exception_chain(error)
    )


# A reason that is not named here counts as `code`: invalid, invalidQuery, resourcesExceeded, …
BIGQUERY_CAUSES = {
    "backendError": FailureClass.TRANSIENT,
    "internalError": FailureClass.TRANSIENT,
    "jobBackendError": FailureClass.TRANSIENT,
    "jobInternalError": FailureClass.TRANSIENT,
    "jobRateLimitExceeded": FailureClass.TRANSIENT,
    "quotaExceeded": FailureClass.TRANSIENT,
    "rateLimitExceeded": FailureClass.TRANSIENT,
    "tableUnavailable": FailureClass.TRANSIENT,  # data that another product of Google manages
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
# Errors of Google's client before it has an answer: module and class, the narrower class first.
CLIENT_CAUSES = {
    ("google.auth.exceptions", "TransportError"): FailureClass.TRANSIENT,
    ("google.auth.exceptions", "GoogleAuthError"): FailureClass.CONFIGURATION,
    ("requests.exceptions", "SSLError"): FailureClass.CONFIGURATION,
    ("requests.exceptions", "ConnectionError"): FailureClass.TRANSIENT,
    ("requests.exceptions", "Timeout"): FailureClass.TRANSIENT,
}
# For an answer that names no reason known here, such as that of a proxy on the way.
HTTP_CAUSES = {
    401: FailureClass.CONFIGURATION,
    403: FailureClass.CONFIGURATION,
    404: FailureClass.CONFIGURATION,
    407: FailureClass.CONFIGURATION,
    408: FailureClass.TRANSIENT,
    429: FailureClass.TRANSIENT,
}


def bigquery_cause(error: GoogleAPICallError) -> FailureClass:
    """Class of an error of BigQuery: of an HTTP call, or of a job that it has ended.

    The status of an HTTP answer decides where its reason is not known. That of a job does not: the
    client makes one up for it, and 500 for each reason that it does not know.
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
    """Class of an error, from the database error behind it."""
    for link in exception_chain(error):
        cause = _cause_of_link(link)
        if cause is not None:
            return cause
    return FailureClass.CODE


def _cause_of_link(error: BaseException) -> FailureClass | None:
    """Class of one error alone; none where it is no error of a warehouse."""
    if isinstance(error, psycopg2.Error):
        return postgres_cause(error)
    if is_of_google_api(error):
        return bigquery_cause(error)
    for (module, name), cause in CLIENT_CAUSES.items():
        if _is(error, module, name):
            # A refused token says so itself when its server failed, and did not refuse.
            return FailureClass.TRANSIENT if getattr(error, "retryable", False) else cause
    return None


def is_of_google_api(error: BaseException) -> TypeGuard[GoogleAPICallError]:
    """Whether Google's API answered with an error."""
    return _is(error, "google.api_core.exceptions", "GoogleAPICallError")


def is_of_google_auth(error: BaseException) -> bool:
    """Whether Google gave no token."""
    return _is(error, "google.auth.exceptions", "GoogleAuthError")


def _is(error: BaseException, module: str, name: str) -> bool:
    """Whether the error is of a module's class.

    The module is never imported for it (`google.api_core.exceptions` costs 80 ms): an error of its
    class can only exist where it has been.
    """
    loaded: Any = sys.modules.get(module)
    return loaded is not None and isinstance(error, getattr(loaded, name))


def exception_chain(error: BaseException) -> Iterator[BaseException]:
    """The error, then what caused it, down to the first one, as Python itself shows them.

    An iterator's end is no cause: whoever handles one may call anything.
    """
    link: BaseException | None = error
    while link is not None and not isinstance(link, _ITERATORS_END):
        yield link
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)


def root_cause(error: BaseException) -> BaseException:
    """The error that the others were made of.

    That is the last of those that were raised `from` each other; or the error of a system, or of
    Postgres, that it was raised for without saying so.
    """
    root = error
    while root.__cause__ is not None:
        root = root.__cause__
    return [root, *(e for e in exception_chain(root) if isinstance(e, (OSError, psycopg2.Error)))][
        -1
    ]
