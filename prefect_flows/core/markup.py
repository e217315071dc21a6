"""Escaping of text for Markdown, GitHub, Slack, Discord and Teams.

Text from the warehouse, from files or from error messages is data. In no channel may it become a
link, an image or a heading, or mention somebody.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

from prefect_flows.core.formatting import one_line, truncate, truncate_long

# A zero-width character; between two characters, it stops them from being read as markup.
JOINER = "\N{WORD JOINER}"
_ESCAPES = str.maketrans({character: f"\\{character}" for character in r"\`*_{}[]()<>#+!|~&@-"})
# Within a line, without the characters that are markup only at its beginning.
_INLINE_ESCAPES = str.maketrans({character: f"\\{character}" for character in r"\`*[]<>|~&@"})
_DISCORD_ESCAPES = str.maketrans({character: f"\\{character}" for character in r"\`*_[]<>#|~-"})
# Similar characters, because Apprise undoes real escapes: it searches for `<…>` and `|` in the text
# that it has escaped itself.
_SLACK_ESCAPES = str.maketrans(
    {"<": "\N{SINGLE LEFT-POINTING ANGLE QUOTATION MARK}",
     ">": "\N{SINGLE RIGHT-POINTING ANGLE QUOTATION MARK}", "|": "\N{BROKEN BAR}"}
)  # fmt: skip
# `fit_message` cuts lines to these lengths, one after the other, until a message fits.
_LINE_LENGTHS = (10_000, 800, 400, 200, 100, 50, 25)

Escape = Callable[[str], str]


def escape_markdown(value: str, characters: int = 300) -> str:
    """Escape a value for Markdown, on one line, cut to a number of characters."""
    # Markdown also links bare URLs and e-mail addresses, so `://`, `www.` and `@` are escaped.
    # Backslashes rather than entities: Prefect's UI shows `&lt;` literally in a list.
    return _without_links(one_line(value, characters).translate(_ESCAPES))


def escape_inline(value: str) -> str:
    """Escape a value for a table cell or within a line; names stay readable: `raw_shop.orders`."""
    text = one_line(value, 1000).translate(_INLINE_ESCAPES)
    # Underscores between letters are not markup.
    marks = r"(?<!\w)_++|_++(?![^\W_])"
    return _without_links(re.sub(marks, lambda found: r"\_" * len(found[0]), text))


def escape_for_github(value: str, characters: int = 300) -> str:
    """Escape a value for Markdown on GitHub, without mentions or references to issues.

    GitHub finds `@somebody` and `#7` after Markdown has removed the backslashes. A zero-width
    character between the two parts prevents this.
    """
    text = escape_markdown(value, characters)
    return text.replace("\\@", f"@{JOINER}").replace("\\#", f"#{JOINER}")


def code_block(value: str, language: str, characters: int) -> str:
    """Return a fenced code block; its fence is longer than any in the text."""
    value = truncate_long(value, characters)
    longest = max((len(run) for run in re.findall("`+", value)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{value}\n{fence}"


def markdown_table(
    header: Sequence[str], rows: Iterable[Sequence[str]], right: Iterable[int] = ()
) -> str:
    """Format a table whose cells are already Markdown; right-align the columns in `right`."""
    places = set(right)
    rule = ["---:" if place in places else "---" for place in range(len(header))]
    return "\n".join(f"| {' | '.join(line)} |" for line in (header, rule, *rows))


def escape_for_discord(text: str) -> str:
    """Escape text for Discord, which finds mentions in the raw text."""
    return _without_mentions(text.translate(_DISCORD_ESCAPES))


def escape_for_slack(text: str) -> str:
    """Escape text for Slack, as Apprise sends it."""
    return _without_mentions(text.translate(_SLACK_ESCAPES))


def escape_for_teams(text: str) -> str:
    """Escape text for an Adaptive Card of Teams, which renders links, emphasis and lists."""
    return _without_mentions(re.sub(r"([\[\]*_`])(?![\w ])", rf"\1{JOINER}", text))


def fit_message(text: str, live: Sequence[str], escape: Escape, characters: int) -> str:
    """Escape all of a message but its `live` parts, and cut its lines until it fits.

    Args:
        live: parts to leave as they are: the URL of the run, and mentions of owners.
        escape: the escape function of the chat.
        characters: the longest message that the chat accepts.
    """
    parts = re.split(f"({'|'.join(map(re.escape, live))})", text) if live else [text]
    fitting = ""
    for length in _LINE_LENGTHS:
        fitting = "".join(
            part
            if index % 2
            else "\n".join(escape(truncate(line, length)) for line in part.split("\n"))
            for index, part in enumerate(parts)
        )
        if len(fitting) <= characters:
            break
    return fitting[:characters]


def _without_links(text: str) -> str:
    return text.replace("://", r"\://").replace("www.", r"www\.")


def _without_mentions(text: str) -> str:
    text = text.replace("@", f"@{JOINER}").replace("://", f":{JOINER}//")
    return text.replace("www.", f"www{JOINER}.")
