"""Blocks of a page, what is said of how each is covered, and the words of its commands."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.support.project import REPOSITORY

FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\S*)")
MARKER = re.compile(r"^ *<!-- (?P<kind>[a-z ]+?)(?:: (?P<what>.+?))? -->$")
PLACEHOLDER = re.compile(r"…|\.\.\.|\b[A-Z][A-Z_/]+\b(?!=)|<[a-z]+>")
# What a reader has to have that no machine of the tests has.
NEEDS = frozenset({
    "a Google project", "a cluster", "a container engine", "a host", "a forge",
    "a quiet machine", "Terraform's providers", "the internet", "the file",
    "a target that publishes",
})  # fmt: skip
# What a shell is and the project is not, and names of targets.
SHELL = frozenset({
    "dev", "prod", "staging",
    "cat", "cd", "cp", "dbt", "jq", "ls", "millrace", "python", "run", "stat", "tail", "uv", "uvx",
    "-l", "-m", "-n", "--all-packages", "--extra",
})  # fmt: skip
KINDS = frozenset({"runs", "runs beside the next", "tested by", "needs", "file", "said by"})


@dataclass(frozen=True)
class Block:
    """A fenced block; `kind` and `what` come from the comment above it."""

    page: str
    line: int
    language: str
    text: str
    kind: str
    what: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def commands(self) -> list[str]:
        """Its lines, those that a backslash joins as one, without comments."""
        joined = re.sub(r"\\\n\s*", " ", self.text)
        lines = (re.sub(r"(^|\s+)#\s.*$", "", line).strip() for line in joined.splitlines())
        return [line for line in lines if line]


def pages() -> list[str]:
    """Every page, as a path in the repository."""
    found = [REPOSITORY / "README.md", *sorted((REPOSITORY / "documentation").rglob("*.md"))]
    return [str(page.relative_to(REPOSITORY)) for page in found]


def blocks(page: str) -> Iterator[Block]:
    """Every fenced block of a page, in its order."""
    lines = (REPOSITORY / page).read_text().splitlines()
    number = 0
    while number < len(lines):
        begin = FENCE.match(lines[number])
        if begin is None:
            number += 1
            continue
        end = number + 1
        while lines[end].strip() != "```":
            end += 1
        above = MARKER.match(lines[number - 1])
        yield Block(
            page=page,
            line=number + 1,
            language=begin["language"],
            text="\n".join(line[len(begin["indent"]) :] for line in lines[number + 1 : end]),
            kind=above["kind"] if above else "",
            what=(above["what"] or "") if above else "",
        )
        number = end + 1


def indented_blocks(page: str) -> list[int]:
    """Lines of code by indentation, outside of fences and lists: nobody could mark them."""
    found, fenced, after_list = [], False, False
    before = ""
    for number, line in enumerate((REPOSITORY / page).read_text().splitlines(), 1):
        if FENCE.match(line):
            fenced = not fenced
        elif not fenced:
            if line and not line.startswith(" "):
                after_list = bool(re.match(r"[-*] |\d+\. ", line))
            if line.startswith("    ") and not before.strip() and not after_list:
                found.append(number)
        before = line
    return found


def words_of(command: str) -> set[str]:
    """Of a command what a test has to have too: programs, modules, subcommands, options.

    Values of options, paths and placeholders are the page's own.
    """
    words: set[str] = set()
    for piece in re.split(r"&&|\|\||[|;]", re.sub(r"\$\(([^)]*)\)", r"; \1", command)):
        parts = shlex.split(re.split(r"\s[<>]", piece)[0])
        while parts and re.match(r"[A-Z_]+=|export$", parts[0]):
            parts.pop(0)
        value = False
        for part in parts:
            if part.startswith("-"):
                words.add(part.split("=")[0])
                value = part.startswith("--") and "=" not in part
            # A name with three dashes is somebody's own: acme-orders-token-dev.
            elif not value and re.fullmatch(r"[a-z][a-z_.-]*", part) and part.count("-") < 3:
                words.add(part)
                value = False
            else:
                value = False
    return (
        words
        - SHELL
        - {"uv", "run", "python", "-m", "--all-packages", "--extra", "uvx", "cd", "dbt"}
    )


@cache
def words_in(file: Path) -> frozenset[str]:
    """Every word that a test or a script may give to a program; of a page, what is tried there."""
    text = file.read_text()
    if file.suffix == ".md":
        # Not what it says of other pages, which could say it of this one.
        run = (
            block for block in blocks(str(file.relative_to(REPOSITORY)))
            if block.kind.startswith("runs")
            or (block.kind == "tested by" and ".md" not in block.what)
        )  # fmt: skip
        return frozenset().union(*(words_of(line) for block in run for line in block.commands))
    if file.suffix != ".py":
        text = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
        return words_among(text)
    tree = ast.parse(text)
    docstrings = {
        id(node.value) for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }  # fmt: skip
    strings = (
        node.value for node in ast.walk(tree)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and id(node) not in docstrings
    )  # fmt: skip
    return words_among("\n".join(strings))


def words_among(text: str) -> frozenset[str]:
    """Words of a text, without quotes, brackets, and what is given to an option."""
    return frozenset(word.strip("\"'`()[],;").split("=")[0] for word in text.split())


def missing_of(block: Block) -> list[str]:
    """Parts of a message that the file does not say which is named above it; `…` is left out."""
    tree = ast.parse((REPOSITORY / block.what).read_text())
    said = "\n".join(
        "…".join(part.value if isinstance(part, ast.Constant) else "" for part in node.values)
        if isinstance(node, ast.JoinedStr)
        else str(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.JoinedStr | ast.Constant)
    )
    lines = (re.sub(r"^(  (where|fix):\s+|[A-Z]\w+: )", "", x) for x in block.text.splitlines())
    parts = (part.strip() for line in lines for part in line.split("…"))
    return [part for part in parts if len(part) > 3 and part not in said]


def functions_of(file: Path) -> set[str]:
    """Names of a file's tests."""
    return {
        node.name for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }  # fmt: skip
