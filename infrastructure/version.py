"""What the code is called in deployments and images: its git commit."""

from __future__ import annotations

import subprocess

from prefect_flows.errors import ConfigurationError
from prefect_flows.settings import Settings

DIRTY = "-dirty"


def version_of(settings: Settings) -> str:
    """The commit of the project's folder, `-dirty` behind it where files differ from it.

    An image has no git, and carries its version in `MILLRACE_VERSION`.

    Raises:
        ConfigurationError: neither is there.
    """
    if settings.version is not None:
        return settings.version
    try:
        done = subprocess.run(
            ["git", "-C", str(settings.project_dir), "describe", "--always", "--abbrev=12",
             "--exclude=*", f"--dirty={DIRTY}"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        said = done.stderr.strip()
    except OSError as error:
        done, said = None, str(error)
    if done is None or done.returncode != 0:
        raise ConfigurationError(
            f"The version of the code is not known: {said}.",
            where=str(settings.project_dir),
            mend="work in a git clone, or set MILLRACE_VERSION to the commit",
        )
    return done.stdout.strip()
