"""Embedded servers for development: a Postgres and a Prefect server under `.local/`."""
