"""Errors, settings, names, dbt profiles and small helpers that every other package uses."""
