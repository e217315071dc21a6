"""What of a database's message can be shown where personal data is near: no value of a row."""

from __future__ import annotations

import re

# dbt puts a line of its own before the database's words.
_HEADER = re.compile(r"^[A-Z]\w*(?: \w+)* Error(?: in [^\n]*)?$")
_LITERAL = re.compile(r"'(?:[^']|'')*'")
_NAME = re.compile(r"[^\W\d]\w*")
_QUOTED = re.compile(r"""(["'`])(.*?)\1""")
_POSITION = re.compile(r"at \[\d+:\d+\]")
# An open quote, an address, a number that belongs to no word.
_STRAY = re.compile(r"""["'`@]|(?<!\w)[-+]?\d""")
# dbt's own words for a test.
_COUNTED = re.compile(r"^Got \d+ results?, configured to (fail|warn) if [!=<>]+ ?\d+$")
LEFT_OUT = "… (values left out)"


def without_values(message: str, sql: str | None) -> str:
    """The first line of what was said, up to the first thing that may be a value.

    A quoted word stays if it is a name in the query's own text, which is no data. The lines that
    follow, among them Postgres' DETAIL, are left out.

    Args:
        message: dbt's message of a failure.
        sql: the compiled SQL, whose names are shown anyway.
    """
    lines = [line.strip() for line in message.strip().splitlines() if line.strip()]
    if not lines:
        return ""
    header = [lines.pop(0)] if len(lines) > 1 and _HEADER.match(lines[0]) else []
    said = lines[0]
    if not _COUNTED.match(said):
        said = _cut(said, _names_in(sql))
    if len(lines) > 1 and not said.endswith(LEFT_OUT):
        said = f"{said} {LEFT_OUT}"
    return "\n".join([*header, said])


def _names_in(sql: str | None) -> set[str]:
    return {name.lower() for name in _NAME.findall(_LITERAL.sub("", sql or ""))}


def _cut(line: str, names: set[str]) -> str:
    """The line up to the first thing that may be a value.

    That is a quoted word, or a word behind a colon, a bracket or an equals sign, that is no name;
    an open quote; a number.
    """
    ends = [
        match.start()
        for match in _QUOTED.finditer(line)
        if not set(match[2].lower().split(".")) <= names
    ]
    # What is known to be harmless is blanked, at the same length.
    rest = line
    for harmless in (_QUOTED, _POSITION):
        rest = harmless.sub(lambda match: " " * len(match[0]), rest)
    ends += [match.start() for match in _STRAY.finditer(rest)]
    ends += [
        match.end()
        for match in re.finditer(r"[:=(]", rest)
        if not set(re.findall(r"\w+", rest[match.end() :].lower())) <= names
    ]
    return f"{line[: min(ends)].rstrip()} {LEFT_OUT}" if ends else line
