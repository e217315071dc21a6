"""Pages are looked at as a site, and in a browser."""

from browsers import browser
from sites import site

__all__ = ["browser", "site"]
