"""Prefect automations from `automations.yaml`, for runs that cannot report a problem themselves."""
