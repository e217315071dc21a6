"""Executes a run: stages with retries and timeouts, progress, cancellation, the target lock."""
