"""Terraform's outputs → a plan → Prefect blocks and `dbt/profiles.yml`."""
