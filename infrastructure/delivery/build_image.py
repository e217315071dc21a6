"""`millrace image`: build the container image with its version, labels and base images.

Runs `docker build` on an export of the commit. If files are uncommitted, it builds the folder
instead, and the version ends in `-dirty`. `--source` builds a source's own image on top of the
project's, with the same version.
"""

from __future__ import annotations

import re
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from infrastructure.source_images import get_source_image
from prefect_flows.core import git
from prefect_flows.core.code_version import format_version
from prefect_flows.core.command_line import exits_with_expected_errors
from prefect_flows.core.errors import ConfigurationError
from prefect_flows.core.project_folder import require_engine
from prefect_flows.core.settings import load_settings

NAME = "millrace"
DOCKERFILE = "Dockerfile"
SOURCES = "prefect_flows/sources"
BASES = ("PYTHON_IMAGE", "UV_IMAGE")
BUILD_COMMAND = "uv run millrace image"
_DIGEST = re.compile(r"@sha256:[0-9a-f]{64}$")
_DEFAULT = re.compile(r"^ARG (\w+)=(\S+)$", re.MULTILINE)
_PASSWORD_IN_URL = re.compile(r"(?<=://)[^/\s@]+@")

app = typer.Typer(add_completion=False)


@dataclass(frozen=True)
class GitState:
    """The code to build: commit, its date and remote, and whether files are uncommitted."""

    commit: str
    committed_at: str
    source: str
    dirty: bool

    @property
    def version(self) -> str:
        """Version of the image and of its deployments."""
        return format_version(self.commit, dirty=self.dirty)


def read_git_state(folder: Path) -> GitState:
    """Read commit and remote of a folder from git.

    Raises:
        ConfigurationError: git is not installed.
        GitError: the folder is not a clone.
    """
    commit = git.run(folder, "rev-parse", "HEAD", fix="build the image in a git clone").strip()
    remotes = git.run(folder, "remote").splitlines()
    source = git.run(folder, "remote", "get-url", remotes[0]).strip() if remotes else ""
    return GitState(
        commit,
        git.run(folder, "show", "--no-patch", "--format=%cI", "HEAD").strip(),
        # The URL of the remote may contain a token, and labels are public.
        _PASSWORD_IN_URL.sub("", source) if "://" in source else "",
        bool(git.run(folder, "status", "--porcelain")),
    )


def parse_base_images(dockerfile: str) -> dict[str, str]:
    """Parse the base images of the Dockerfile: build argument → reference."""
    return {name: image for name, image in _DEFAULT.findall(dockerfile) if name in BASES}


def require_reproducible(code: GitState, bases: Mapping[str, str]) -> None:
    """Check that the release can be rebuilt: a commit, and base images with a digest.

    Raises:
        ConfigurationError: a file is uncommitted, or a base image has no digest.
    """
    if code.dirty:
        raise ConfigurationError(
            "A release is built from a commit, and files of this folder differ from theirs.",
            where=f"git status, at {code.commit[:12]}",
            fix="commit them, or put them away with: git stash --include-untracked",
        )
    without_digest = {name: image for name, image in bases.items() if not _DIGEST.search(image)}
    if without_digest:
        name, image = next(iter(without_digest.items()))
        option = f"--{name.lower().replace('_', '-')}"
        raise ConfigurationError(
            "A release names its base images by digest: "
            f"{', '.join(f'{name}={image}' for name, image in without_digest.items())}.",
            where="--release",
            fix=f"docker buildx imagetools inspect {image.partition('@')[0]} "
            f"prints the digest; then {option} {image.partition('@')[0]}@sha256:…",
        )


def build_command(
    context: Path, tag: str, code: GitState, bases: Mapping[str, str], more: Mapping[str, str]
) -> list[str]:
    """Return the command line that builds the project's image."""
    arguments = {
        **bases,
        "MILLRACE_VERSION": code.version,
        "REVISION": code.commit,
        # The date of the commit, so that a rebuild gives the same image.
        "CREATED": _now() if code.dirty else code.committed_at,
        "SOURCE": code.source,
        "BASE_NAME": bases["PYTHON_IMAGE"],
        **more,
    }
    build_args = [
        part for name, value in arguments.items() for part in ("--build-arg", f"{name}={value}")
    ]
    return ["docker", "build", "--tag", tag, *build_args, str(context)]


def build_source_command(context: Path, base: str, source: str) -> list[str]:
    """Return the command line that builds a source's image on top of the project's."""
    tag = get_source_image(base, source)
    folder = context / SOURCES / source
    labels = {
        "org.opencontainers.image.title": tag.rpartition(":")[0].rpartition("/")[2],
        "org.opencontainers.image.description": f"What the source {source} runs in",
        "org.opencontainers.image.base.name": base,
    }
    label_args = [part for name, value in labels.items() for part in ("--label", f"{name}={value}")]
    return ["docker", "build", "--tag", tag, "--build-arg", f"BASE_IMAGE={base}", *label_args,
            str(folder)]  # fmt: skip


