"""Find and verify the encryption key of the blocks.

Prefect encrypts each block with a Fernet key. Prefect generates the key and stores it in the table
`configuration` of its database, unless the server's environment has one.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from cryptography.fernet import Fernet, InvalidToken

# Prefect still reads the old name, too.
VARIABLES = ("PREFECT_SERVER_ENCRYPTION_KEY", "ORION_ENCRYPTION_KEY")
KEY_QUERY = "select value from configuration where key = 'ENCRYPTION_KEY'"
BLOCKS_QUERY = "select data from block_document"


@dataclass(frozen=True)
class KeyCheck:
    """Result of trying an encryption key on all blocks.

    Attributes:
        where: where the key comes from.
        sha256: hash of the key; None if there is no key.
        blocks: number of blocks.
        closed: number of blocks that the key does not decrypt.
    """

    where: Literal["database", "environment"]
    sha256: str | None
    blocks: int
    undecryptable: int


def check_key(stored: object | None, blocks: Iterable[object]) -> KeyCheck:
    """Try the key that a server in this environment would use on every block.

    Args:
        stored: `value` of the key's row in `configuration`; None if there is no such row.
        blocks: encrypted data of each block.
    """
    given = next((os.environ[name] for name in VARIABLES if os.environ.get(name)), None)
    where: Literal["database", "environment"] = "database" if given is None else "environment"
    key = given if given is not None else _parse_stored_key(stored)
    count = closed = 0
    for data in blocks:
        count += 1
        closed += not _can_decrypt(key, data)
    return KeyCheck(
        where, None if key is None else hashlib.sha256(key.encode()).hexdigest(), count, closed
    )


def _parse_stored_key(value: object | None) -> str | None:
    if value is None:
        return None
    document = json.loads(value) if isinstance(value, str) else value
    assert isinstance(document, dict)  # noqa: S101 # Prefect writes nothing else
    return str(document["fernet_key"])


def _can_decrypt(key: str | None, data: object) -> bool:
    if key is None:
        return False
    # SQLite returns a JSON string with its quotes.
    token = data.strip('"') if isinstance(data, str) else ""
    try:
        Fernet(key.encode()).decrypt(token.encode())
    except (InvalidToken, ValueError):
        return False
    return True
