"""Version of the code (its git commit), and names of source images."""

from __future__ import annotations

import subprocess
from pathlib import Path

from prefect_flows.core.errors import ConfigurationError
from prefect_flows.core.settings import Settings
from prefect_flows.ingest import source_registry

DIRTY = "-dirty"
SHORT_COMMIT_LENGTH = 12


def format_version(commit: str, *, dirty: bool) -> str:
    """Return the short commit, with `-dirty` if files differ from it."""
    return commit[:SHORT_COMMIT_LENGTH] + DIRTY * dirty


def get_version(settings: Settings) -> str:
    """Return the version of the project's folder.

    An image has no git clone; it has its version in `MILLRACE_VERSION`.

    Raises:
        ConfigurationError: neither is available.
    """
    if settings.version is not None:
        return settings.version
    commit = git(settings.project_dir, "rev-parse", "HEAD")
    return format_version(commit, dirty=bool(git(settings.project_dir, "status", "--porcelain")))


def get_source_image(image: str, source: str) -> str:
    """Return the name of a source's own image, which is based on the project's image.

    `r.example.com/millrace:1a2b` gives `r.example.com/millrace-nyc-flights:1a2b`, the same version.

    Args:
        image: the project's image.
        source: name of the source's folder.

    Raises:
        ConfigurationError: the project's image has no tag, so there is no version to share.
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
    """Run git in a folder and return its output.

    Raises:
        ConfigurationError: the folder is not a clone, or git is not installed.
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
