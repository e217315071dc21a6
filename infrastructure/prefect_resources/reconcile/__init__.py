"""Reconcile Prefect resources: compare desired with actual state, show the plan, apply it."""
