"""Prefect automations that find what a run cannot say of itself, from `automations.yaml`."""
