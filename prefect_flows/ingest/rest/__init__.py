"""REST API client for sources: retries, rate limits, pagination, typed tables."""
