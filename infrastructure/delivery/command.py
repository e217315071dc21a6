"""`millrace deliver ssh|back|kubernetes`: deliver a release, or go back to the previous one."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from infrastructure.delivery import cluster
from infrastructure.delivery import ssh as by_ssh
from infrastructure.delivery.connection import Connection, build_connection
from infrastructure.delivery.kubectl import build_kubectl
from infrastructure.delivery.manifests import build
from infrastructure.delivery.on_host.delivery import DELIVERED, REFUSED, ROLLED_BACK
from infrastructure.delivery.prefect_calls import ClusterRequest
from prefect_flows.core.code_version import get_version
from prefect_flows.core.command_line import exits_with_expected_errors
from prefect_flows.core.errors import ConfigurationError
from prefect_flows.core.names import TARGET_PATTERN
from prefect_flows.core.settings import load_settings

# Exit codes by result; any other result needs a person immediately.
CODES = {DELIVERED: 0, ROLLED_BACK: 1, REFUSED: 2}
STUCK = 3
KUSTOMIZATION = Path("infrastructure/platforms/kubernetes/base")
DEFAULT_POOL = "k3s-pool"

app = typer.Typer(
    help="Deliver a release, check it, and go back when it does not work.",
    no_args_is_help=True,
    add_completion=False,
)

Target = Annotated[str, typer.Option(help="The target whose deployments come with it.")]
Host = Annotated[str, typer.Option(help="USER@HOST; an ordinary user.")]
KnownHosts = Annotated[
    Path, typer.Option(help="File with the host's key; only this key is accepted.")
]
Identity = Annotated[
    Path | None, typer.Option(help="File of the private key. The agent's by default.")
]
Port = Annotated[int, typer.Option(help="Port of SSH.")]
Folder = Annotated[str, typer.Option(help="In the user's home; one a target and server.")]
Drain = Annotated[
    int, typer.Option(min=1, help="Seconds that runs may go on in a worker that leaves.")
]
Wait = Annotated[
    int, typer.Option(min=10, help="Seconds until server, worker and health check are well.")
]


@app.command()
@exits_with_expected_errors
def ssh(
    target: Target,
    host: Host,
    known_hosts: KnownHosts,
    image: Annotated[str, typer.Option(help="NAME@sha256:…, built from the checked-out commit.")],
    identity: Identity = None,
    port: Port = 22,
    folder: Folder = "millrace",
    drain_timeout: Drain = 3600,
    health_timeout: Wait = 300,
    backup: Annotated[
        bool, typer.Option("--backup", help="Keep Prefect's database, also without a migration.")
    ] = False,
    apply_blocks: Annotated[
        bool,
        typer.Option(
            "--apply-blocks", help="Write blocks that differ; otherwise they fail the delivery."
        ),
    ] = False,
) -> None:
    """Deliver a release to a host with an engine and Compose.

    REGISTRY_USERNAME and REGISTRY_PASSWORD belong to a user who may pull. Exit code 0: delivered;
    1: rolled back; 2: nothing was changed; 3: neither release works, and a person is needed.
    """
    request = by_ssh.HostDelivery(
        target=_check_target(target), image=image, folder=folder, drain_seconds=drain_timeout,
        health_seconds=health_timeout, always_backup=backup, apply_blocks=apply_blocks,
    )  # fmt: skip
    _deliver(build_connection(host, port, known_hosts, identity), request)


@app.command()
@exits_with_expected_errors
def back(
    target: Target,
    host: Host,
    known_hosts: KnownHosts,
    identity: Identity = None,
    port: Port = 22,
    folder: Folder = "millrace",
    drain_timeout: Drain = 3600,
    health_timeout: Wait = 300,
) -> None:
    """Go back to the release before the current one, which the host has kept.

    Exit codes as of `ssh`.
    """
    request = by_ssh.HostDelivery(
        target=_check_target(target), image=None, folder=folder, drain_seconds=drain_timeout,
        health_seconds=health_timeout,
    )  # fmt: skip
    _deliver(build_connection(host, port, known_hosts, identity), request)


@app.command()
@exits_with_expected_errors
def kubernetes(
    target: Target,
    context: Annotated[str, typer.Option(help="kubectl's context; the default one is not taken.")],
    image: Annotated[str, typer.Option(help="NAME@sha256:…, built from the checked-out commit.")],
    kustomization: Annotated[
        Path, typer.Option(help="What is applied: the base, or an overlay of it.")
    ] = KUSTOMIZATION,
    pool: Annotated[
        str, typer.Option(help="The work pool of the target's deployments.")
    ] = DEFAULT_POOL,
    outputs: Annotated[
        str | None, typer.Option(help="File of `terraform output -json`; - is standard input.")
    ] = None,
    health_timeout: Wait = 300,
) -> None:
    """Deliver a release to a namespace of Kubernetes, with kubectl.

    Exit codes as of `ssh`.
    """
    by_digest, settings = by_ssh.require_digest(image), load_settings()
    version = get_version(settings)
    built = build(settings.project_dir / kustomization, by_digest, version)
    request = ClusterRequest(
        target=_check_target(target), image=by_digest, version=version, pool=pool,
        outputs=None if outputs is None else _text(outputs), health_seconds=health_timeout,
    )  # fmt: skip
    name = by_ssh.new_name()
    delivery = cluster.ClusterDelivery(
        build_kubectl(context, built.namespace), built, request, name
    )
    result = delivery.run()
    record = delivery.record | {"result": result}
    file = settings.local_dir / "deliveries" / f"{name}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(record, indent=2))
    _report_result(record)


def _text(outputs: str) -> str:
    if outputs == "-":
        return sys.stdin.read()
    try:
        return Path(outputs).read_text()
    except OSError as error:
        raise ConfigurationError(
            f"Terraform's outputs cannot be read: {error.strerror}.",
            where=outputs,
            fix=f"terraform -chdir=DIR output -json > {outputs}",
        ) from error


def _check_target(target: str) -> str:
    if not re.fullmatch(TARGET_PATTERN, target):
        raise ConfigurationError(
            f"Not a target's name: {target!r}.",
            where="--target",
            fix="name it as Terraform's outputs do: dev, staging, prod",
        )
    return target


def _deliver(to: Connection, request: by_ssh.HostDelivery) -> None:
    _report_result(by_ssh.deliver(to, load_settings(), request))


def _report_result(record: dict[str, Any]) -> None:
    result = record["result"]
    why = f": {record['why']}" if record["why"] else ""
    text = f"{record['target']}: {result}{why}"
    Console().print(text, markup=False, highlight=False, soft_wrap=True)
    if result != DELIVERED:
        raise typer.Exit(CODES.get(result, STUCK))
