"""Why something failed: a class, taken from the database's own error code and never from prose.

Only `transient` causes are tried again. Codes of Postgres are SQLSTATEs, listed in
https://www.postgresql.org/docs/current/errcodes-appendix.html. An error of another adapter
counts as `code` until its codes are known here: it is reported, and not retried.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum

import psycopg2


class Cause(StrEnum):
    """Class of a failure."""

    TRANSIENT = "transient"
    DATA = "data"
    CODE = "code"
    CONFIGURATION = "configuration"
    CANCELLED = "cancelled"


# Two characters are a whole class of codes.
POSTGRES_CAUSES = {
    "08": Cause.TRANSIENT,  # connection exception
    "40001": Cause.TRANSIENT,  # serialization failure
    "40P01": Cause.TRANSIENT,  # deadlock detected
    "53200": Cause.TRANSIENT,  # out of memory
    "53300": Cause.TRANSIENT,  # too many connections
    "55P03": Cause.TRANSIENT,  # lock not available
    "57P01": Cause.TRANSIENT,  # admin shutdown
    "57P02": Cause.TRANSIENT,  # crash shutdown
    "57P03": Cause.TRANSIENT,  # cannot connect now: the server is starting
    "57014": Cause.CANCELLED,  # query canceled
    "28": Cause.CONFIGURATION,  # invalid authorization
    "3D000": Cause.CONFIGURATION,  # database does not exist
    "3F000": Cause.CONFIGURATION,  # schema does not exist
    "42P01": Cause.CONFIGURATION,  # relation does not exist
    "42501": Cause.CONFIGURATION,  # insufficient privilege
    "53100": Cause.CONFIGURATION,  # disk full
}


def postgres_cause(error: psycopg2.Error) -> Cause:
    """Class of an error of Postgres.

    An error without a code came from the client's side of a connection: it was refused or lost.
    The pipeline has connected with the same credentials just before, so the server went away.
    """
    code = error.pgcode
    if code is None:
        lost = isinstance(error, (psycopg2.OperationalError, psycopg2.InterfaceError))
        return Cause.TRANSIENT if lost else Cause.CODE
    return POSTGRES_CAUSES.get(code) or POSTGRES_CAUSES.get(code[:2]) or Cause.CODE


def cause_of(error: BaseException) -> Cause:
    """Class of an error, from the database error behind it."""
    for link in chain_of(error):
        if isinstance(link, psycopg2.Error):
            return postgres_cause(link)
    return Cause.CODE


def chain_of(error: BaseException) -> Iterator[BaseException]:
    """The error, then what caused it, down to the first one."""
    link: BaseException | None = error
    while link is not None:
        yield link
        link = link.__cause__ or link.__context__
