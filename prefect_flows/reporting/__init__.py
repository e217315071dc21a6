"""Reports of runs (HTML, Prefect artifacts, terminal), overview page, Prometheus metrics."""
