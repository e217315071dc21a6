"""Readers of SQL databases: Postgres by COPY, all others through SQLAlchemy."""
