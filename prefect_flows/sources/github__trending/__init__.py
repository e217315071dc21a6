"""Repositories that gather stars on GitHub."""
