"""How a run is executed: stages, retries, progress, cancellation, one run per target."""
