"""The embedded default: a Postgres and a Prefect server on this machine, under `.local/`."""
