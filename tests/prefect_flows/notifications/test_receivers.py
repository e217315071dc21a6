"""What sends to receivers: usable by several threads, and silent about the secrets of a block."""

from __future__ import annotations

import http.server
import subprocess
import sys
from datetime import UTC, datetime

import pytest
from prefect.blocks.notifications import CustomWebhookNotificationBlock

from prefect_flows.notifications.messages import Notice
from prefect_flows.notifications.recipients import build_sender
from tests.support.project import serving


def test_apprise_is_whole_before_threads_ask_for_it() -> None:
    """Threads that begin to import it at once sometimes find it half made."""
    script = """if True:
        import sys
        from prefect_flows.notifications.recipients import build_sender
        assert "apprise" not in sys.modules
        build_sender(["slack-webhook/notify-dev"])
        assert hasattr(sys.modules["apprise"], "Apprise")
    """
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_a_refusal_does_not_show_the_address_of_the_webhook(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Refuses(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.send_response(500)
            self.end_headers()

    receiver = "custom-webhook/notify-dev"
    notice = Notice(subject="subject", body="body", at=datetime.now(UTC))
    with serving(Refuses) as url:
        # As the API would give it. httpx names the whole address in its error.
        block = CustomWebhookNotificationBlock(
            name="notify-dev", url=f"{url}/hooks/madeUpSecret", json_data={"text": "{{body}}"}
        )
        monkeypatch.setattr(CustomWebhookNotificationBlock, "load", lambda _name: block)
        why = build_sender([receiver])(receiver, notice)
    assert why is not None
    assert "500" in why
    assert "madeUpSecret" not in why
