"""Pages are looked at as a site, and in a browser."""

from tests.support.browsers import browser
from tests.support.sites import site

__all__ = ["browser", "site"]
