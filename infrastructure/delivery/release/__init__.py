"""Versions: what is released is a commit with a tag, a section of the changelog, and an image."""
