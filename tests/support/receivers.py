"""Receivers of notices on loopback: chats behind their own names and TLS, and a mail server.

Clients reach the chats by a proxy, as in many companies: it lets them through to nobody but these.
"""

from __future__ import annotations

import http.server
import json
import re
import socket
import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from email import message_from_bytes
from email.message import Message
from email.policy import default
from pathlib import Path
from typing import Any

import trustme
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, LoginPassword

from tests.support.project import Project, serving

SLACK = "https://hooks.slack.com/services/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"
TEAMS = (
    "https://prod-01.westeurope.logic.azure.com:443/workflows/0123456789abcdef0123456789abcdef"
    "/triggers/manual/paths/invoke?api-version=2016-06-01&sp=%2Ftriggers%2Fmanual%2Frun&sv=1.0"
    "&sig=madeUpSecretOfTeams"
)
DISCORD = "https://discord.com/api/webhooks/123456789012345678/madeUpSecretOfDiscord-1234567890"
WEBHOOK = "https://hooks.example.com/millrace/madeUpSecretOfWebhook"
HOSTS = (
    "hooks.slack.com",
    "prod-01.westeurope.logic.azure.com",
    "discord.com",
    "hooks.example.com",
)
MAIL_PASSWORD = "madeUpSecret of/mail@1"
SECRETS = ("madeUpSecret",)


@dataclass
class Told:
    """One request that a receiver got."""

    host: str
    path: str
    headers: Mapping[str, str]
    document: Any


@dataclass
class Receivers:
    """What they were told, and how they answer.

    Attributes:
        told: requests of the chats, in the order they came.
        mails: of the mail server.
        answers: host → status that it answers with, or `hang`; 200 by default.
        environment: how a command reaches them.
    """

    told: list[Told] = field(default_factory=list)
    mails: list[Message] = field(default_factory=list)
    answers: dict[str, int | str] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    mail_port: int = 0

    def of(self, host: str) -> list[Told]:
        return [told for told in self.told if told.host == host]

    def forget(self) -> None:
        self.told.clear()
        self.mails.clear()

    def contract(self) -> dict[str, Any]:
        """All of them, as Terraform's outputs name them."""
        return {
            "team": {"type": "slack", "url": SLACK},
            "teams": {"type": "teams", "url": TEAMS},
            "discord": {"type": "discord", "url": DISCORD},
            "hook": {"type": "webhook", "url": WEBHOOK, "headers": {"X-Key": "madeUpSecretKey"}},
            "mail": {
                "type": "email", "server": "localhost", "port": self.mail_port,
                "user": "millrace@example.com", "password": MAIL_PASSWORD,
                "sender": "millrace@example.com",
                "recipients": ["on-call@example.com", "second@example.com"],
            },
        }  # fmt: skip


def blocks(project: Project) -> list[dict[str, Any]]:
    """The notification blocks of the target `scratch`, as a plain read shows them."""
    name = {"name": {"like_": "notify-scratch"}}
    url = f"{project.api_url}/block_documents/filter"
    return list(project.http.post(url, json={"block_documents": name}).json())


def forget(project: Project, but: str = "") -> None:
    """Remove them: other tests share the server.

    Args:
        but: how the names of those end that stay, and the wishes with them.
    """
    for block in blocks(project):
        if not but or not block["name"].endswith(but):
            project.http.delete(f"/block_documents/{block['id']}")
    if not but:
        project.http.delete("/variables/name/millrace_notices_scratch")


def texts_of(told: Told) -> str:
    """All that a person reads of a chat's message."""
    found: list[str] = []

    def walk(value: Any) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                if key in ("text", "content", "title", "description", "subject", "body", "value") \
                        and isinstance(inner, str):  # fmt: skip
                    found.append(inner)
                else:
                    walk(inner)
        elif isinstance(value, list):
            for inner in value:
                walk(inner)

    walk(told.document)
    # A chat that reads Markdown shows the character behind a backslash.
    return re.sub(r"\\([^a-zA-Z0-9\s])", r"\1", "\n".join(found))


