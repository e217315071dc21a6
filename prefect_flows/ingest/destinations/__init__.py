"""dlt destinations of the warehouses: BigQuery, and Postgres with binary COPY."""
