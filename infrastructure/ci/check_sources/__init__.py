"""Lint the source folders: report each fault with its file and its fix."""
