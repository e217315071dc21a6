"""Redacts values (personal data) from database error messages in reports."""

from __future__ import annotations

import re

# The line that dbt puts before the database's message.
_HEADER = re.compile(r"^[A-Z]\w*(?: \w+)* Error(?: in [^\n]*)?$")
_LITERAL = re.compile(r"'(?:[^']|'')*'")
_NAME = re.compile(r"[^\W\d]\w*")
_QUOTED = re.compile(r"""(["'`])(.*?)\1""")
_POSITION = re.compile(r"at \[\d+:\d+\]")
# An open quote, an email address, a number that is not part of a word.
_POSSIBLE_VALUE = re.compile(r"""["'`@]|(?<!\w)[-+]?\d""")
# dbt's message about a test.
_TEST_MESSAGE = re.compile(r"^Got \d+ results?, configured to (fail|warn) if [!=<>]+ ?\d+$")
OMISSION_NOTE = "… (values left out)"


def redact_message(message: str, sql: str | None) -> str:
    """Return the first line of a message, up to the first thing that may be a value.

    A quoted word is kept if it is a name in the query's text, which is not data. Further lines,
    such as Postgres' DETAIL, are removed.

    Args:
        message: dbt's message about a failure.
        sql: the compiled SQL, whose names may be shown.
    """
    lines = [line.strip() for line in message.strip().splitlines() if line.strip()]
    if not lines:
        return ""
    header = [lines.pop(0)] if len(lines) > 1 and _HEADER.match(lines[0]) else []
    first_line = lines[0]
    if not _TEST_MESSAGE.match(first_line):
        first_line = _truncate_at_value(first_line, _names_in(sql))
    if len(lines) > 1 and not first_line.endswith(OMISSION_NOTE):
        first_line = f"{first_line} {OMISSION_NOTE}"
    return "\n".join([*header, first_line])


def _names_in(sql: str | None) -> set[str]:
    return {name.lower() for name in _NAME.findall(_LITERAL.sub("", sql or ""))}


def _truncate_at_value(line: str, names: set[str]) -> str:
    """Return the line up to the first thing that may be a value.

    That is a quoted word, or a word after a colon, a bracket or an equals sign, that is not a name;
    an open quote; a number.
    """
    ends = [
        match.start()
        for match in _QUOTED.finditer(line)
        if not set(match[2].lower().split(".")) <= names
    ]
    # Replaces harmless parts by blanks of the same length.
    rest = line
    for harmless in (_QUOTED, _POSITION):
        rest = harmless.sub(lambda match: " " * len(match[0]), rest)
    ends += [match.start() for match in _POSSIBLE_VALUE.finditer(rest)]
    ends += [
        match.end()
        for match in re.finditer(r"[:=(]", rest)
        if not set(re.findall(r"\w+", rest[match.end() :].lower())) <= names
    ]
    return f"{line[: min(ends)].rstrip()} {OMISSION_NOTE}" if ends else line
