"""Work pools and their queues, from `pools.yaml` and Prefect's own job templates."""
