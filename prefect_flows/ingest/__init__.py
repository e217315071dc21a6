"""Loads sources into the warehouse with dlt: source to tables, with their state beside them."""
