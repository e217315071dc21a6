"""Your sources, one folder `<owner>__<name>` each.

In a clone they are beside this file. If the engine is an installed package, they are in a folder of
the project (`sources_dir`), and their modules have the same names: `prefect_flows.sources.NAME`.
"""

from __future__ import annotations

from collections.abc import Iterator


class SourcesPath(list[str]):
    """The search path of this package: its own folder, then the project's folder of sources.

    The second is looked up when a module is not in the first: importing this package reads nothing.
    """

    def __iter__(self) -> Iterator[str]:
        """Yield the folders.

        Raises:
            ConfigurationError: there is no project here, or a setting is invalid.
        """
        from prefect_flows.ingest.source_registry import get_sources_dir

        yield from super().__iter__()
        yield str(get_sources_dir())


__path__ = SourcesPath(__path__)
