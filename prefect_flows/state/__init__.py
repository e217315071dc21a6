"""What outlives a run: results, journals, logs and parsed projects, under one URL."""
