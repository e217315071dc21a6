"""Text for people, where a page or a chat would take it for markup: one table for each of them.

A text that comes from the warehouse, a file or a message of either is data. In no channel does it
make a link, a picture or a heading, and it calls nobody.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

# A character without width, which keeps others apart.
JOINER = "\N{WORD JOINER}"
_ESCAPES = str.maketrans({character: f"\\{character}" for character in r"\`*_{}[]()<>#+!|~&@-"})
# Within a line: what means something only where one begins stays as it is.
_IN_A_LINE = str.maketrans({character: f"\\{character}" for character in r"\`*[]<>|~&@"})
# Discord has a backslash for these.
_OF_DISCORD = str.maketrans({character: f"\\{character}" for character in r"\`*_[]<>#|~-"})
# Slack has no escape that Apprise leaves alone: it looks for `<…>` and for `|` in what it has
# escaped itself.
_OF_SLACK = str.maketrans(
    {"<": "\N{SINGLE LEFT-POINTING ANGLE QUOTATION MARK}",
     ">": "\N{SINGLE RIGHT-POINTING ANGLE QUOTATION MARK}", "|": "\N{BROKEN BAR}"}
)  # fmt: skip
# Shorter and shorter, until a message fits.
_LENGTHS = (10_000, 800, 400, 200, 100, 50, 25)

Escape = Callable[[str], str]


def escaped(value: str, characters: int = 300) -> str:
    """One line of Markdown, cut to so many characters, in which nothing is markup."""
    # A page makes links of addresses by itself: theirs are the colon, the dot and the at-sign.
    # Backslashes, because Prefect's page shows `&lt;` as it stands where it is in a list.
    return _without_links(_line(value, characters).translate(_ESCAPES))


def cell(value: str, characters: int = 1000) -> str:
    """As `escaped` for a place within a line, where names stay readable: `raw_shop.orders`."""
    text = _line(value, characters).translate(_IN_A_LINE)
    # Between letters, underscores mean nothing.
    marks = r"(?<!\w)_++|_++(?![^\W_])"
    return _without_links(re.sub(marks, lambda found: r"\_" * len(found[0]), text))


def on_github(value: str, characters: int = 300) -> str:
    """As `escaped`, for GitHub, where it calls and refers to nobody.

    GitHub looks for `@somebody` and `#7` in what Markdown has left, where no backslash is seen any
    more: a character without width keeps them apart.
    """
    text = escaped(value, characters)
    return text.replace("\\@", f"@{JOINER}").replace("\\#", f"#{JOINER}")


def fenced(value: str, language: str, characters: int) -> str:
    """A block of code, whose fence is longer than any in the text."""
    if len(value) > characters:
        value = f"{value[:characters]}… ({len(value) - characters:,} more characters)"
    longest = max((len(run) for run in re.findall("`+", value)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{value}\n{fence}"


def in_discord(text: str) -> str:
    """Text for Discord, which looks for those to be called in the text as it was sent."""
    return _calling_nobody(text.translate(_OF_DISCORD))


def in_slack(text: str) -> str:
    """Text for Slack by way of Apprise."""
    return _calling_nobody(text.translate(_OF_SLACK))


def in_a_card(text: str) -> str:
    """Text for an adaptive card of Teams, which knows links, emphasis and lists."""
    return _calling_nobody(re.sub(r"([\[\]*_`])(?![\w ])", rf"\1{JOINER}", text))


def in_a_chat(text: str, live: Sequence[str], escape: Escape, characters: int) -> str:
    """A text of which these parts are markup and all others are data; data is cut until it fits.

    Args:
        live: what the chat is to see as it is: the run's address, and how it mentions an owner.
    """
    parts = re.split(f"({'|'.join(map(re.escape, live))})", text) if live else [text]
    fitting = ""
    for length in _LENGTHS:
        fitting = "".join(
            part
            if index % 2
            else "\n".join(escape(_cut(line, length)) for line in part.split("\n"))
            for index, part in enumerate(parts)
        )
        if len(fitting) <= characters:
            break
    return fitting[:characters]


def _line(value: str, characters: int) -> str:
    line = " ".join(value.split())
    return _cut(line, characters)


def _cut(line: str, characters: int) -> str:
    return line if len(line) <= characters else f"{line[:characters]}…"


def _without_links(text: str) -> str:
    return text.replace("://", r"\://").replace("www.", r"www\.")


def _calling_nobody(text: str) -> str:
    text = text.replace("@", f"@{JOINER}").replace("://", f":{JOINER}//")
    return text.replace("www.", f"www{JOINER}.")
