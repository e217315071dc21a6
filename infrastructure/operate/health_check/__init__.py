"""`millrace health`: what runs depend on, looked at once."""
