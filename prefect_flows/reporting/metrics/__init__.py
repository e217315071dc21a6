"""Prometheus metrics of runs: scraped from a page, textfile collector, or Pushgateway."""
