"""The state store: run results, journals, logs and incidents of every target, under one URL."""
