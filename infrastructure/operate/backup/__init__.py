"""`millrace backup create|restore`: back up and restore the Prefect server's database."""
