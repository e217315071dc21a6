"""Limits how long a run waits for the first answer of its warehouse."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from prefect_flows.core.errors import WarehouseUnreachable
from prefect_flows.core.failure_class import root_cause
from prefect_flows.core.formatting import one_line
from prefect_flows.core.hints import get_hint
from prefect_flows.core.interrupts import time_limit
from prefect_flows.core.logger import Logger
from prefect_flows.core.profiles import Profile
from prefect_flows.core.waiting_log import log_while_waiting


@contextmanager
def limit_warehouse_wait(profile: Profile, seconds: float, log: Logger) -> Iterator[None]:
    """Limit the connection attempt in this context to `seconds`, and log every 30 s that it waits.

    Google's client would retry for ten minutes, and dbt would let it do this twice.

    Raises:
        WarehouseUnreachable: the warehouse does not answer in time.
    """
    silent = WarehouseUnreachable(
        f"The warehouse of target {profile.target!r} did not answer within {seconds:g} s.",
        where=profile.address,
        fix=f"{profile.address_hint}; or wait longer: MILLRACE_UNREACHABLE_SECONDS",
    )
    try:
        with log_while_waiting(profile.address, seconds, log), time_limit(seconds, silent):
            yield
    except WarehouseUnreachable as error:
        root = root_cause(error)
        if error is silent and root is not error:
            # The error of the last attempt; the timeout interrupted the wait for the next one.
            silent.what += f" Last: {type(root).__name__}: {one_line(str(root))}"
            silent.fix = get_hint(root, profile)
        raise
