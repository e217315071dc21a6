"""Prefect resources from the project's files: work pools, deployments, automations, secrets."""
