"""`millrace health`: check everything that flow runs depend on."""
