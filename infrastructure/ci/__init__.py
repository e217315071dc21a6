"""Continuous integration: pull requests, checks of sources and models, generated reference."""
