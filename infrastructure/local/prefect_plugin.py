"""A Prefect plugin: the password of the local server goes to that server only.

Prefect reads each setting by itself. With `PREFECT_API_URL` set to another server, it would send
that one the `auth_string` of `prefect.toml`, and would leave out a `PREFECT_API_KEY`.
`prefect.toml` enables this plugin; Prefect calls it whenever it is imported in the folder.
"""

from __future__ import annotations

import tomllib
from pathlib import Path

from prefect.plugins import HookContext, SetupResult, register_hook
from prefect.settings import get_current_settings


@register_hook
def setup_environment(*, ctx: HookContext) -> SetupResult | None:
    """Clear the auth string when it comes from `prefect.toml` and the API's address does not."""
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
