"""Runs dbt in this process: sessions, stages, node results, retries, resume, state hashes."""
