"""Pages are looked at in a browser."""

from tests.support.browsers import browser

__all__ = ["browser"]
