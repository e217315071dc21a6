"""`python -m infrastructure.backup create|restore`: the database of the Prefect server."""
