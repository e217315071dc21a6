"""`python -m infrastructure.operate.backup create|restore`: the database of the Prefect server."""
