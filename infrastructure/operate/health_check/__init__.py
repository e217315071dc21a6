"""`python -m infrastructure.operate.health_check`: what runs depend on, looked at once."""
