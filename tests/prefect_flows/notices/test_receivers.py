"""What sends to receivers can be used by several threads at once."""

from __future__ import annotations

import subprocess
import sys


def test_apprise_is_whole_before_threads_ask_for_it() -> None:
    """Threads that begin to import it at once sometimes find it half made."""
    script = """if True:
        import sys
        from prefect_flows.notices.receivers import sender
        assert "apprise" not in sys.modules
        sender(["slack-webhook/notify-dev"])
        assert hasattr(sys.modules["apprise"], "Apprise")
    """
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
