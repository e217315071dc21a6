"""Readers of databases, one for each way to read."""
