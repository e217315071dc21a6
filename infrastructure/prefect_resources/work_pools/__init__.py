"""Work pools and queues from `pools.yaml` and Prefect's base job templates."""
