"""The lock of a target in the folder of the state store: one run per target, without an API."""

from __future__ import annotations

from pathlib import Path

import pytest

from prefect_flows.core.errors import TargetBusy
from prefect_flows.runtime.base import LocalRuntime
from prefect_flows.runtime.parameters import Parameters
from prefect_flows.runtime.target_lock import target_lock
from prefect_flows.state.store import StateStore

DEV = Parameters(target="dev", wait=False)


def test_a_second_run_of_a_target_fails_and_a_run_of_another_target_begins(tmp_path: Path) -> None:
    store = StateStore(str(tmp_path))
    with target_lock(DEV, store, LocalRuntime()):
        with (
            pytest.raises(TargetBusy, match="Target 'dev' is locked"),
            target_lock(DEV, store, LocalRuntime()),
        ):
            pass
        with target_lock(DEV.model_copy(update={"target": "prod"}), store, LocalRuntime()):
            pass


def test_a_run_that_fails_releases_its_target(tmp_path: Path) -> None:
    store = StateStore(str(tmp_path))
    with pytest.raises(ValueError, match="made up"), target_lock(DEV, store, LocalRuntime()):
        raise ValueError("made up")
    with target_lock(DEV, store, LocalRuntime()):
        pass