def require_dockerfile(folder: Path, source: str) -> None:
    """Check that a source has its own image.

    Raises:
        ConfigurationError: there is no such source, or it has no Dockerfile.
    """
    file = folder / SOURCES / source / DOCKERFILE
    if not file.is_file():
        available = sorted(each.parent.name for each in file.parents[1].glob(f"*/{DOCKERFILE}"))
        raise ConfigurationError(
            f"Source {source!r} has no {DOCKERFILE}; there are those of: {', '.join(available)}.",
            where=str(file.parents[1]),
            fix="name one of them; documentation/sources.md says what stands in one",
        )


@contextmanager
def export_context(folder: Path, code: GitState) -> Iterator[Path]:
    """Export the commit to a temporary folder; yield the folder itself if it is dirty."""
    if code.dirty:
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="millrace-image-") as temporary:
        archive = Path(temporary, "context.tar")
        context = Path(temporary, "context")
        # `git archive` makes files group-writable by default; use the modes of a checkout.
        git.run(
            folder, "-c", "tar.umask=022", "archive", "--format=tar", f"--output={archive}", "HEAD"
        )
        with tarfile.open(archive) as files:
            # Python has the filter since 3.11.4. Extracting without it is safe too: git created the
            # archive, and paths in a commit cannot leave the folder.
            files.extraction_filter = getattr(tarfile, "data_filter", None)
            files.extractall(context)  # noqa: S202
        yield context


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _targets(file: Path) -> dict[str, str]:
    # Imports dbt and Prefect, so only when needed.
    from infrastructure.platforms.docker.parse_project import ARGUMENT, parse_targets

    try:
        text = file.read_text()
    except OSError as error:
        raise ConfigurationError(
            f"Terraform's outputs cannot be read: {error.strerror}.",
            where=str(file),
            fix=f"terraform -chdir=DIR output -json | jq 'del(.dbt_target_secrets)' > {file}",
        ) from error
    parse_targets(text, where=str(file))
    return {ARGUMENT: text}


def _build(arguments: list[str], *, fix: str, quiet: bool) -> None:
    """Run the build with its output on stderr, so that stdout contains only the image's name."""
    try:
        done = subprocess.run(
            arguments, stdout=subprocess.PIPE if quiet else None, stderr=None, check=False
        )
    except OSError as error:
        raise ConfigurationError(
            f"The docker program cannot be run: {error.strerror}.",
            where="PATH",
            fix="install an engine and its `docker` program (documentation/containers.md)",
        ) from error
    if done.returncode != 0:
        raise ConfigurationError(
            f"docker build ended with {done.returncode}; what it printed says why.",
            where=arguments[-1],
            fix=fix,
        )


@app.command()
@exits_with_expected_errors
def main(
    tag: Annotated[
        str | None, typer.Option(help="The project's image; millrace:<version> by default.")
    ] = None,
    source: Annotated[
        list[str] | None,
        typer.Option(help="Build this source's own image, on the project's; repeatable."),
    ] = None,
    release: Annotated[
        bool, typer.Option("--release", help="Refuse what could not be built again as it is.")
    ] = False,
    python_image: Annotated[str | None, typer.Option(help="Base image with Python.")] = None,
    uv_image: Annotated[str | None, typer.Option(help="Image that uv is taken from.")] = None,
    outputs: Annotated[
        Path | None,
        typer.Option(help="Terraform's outputs without secrets: targets to parse the project for."),
    ] = None,
    engine_arg: Annotated[
        list[str] | None, typer.Option(help="Handed on to `docker build`; repeatable.")
    ] = None,
    quiet: Annotated[
        bool, typer.Option("--quiet", help="Print nothing but the image's name.")
    ] = False,
) -> None:
    """Build the image from the checked-out commit, and print its name.

    With --source: only the own images of these sources, on the image that is there already.
    """
    folder = load_settings().project_dir
    require_engine(
        folder,
        "image",
        "write a Dockerfile that installs the package: documentation/how_to/install_the_engine.md",
    )
    code = read_git_state(folder)
    name = tag or f"{NAME}:{code.version}"
    arguments = engine_arg or []
    if source:
        if release:
            require_reproducible(code, {})
        _build_sources(folder, code, name, source, arguments, quiet=quiet)
        return
    base_options = {"PYTHON_IMAGE": python_image, "UV_IMAGE": uv_image}
    bases = parse_base_images((folder / "Dockerfile").read_text()) | {
        name: image for name, image in base_options.items() if image is not None
    }
    if release:
        require_reproducible(code, bases)
    targets = {} if outputs is None else _targets(outputs)
    fix = (
        "correct that; behind a proxy or an index of one's own: --engine-arg "
        "--build-arg=UV_DEFAULT_INDEX=…"
    )
    with export_context(folder, code) as context:
        line = build_command(context, name, code, bases, targets)
        _build([*line[:-1], *arguments, line[-1]], fix=fix, quiet=quiet)
    _say(name)


def _build_sources(
    folder: Path,
    code: GitState,
    base: str,
    sources: list[str],
    arguments: list[str],
    *,
    quiet: bool,
) -> None:
    for source in sources:
        require_dockerfile(folder, source)
    fix = f"correct that; the image {base} is made by: {BUILD_COMMAND}"
    with export_context(folder, code) as context:
        for source in sources:
            line = build_source_command(context, base, source)
            _build([*line[:-1], *arguments, line[-1]], fix=fix, quiet=quiet)
            _say(get_source_image(base, source))


def _say(name: str) -> None:
    Console().print(name, soft_wrap=True, highlight=False)
