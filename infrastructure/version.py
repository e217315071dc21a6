"""What the code is called in deployments and images: its git commit, and a source beside it."""

from __future__ import annotations

import subprocess
from pathlib import Path

from prefect_flows.core.errors import ConfigurationError
from prefect_flows.core.settings import Settings
from prefect_flows.ingest import source_registry

DIRTY = "-dirty"
LETTERS = 12


def named(commit: str, *, dirty: bool) -> str:
    """A commit's short name, `-dirty` behind it where files differ from it."""
    return commit[:LETTERS] + DIRTY * dirty


def version_of(settings: Settings) -> str:
    """What lies in the project's folder.

    An image has no git, and carries its version in `MILLRACE_VERSION`.

    Raises:
        ConfigurationError: neither is there.
    """
    if settings.version is not None:
        return settings.version
    commit = git(settings.project_dir, "rev-parse", "HEAD")
    return named(commit, dirty=bool(git(settings.project_dir, "status", "--porcelain")))


def image_of_source(image: str, source: str) -> str:
    """The name of a source's own image, beside the project's image that it stands on.

    `r.example.com/millrace:1a2b` gives `r.example.com/millrace-nyc-flights:1a2b`: the same version.

    Args:
        image: the project's image.
        source: name of the source's folder.

    Raises:
        ConfigurationError: the project's image has no tag, so no version to share.
    """
    name, colon, tag = image.rpartition(":")
    if not colon or "/" in tag or "@" in image:
        raise ConfigurationError(
            f"The image of source {source!r} is named after {image!r}, which has no tag: a digest "
            "is of one image alone.",
            where="--image, --tag or MILLRACE_IMAGE",
            fix="name the project's image by its version, NAME:VERSION",
        )
    return f"{name}-{source_registry.dashed_name(source)}:{tag}"


def git(folder: Path, *arguments: str) -> str:
    """What git answers in a folder.

    Raises:
        ConfigurationError: it is no clone, or git is not installed.
    """
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=False
        )
        said = done.stderr.strip()
    except OSError as error:
        done, said = None, str(error)
    if done is None or done.returncode != 0:
        raise ConfigurationError(
            f"The version of the code is not known: {said}.",
            where=str(folder),
            fix="work in a git clone, or set MILLRACE_VERSION to the commit",
        )
    return done.stdout.strip()
