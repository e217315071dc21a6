"""Map positions of rendered SQL back to the Jinja template that it comes from.

Aligning the two texts by comparison guesses wherever a loop repeats a text or an `{% if %}` leaves
one out. This module renders the template a second time, with an invisible mark before each piece of
text and before each expression. A mark says where in the template the text after it stands. Without
its marks, the second rendering must equal the first; otherwise (a template that measures or
compares its own text) the texts are aligned by comparison.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher

from jinja2 import Environment, nodes
from jinja2.ext import Extension
from jinja2.lexer import Token, TokenStream

# Characters for private use; a mark is OPEN, a number, CLOSE.
OPEN, CLOSE = "\ue0f0", "\ue0f1"
MARK = re.compile(f"{OPEN}(\\d+)([te]){CLOSE}")


@dataclass(frozen=True)
class PositionMap:
    """Pieces of a rendered text, and where they stand in the template.

    Attributes:
        starts: offset of each piece in the rendered text, ascending.
        origins: offset of each piece in the template.
        is_text: whether a piece is text of the template; else an expression rendered it, and each
            position in it belongs to the beginning of the expression.
    """

    starts: tuple[int, ...]
    origins: tuple[int, ...]
    is_text: tuple[bool, ...]

    def to_template(self, offset: int) -> int:
        """Return the offset in the template of an offset in the rendered text."""
        piece = bisect_right(self.starts, offset) - 1
        if piece < 0:
            return 0
        into = offset - self.starts[piece] if self.is_text[piece] else 0
        return self.origins[piece] + into


class MarkTemplate(Extension):
    """Jinja extension that writes a mark before each text and each expression of a template."""

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self._offsets: Iterator[int] = iter(())

    def preprocess(self, source: str, name: str | None, filename: str | None = None) -> str:
        """Find where the tokens that get marks stand in the template."""
        tokens = list(self.environment.lexer.tokeniter(source, name, filename))
        self._offsets = iter(_get_offsets(source, tokens))
        return source

    def filter_stream(self, stream: TokenStream) -> Iterator[Token]:
        """Add marks to the tokens of the template."""
        for token in stream:
            if token.type == "data":
                yield Token(token.lineno, "data", _mark(next(self._offsets), "t") + token.value)
                continue
            if token.type == "variable_begin":
                yield Token(token.lineno, "data", _mark(next(self._offsets), "e"))
            yield token

    def parse(self, parser: object) -> nodes.Node:
        """Jinja calls this for the extension's tags, and it has none."""
        raise NotImplementedError(f"{type(self).__name__} has no tags: {parser}")


def _get_offsets(source: str, tokens: Iterable[tuple[int, str, str]]) -> Iterator[int]:
    """Yield the offsets of texts and of beginnings of expressions, in order."""
    at = 0
    for _, kind, value in tokens:
        # Jinja leaves out the whitespace before `{%-`, and nothing else.
        while not source.startswith(value, at) and source[at : at + 1].isspace():
            at += 1
        if kind in ("data", "variable_begin"):
            yield at
        at += len(value)


def _mark(offset: int, kind: str) -> str:
    return f"{OPEN}{offset}{kind}{CLOSE}"


def remove_marks(text: str) -> str:
    """Return a text without its marks."""
    return MARK.sub("", text)


def read_marks(marked: str) -> tuple[str, PositionMap]:
    """Return a marked text without its marks, and the map that they give."""
    text: list[str] = []
    starts, origins, is_text = [], [], []
    length = end = 0
    for mark in MARK.finditer(marked):
        text.append(marked[end : mark.start()])
        length += mark.start() - end
        starts.append(length)
        origins.append(int(mark[1]))
        is_text.append(mark[2] == "t")
        end = mark.end()
    text.append(marked[end:])
    return "".join(text), PositionMap(tuple(starts), tuple(origins), tuple(is_text))


def align(rendered: str, template: str) -> PositionMap:
    """Align a rendered text with its template by comparison, line by line, then by character."""
    blocks = SequenceMatcher(None, template, rendered, autojunk=False).get_matching_blocks()
    starts: list[int] = []
    origins: list[int] = []
    is_text: list[bool] = []
    end_rendered = end_template = 0
    for block in blocks:
        if block.b > end_rendered:
            starts.append(end_rendered)
            origins.append(end_template)
            is_text.append(False)
        if block.size:
            starts.append(block.b)
            origins.append(block.a)
            is_text.append(True)
        end_rendered, end_template = block.b + block.size, block.a + block.size
    return PositionMap(tuple(starts), tuple(origins), tuple(is_text))


def get_line_and_column(text: str, offset: int) -> tuple[int, int]:
    """Return line and column of an offset, both from 1."""
    offset = min(offset, len(text))
    start = text.rfind("\n", 0, offset) + 1
    return text.count("\n", 0, offset) + 1, offset - start + 1


def get_offset(text: str, line: int, column: int, tab: int = 1) -> int:
    """Return the offset of a line and column.

    Args:
        text: the text.
        line: from 1.
        column: from 1.
        tab: width of a tab: columns of ZetaSQL's messages go on to the next multiple of 8.
    """
    start = 0
    for _ in range(line - 1):
        start = text.find("\n", start) + 1
        if not start:
            return len(text)
    at = 1
    offset = start
    while at < column and offset < len(text) and text[offset] != "\n":
        at = ((at - 1) // tab + 1) * tab + 1 if text[offset] == "\t" else at + 1
        offset += 1
    return offset
