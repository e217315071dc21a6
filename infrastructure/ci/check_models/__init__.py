"""Type-check all SQL of the dbt project for Postgres and BigQuery, without a warehouse."""
