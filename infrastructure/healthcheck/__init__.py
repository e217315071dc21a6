"""`python -m infrastructure.healthcheck`: what runs depend on, looked at once."""
