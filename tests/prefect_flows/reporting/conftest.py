"""Pages are looked at in a browser."""

from browsers import browser

__all__ = ["browser"]
