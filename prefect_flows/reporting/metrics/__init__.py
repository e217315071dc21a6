"""Metrics of runs for Prometheus: shown on a page, or sent."""
