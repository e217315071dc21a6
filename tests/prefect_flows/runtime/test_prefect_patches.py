"""What Prefect's client repeats in each run, done once."""

from __future__ import annotations

import ssl
from typing import Any

import pytest
from prefect import flow
from prefect.client.orchestration import PrefectClient, SyncPrefectClient

from prefect_flows.runtime.prefect_patches import patched_prefect

API = "http://127.0.0.1:1/api"


def test_clients_share_a_tls_context(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[ssl.SSLContext] = []
    create = ssl.create_default_context

    def create_and_keep(*arguments: Any, **options: Any) -> ssl.SSLContext:
        made.append(create(*arguments, **options))
        return made[-1]

    monkeypatch.setattr(ssl, "create_default_context", create_and_keep)
    own = create()

    with patched_prefect():
        SyncPrefectClient(API)
        PrefectClient(API)
        assert len(made) == 1
        SyncPrefectClient(API, httpx_settings={"verify": own})
    assert made[0].verify_mode is ssl.CERT_REQUIRED

    SyncPrefectClient(API)
    assert len(made) == 2


def test_parameters_are_sent_as_they_are() -> None:
    parameters = {"select": ["a"], "vars": {"b": {"c": None}}, "wait": True}
    usual = flow(lambda: None, name="any").serialize_parameters(parameters)

    with patched_prefect():
        assert flow(lambda: None, name="any").serialize_parameters(parameters) == usual
