"""Create Prefect blocks and `dbt/profiles.yml` from Terraform's outputs."""
