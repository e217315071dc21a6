"""Where a node, its columns and its tests stand in the files of the project."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from infrastructure.ci.check_models.findings import Place
from infrastructure.ci.check_models.template_positions import get_line_and_column
from infrastructure.ci.check_models.yaml_positions import find_entry
from prefect_flows.core.project_folder import find_project_dir, shorten_path


class Places:
    """Places in the files of a dbt project.

    Args:
        dbt_dir: the dbt project.
        path_of: returns the path of a node's file, relative to the dbt project.
    """

    def __init__(self, dbt_dir: Path, path_of: Callable[[Any], str]) -> None:
        self._dbt_dir = dbt_dir
        self._shown_dir = shorten_path(dbt_dir, find_project_dir())
        self._path_of = path_of

    def get_file(self, node: Any) -> Path:
        """Return the file of a node."""
        return self._dbt_dir / self._path_of(node)

    def in_template(self, node: Any, offset: int) -> Place:
        """Return the place of an offset in a node's template."""
        path = self._path_of(node)
        text = _read(self._dbt_dir / path)
        start = text.find(node.raw_code)
        if start < 0:
            return self.of_node(node)
        return self._place(path, get_line_and_column(text, start + offset))

    def of_line(self, node: Any, line: int) -> Place:
        """Return the beginning of a line of a node's template."""
        lines = node.raw_code.splitlines(keepends=True)
        return self.in_template(node, len("".join(lines[: line - 1])))

    def of_node(self, node: Any) -> Place:
        """Return the place of a node: its file, or its entry in YAML."""
        path = self._path_of(node)
        if not path.endswith((".yml", ".yaml")):
            return Place(self._show(path), 1, 1)
        if getattr(node, "test_metadata", None) is None:
            return self._place(path, find_entry(self._dbt_dir / path, node.name))
        # `models.orders`, `sources.raw`
        name = (node.file_key_name or "").partition(".")[2]
        table = None
        if (node.attached_node or "").startswith("source."):
            table = node.attached_node.rpartition(".")[2]
        return self._place(
            path,
            find_entry(
                self._dbt_dir / path,
                name,
                node.column_name,
                table,
                # A name of its own, or else the first test of its kind.
                (node.name, node.test_metadata.name),
            ),
        )

    def of_column(self, node: Any, column: str | None, word: str = "") -> Place:
        """Return where YAML describes a column of a model, seed, snapshot or source.

        Args:
            node: the node.
            column: the column; None for the node's own entry.
            word: a value in the entry, whose own place is returned.
        """
        patch = getattr(node, "patch_path", None)
        path = patch.partition("://")[2] if patch else self._path_of(node)
        # A package's patch is relative to the package.
        if not path.endswith((".yml", ".yaml")) or not (self._dbt_dir / path).is_file():
            return self.of_node(node)
        is_source = str(node.resource_type) == "source"
        return self._place(
            path,
            find_entry(
                self._dbt_dir / path,
                node.source_name if is_source else node.name,
                column,
                node.name if is_source else None,
                (word,),
            ),
        )

    def _place(self, path: str, position: tuple[int, int]) -> Place:
        return Place(self._show(path), *position)

    def _show(self, path: str) -> str:
        return str(self._shown_dir / path)


@cache
def _read(file: Path) -> str:
    return file.read_text(encoding="utf-8")
