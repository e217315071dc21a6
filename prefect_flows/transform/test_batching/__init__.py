"""Runs the data tests of dbt in few statements."""
