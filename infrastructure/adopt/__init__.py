"""`millrace adopt`: put a dbt project that exists already in the place of the shipped example."""
