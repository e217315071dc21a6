"""Finds names in code with Jinja that make its result change by itself, such as `current_date`."""

from __future__ import annotations

import re
from collections.abc import Iterable

# Jinja comments, SQL comments and quoted text: none of them is code.
_NO_CODE = re.compile(r"\{#.*?#\}|--[^\n]*|/\*.*?\*/|'(?:[^']|'')*'|\"[^\"]*\"|`[^`]*`", re.DOTALL)
_JINJA_BLOCK = re.compile(r"\{[{%](.*?)[%}]\}", re.DOTALL)
# Names in Jinja that differ in each run, or that read more than the declared inputs.
_VOLATILE_JINJA = re.compile(r"\b(run_started_at|invocation_id|modules\.datetime|graph)\b")
VOLATILE_WORDS = re.compile(
    r"\b(current_date|current_time|current_timestamp|current_datetime|localtime|localtimestamp"
    r"|information_schema)\b"
    r"|\b(now|random|random_normal|rand|gen_random_uuid|generate_uuid|uuid_generate_v[14]|uuidv[47]"
    r"|clock_timestamp|statement_timestamp|transaction_timestamp|timeofday|nextval|currval|lastval"
    r"|txid_current|pg_current_xact_id)\s*\(",
    re.IGNORECASE,
)


def find_in_code(texts: Iterable[str]) -> str | None:
    """Return the first volatile name in code with Jinja; None if there is none.

    This sees all branches of the code, for example that of `is_incremental()`, and leaves out
    comments and quoted text.
    """
    for text in texts:
        code = _NO_CODE.sub(" ", text)
        if (found := VOLATILE_WORDS.search(code)) is not None:
            return (found[1] or found[2]).lower()
        for block in _JINJA_BLOCK.findall(code):
            if (found := _VOLATILE_JINJA.search(block)) is not None:
                return found[1]
    return None
