"""Stand-ins for the parts of Google Cloud that hand out credentials, over real HTTP.

The metadata server of a machine on Google Cloud: whatever runs there is the machine's service
account, with no key anywhere. Source: https://cloud.google.com/compute/docs/metadata/overview.
"""

from __future__ import annotations

import http.server
import json
from typing import Any
from urllib.parse import urlsplit

PROJECT = "millrace-test"
ACCOUNT = f"{PROJECT}.svc.id.goog"
TOKEN = {"access_token": "made-up", "expires_in": 3600, "token_type": "Bearer"}


class MetadataServer(http.server.BaseHTTPRequestHandler):
    """The machine's service account, as `google.auth.default()` finds it."""

    ANSWERS: dict[str, Any] = {
        "/": "computeMetadata/\n",
        "/computeMetadata/v1/project/project-id": PROJECT,
        "/computeMetadata/v1/universe/universe-domain": "googleapis.com",
        "/computeMetadata/v1/instance/service-accounts/default/": {
            "aliases": ["default"],
            "email": ACCOUNT,
            "scopes": ["https://www.googleapis.com/auth/cloud-platform"],
        },
        "/computeMetadata/v1/instance/service-accounts/default/token": TOKEN,
        f"/computeMetadata/v1/instance/service-accounts/{ACCOUNT}/token": TOKEN,
    }

    def do_GET(self) -> None:
        answer = self.ANSWERS.get(urlsplit(self.path).path)
        if self.headers.get("Metadata-Flavor") != "Google":
            self.send_error(403, "Missing Metadata-Flavor:Google header.")
            return
        if answer is None:
            self.send_error(404)
            return
        is_text = isinstance(answer, str)
        content = (answer if is_text else json.dumps(answer)).encode()
        self.send_response(200)
        self.send_header("Metadata-Flavor", "Google")
        self.send_header("Content-Type", "application/text" if is_text else "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def metadata_environment(url: str) -> dict[str, str]:
    """Variables by which Google's libraries take the server at `url` for the machine's own."""
    address = urlsplit(url).netloc
    return {"GCE_METADATA_HOST": address, "GCE_METADATA_IP": address}
