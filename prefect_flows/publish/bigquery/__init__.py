"""Publishing on BigQuery: a dataset to build in, and one copy job per model."""
