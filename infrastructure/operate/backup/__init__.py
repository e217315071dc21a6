"""`millrace backup create|restore`: the database of the Prefect server."""
