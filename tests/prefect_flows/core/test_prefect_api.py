"""Errors of the Prefect API in the middle of a command."""

from __future__ import annotations

import pytest
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from prefect_flows.core.errors import PrefectUnreachable
from prefect_flows.core.prefect_api import api_changes, api_errors
from tests.support.bigquery.emulator import free_port


@pytest.mark.parametrize(("context", "exit_code"), [(api_errors, 2), (api_changes, 1)])
def test_an_api_that_stops_in_the_middle_is_an_expected_error(context, exit_code: int) -> None:
    url = f"http://user:secret@127.0.0.1:{free_port()}/api"
    settings = {PREFECT_API_URL: url, PREFECT_CLIENT_MAX_RETRIES: 0}
    with (
        temporary_settings(settings),
        get_client(sync_client=True) as client,
        pytest.raises(PrefectUnreachable, match="does not answer any more") as raised,
        context(client),
    ):
        client.hello()
    assert raised.value.exit_code == exit_code
    assert "secret" not in str(raised.value)