def is_as_documented(told: Told) -> None:
    """The shape and the limits that each chat documents for its incoming webhooks."""
    document = told.document
    size = len(json.dumps(document).encode())
    if told.host == "hooks.slack.com":
        assert re.fullmatch(r"/services/\w+/\w+/\w+", told.path)
        assert document.get("text") or document.get("attachments") or document.get("blocks")
        assert len(document.get("text") or "") <= 40_000
        assert len(document.get("attachments", [])) <= 100
        for block in document.get("blocks", []):
            assert len(block.get("text", {}).get("text", "")) <= 3_000
    elif told.host == "discord.com":
        assert len(document.get("content") or "") <= 2_000
        assert len(document.get("embeds", [])) <= 10
        for embed in document.get("embeds", []):
            assert len(embed.get("title", "")) <= 256
            assert len(embed.get("description", "")) <= 4_096
    elif told.host.endswith("azure.com"):
        assert size <= 28 * 1024
        assert document["type"] == "message"
        (attachment,) = document["attachments"]
        assert attachment["contentType"] == "application/vnd.microsoft.card.adaptive"
        assert attachment["content"]["type"] == "AdaptiveCard"
        assert attachment["content"]["version"]
        assert attachment["content"]["body"]
    else:
        assert set(document) == {"subject", "body"}
        assert told.headers["X-Key"] == "madeUpSecretKey"


@contextmanager
def receivers(folder: Path) -> Iterator[Receivers]:
    """All receivers, until the context ends.

    Args:
        folder: takes the certificate of their authority.
    """
    found = Receivers()
    authority = trustme.CA()
    bundle = folder / "authority.pem"
    authority.cert_pem.write_to_path(str(bundle))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*HOSTS, "localhost").configure_cert(context)
    with ExitStack() as stack:
        port = stack.enter_context(_chats(found, context))
        proxy = stack.enter_context(_proxy(found, port))
        found.mail_port = stack.enter_context(_mail(found, context))
        found.environment = {
            "HTTPS_PROXY": proxy,
            "NO_PROXY": "127.0.0.1,localhost",
            "SSL_CERT_FILE": str(bundle),
            "REQUESTS_CA_BUNDLE": str(bundle),
        }
        yield found


@contextmanager
def _chats(found: Receivers, context: ssl.SSLContext) -> Iterator[int]:
    over = threading.Event()

    class Chat(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            host = self.headers["Host"].partition(":")[0]
            body = self.rfile.read(int(self.headers["Content-Length"]))
            answer = found.answers.get(host, 200)
            if answer == "hang":
                over.wait(60)
                return
            if answer == 200:
                told = Told(host, self.path, dict(self.headers), json.loads(body))
                found.told.append(told)
            self.send_response(int(answer))
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"ok")

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Chat)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server.server_port
    finally:
        over.set()
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def _proxy(found: Receivers, port: int) -> Iterator[str]:
    class Proxy(http.server.BaseHTTPRequestHandler):
        def do_CONNECT(self) -> None:
            host = self.path.partition(":")[0]
            if host not in HOSTS:
                found.refused.append(host)
                self.send_error(403)
                return
            with closing(socket.create_connection(("127.0.0.1", port))) as far:
                self.send_response(200)
                self.end_headers()
                back = threading.Thread(target=_pump, args=(far, self.connection), daemon=True)
                back.start()
                _pump(self.connection, far)
                back.join(5)

    with serving(Proxy) as url:
        yield url


def _pump(near: socket.socket, far: socket.socket) -> None:
    try:
        while data := near.recv(65536):
            far.sendall(data)
        far.shutdown(socket.SHUT_WR)
    except OSError:
        return  # one of the two has gone


@contextmanager
def _mail(found: Receivers, context: ssl.SSLContext) -> Iterator[int]:
    class Handler:
        async def handle_DATA(  # noqa: N802 # aiosmtpd's name
            self, _server: Any, _session: Any, envelope: Any
        ) -> str:
            mail = message_from_bytes(envelope.content, policy=default)
            mail["X-Recipients"] = ", ".join(envelope.rcpt_tos)
            found.mails.append(mail)
            return "250 OK"

    def login(
        _server: Any, _session: Any, _envelope: Any, _mechanism: str, data: Any
    ) -> AuthResult:
        good = isinstance(data, LoginPassword) and (data.login, data.password) == (
            b"millrace@example.com", MAIL_PASSWORD.encode(),
        )  # fmt: skip
        return AuthResult(success=good)

    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    controller = Controller(
        Handler(), hostname="127.0.0.1", port=port, tls_context=context, require_starttls=True,
        authenticator=login, auth_required=True,
    )  # fmt: skip
    controller.start()
    try:
        yield port
    finally:
        controller.stop()
