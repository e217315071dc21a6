"""The key that opens the secrets of the blocks.

Prefect encrypts each block with a Fernet key. It makes one and keeps it in the table
`configuration` of its own database, unless the server has one in its environment.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from cryptography.fernet import Fernet, InvalidToken

# The second name is Prefect's old one, and still heard.
VARIABLES = ("PREFECT_SERVER_ENCRYPTION_KEY", "ORION_ENCRYPTION_KEY")
KEY_QUERY = "select value from configuration where key = 'ENCRYPTION_KEY'"
BLOCKS_QUERY = "select data from block_document"


@dataclass(frozen=True)
class Opened:
    """How many blocks a key opens, and which key it is."""

    where: Literal["database", "environment"]
    sha256: str | None
    blocks: int
    closed: int


def opened(stored: object | None, blocks: Iterable[object]) -> Opened:
    """Try the key that a server here would use, on every block.

    Args:
        stored: the `value` of the configuration, as the database gives it; none when there is none.
        blocks: the encrypted data of each block.
    """
    given = next((os.environ[name] for name in VARIABLES if os.environ.get(name)), None)
    where: Literal["database", "environment"] = "database" if given is None else "environment"
    key = given if given is not None else _stored(stored)
    count = closed = 0
    for data in blocks:
        count += 1
        closed += not _opens(key, data)
    return Opened(
        where, None if key is None else hashlib.sha256(key.encode()).hexdigest(), count, closed
    )


def _stored(value: object | None) -> str | None:
    if value is None:
        return None
    document = json.loads(value) if isinstance(value, str) else value
    assert isinstance(document, dict)  # noqa: S101 # Prefect writes nothing else
    return str(document["fernet_key"])


def _opens(key: str | None, data: object) -> bool:
    if key is None:
        return False
    # A column of type JSON that holds a string: SQLite gives it in quotes.
    token = data.strip('"') if isinstance(data, str) else ""
    try:
        Fernet(key.encode()).decrypt(token.encode())
    except (InvalidToken, ValueError):
        return False
    return True
