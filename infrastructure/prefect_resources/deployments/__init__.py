"""Prefect deployments from the project's `prefect.yaml` and those of its sources."""
