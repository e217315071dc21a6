"""Prefect plugin: send the local server's password only to the local server.

If `PREFECT_API_URL` points to another server, Prefect would send it the `auth_string` of
`prefect.toml`, and omit `PREFECT_API_KEY`. `prefect.toml` enables this plugin, and Prefect runs it
at every import in the project's folder.
"""

from __future__ import annotations

import tomllib
from pathlib import Path

from prefect.plugins import HookContext, SetupResult, register_hook
from prefect.settings import get_current_settings


@register_hook
def setup_environment(*, ctx: HookContext) -> SetupResult | None:
    """Clear the auth string if it comes from `prefect.toml`, but the API URL does not."""
    file = Path("prefect.toml")
    if not file.exists():
        return None
    local = tomllib.loads(file.read_text(encoding="utf-8")).get("api", {})
    auth_string = get_current_settings().api.auth_string
    is_local_secret = auth_string is not None and auth_string.get_secret_value() == local.get(
        "auth_string"
    )
    if not is_local_secret or (ctx.api_url or "").rstrip("/") == local.get("url"):
        return None
    return SetupResult(env={"PREFECT_API_AUTH_STRING": ""})
