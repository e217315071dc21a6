"""Names of source images."""

from __future__ import annotations

from prefect_flows.core.errors import ConfigurationError
from prefect_flows.ingest import source_registry


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
