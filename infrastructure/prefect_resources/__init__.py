"""Objects of the Prefect server that files of the project describe."""
