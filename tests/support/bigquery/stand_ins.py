"""Stand-ins for the servers of Google that hand out credentials, over real HTTP and real TLS.

A process whose environment is `Google.environment` finds a metadata server, so that it is the
machine's service account with no key anywhere; and every connection it opens to the outside goes
to a proxy that answers for Google's token and IAM servers, with a certificate of its own
authority, and refuses any other host. What was refused is kept: a test that reaches for the real
service fails.
"""

from __future__ import annotations

import datetime as dt
import http.server
import json
import ssl
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from google.auth import jwt

from tests.support.project import serving

PROJECT = "millrace-test"
# In the form that GKE's metadata server gives for a pod's federated identity.
MACHINE = f"{PROJECT}.svc.id.goog"
# What the metadata server gives, for the machine itself.
MACHINE_TOKEN = "token-of-the-machine"
IAM, TOKENS = "iamcredentials.googleapis.com", "oauth2.googleapis.com"


@dataclass
class Google:
    """What the stand-ins saw, and whom they know.

    Attributes:
        environment: variables by which a process meets the stand-ins.
        asked: requests to Google's servers, `METHOD https://host/path`.
        refused: hosts that something tried to reach, and for which nobody stands in.
        accounts: service account → its public key as a certificate; they may sign in with a key.
        may_impersonate: service accounts that everybody may become.
    """

    environment: dict[str, str] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    accounts: dict[str, bytes] = field(default_factory=dict)
    may_impersonate: set[str] = field(default_factory=set)

    def new_key(self, account: str) -> dict[str, str]:
        """A key of a service account, as Google's console gives it to be downloaded."""
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.accounts[account] = certificate(account, key).public_bytes(serialization.Encoding.PEM)
        return {
            "type": "service_account",
            "project_id": PROJECT,
            "private_key_id": account,
            "private_key": pem(key).decode(),
            "client_email": account,
            "client_id": "1",
            "token_uri": f"https://{TOKENS}/token",
        }


class Handler(http.server.BaseHTTPRequestHandler):
    def answer(self, status: int, body: Any, **headers: str) -> None:
        content = (body if isinstance(body, str) else json.dumps(body)).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        kind = "application/text" if isinstance(body, str) else "application/json"
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


class MetadataServer(Handler):
    """The machine's service account, as `google.auth.default()` finds it.

    Source: https://cloud.google.com/compute/docs/metadata/overview.
    """

    TOKEN: ClassVar = {"access_token": MACHINE_TOKEN, "expires_in": 3600, "token_type": "Bearer"}
    ACCOUNT: ClassVar = {
        "aliases": ["default"],
        "email": MACHINE,
        "scopes": ["https://www.googleapis.com/auth/cloud-platform"],
    }
    ACCOUNTS = "/computeMetadata/v1/instance/service-accounts"
    ANSWERS: ClassVar[dict[str, Any]] = {
        "/": "computeMetadata/\n",
        "/computeMetadata/v1/project/project-id": PROJECT,
        "/computeMetadata/v1/universe/universe-domain": "googleapis.com",
        f"{ACCOUNTS}/default/": ACCOUNT,
        f"{ACCOUNTS}/{MACHINE}/": ACCOUNT,
        f"{ACCOUNTS}/default/token": TOKEN,
        f"{ACCOUNTS}/{MACHINE}/token": TOKEN,
    }

    def do_GET(self) -> None:
        answer = self.ANSWERS.get(urlsplit(self.path).path)
        if self.headers.get("Metadata-Flavor") != "Google":
            self.send_error(403, "Missing Metadata-Flavor:Google header.")
        elif answer is None:
            self.send_error(404)
        else:
            self.answer(200, answer, Metadata_Flavor="Google")


