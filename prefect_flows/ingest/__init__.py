"""Loads sources into the warehouse with dlt: extract, load, retries and incremental state."""
