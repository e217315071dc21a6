"""Continuous integration: pull request builds, source checks, the generated reference."""