@contextmanager
def google_stand_ins(folder: Path) -> Iterator[Google]:
    """The metadata server and the proxy to the outside.

    Args:
        folder: where the certificates go, of which the clients are told in their environment.
    """
    google = Google()
    authority_key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    authority = certificate("Stand-in authority", authority_key)
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    leaf = certificate("Stand-in", key, (IAM, TOKENS), (authority, authority_key))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)

    class Outside(Handler):
        """Google's token server and IAM, and no other host."""

        def do_CONNECT(self) -> None:
            host = self.path.rsplit(":", 1)[0]
            if host not in (IAM, TOKENS):
                google.refused.append(host)
                self.send_error(403, "Nobody stands in for this host.")
                return
            self.send_response(200)
            self.end_headers()
            self.close_connection = True
            with context.wrap_socket(self.connection, server_side=True) as tls:
                type("Inside", (Outside,), {"host": host})(tls, self.client_address, self.server)

        host = ""

        def do_GET(self) -> None:
            google.asked.append(f"GET https://{self.host}{self.path}")
            # The regions from which an account may be used: any.
            self.answer(200, {"encodedLocations": "0x0", "locations": []})

        def do_POST(self) -> None:
            google.asked.append(f"POST https://{self.host}{self.path}")
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
            (self.token if self.host == TOKENS else self.impersonate)(body)

        def token(self, body: str) -> None:
            """A token for who signs with an account's key. Source: RFC 7523."""
            try:
                claims = jwt.decode(parse_qs(body)["assertion"][0], certs=google.accounts)
            except ValueError as error:
                refusal = {"error": "invalid_grant", "error_description": str(error)}
                self.answer(400, refusal)
                return
            self.answer(
                200,
                {"access_token": f"token-of-{claims['iss']}", "expires_in": 3600},
            )

        def impersonate(self, _: str) -> None:
            account = self.path.rsplit("/", 1)[-1].split(":")[0]
            if account not in google.may_impersonate:
                self.answer(
                    403,
                    {
                        "error": {
                            "code": 403,
                            "message": "Permission 'iam.serviceAccounts.getAccessToken' denied "
                            f"on resource {account} (or it may not exist).",
                            "status": "PERMISSION_DENIED",
                        }
                    },
                )
                return
            later = dt.datetime.now(dt.UTC) + dt.timedelta(hours=1)
            self.answer(
                200,
                {
                    "accessToken": f"token-of-{account}",
                    "expireTime": later.strftime("%Y-%m-%dT%H:%M:%SZ"),
                },
            )

    with ExitStack() as stack:
        metadata = urlsplit(stack.enter_context(serving(MetadataServer))).netloc
        outside = stack.enter_context(serving(Outside))
        prefix = folder / f"stand-ins-{urlsplit(outside).port}"
        chain, bundle = prefix.with_suffix(".pem"), prefix.with_suffix(".ca.pem")
        encoded = serialization.Encoding.PEM
        chain.write_bytes(leaf.public_bytes(encoded) + pem(key))
        bundle.write_bytes(authority.public_bytes(encoded))
        context.load_cert_chain(chain)
        google.environment |= {
            "GCE_METADATA_HOST": metadata,
            "GCE_METADATA_IP": metadata,
            "HTTPS_PROXY": outside,
            "NO_PROXY": "127.0.0.1,localhost",
            "REQUESTS_CA_BUNDLE": str(bundle),
        }
        yield google


def pem(key: rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def certificate(
    name: str,
    key: rsa.RSAPrivateKey,
    hosts: tuple[str, ...] = (),
    issuer: tuple[x509.Certificate, rsa.RSAPrivateKey] | None = None,
) -> x509.Certificate:
    """A certificate for a day: of hosts when there are any, else of an authority."""
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name[:64])])
    now = dt.datetime.now(dt.UTC)
    signer, signer_key = (subject, key) if issuer is None else (issuer[0].subject, issuer[1])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(signer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(minutes=5))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=not hosts, path_length=None), critical=True)
    )
    if hosts:
        names = x509.SubjectAlternativeName([x509.DNSName(host) for host in hosts])
        builder = builder.add_extension(names, critical=False)
    return builder.sign(signer_key, hashes.SHA256())
