"""`python -m infrastructure.healthcheck`: whether all that runs depend on answers, and how it is."""
