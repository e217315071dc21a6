"""Build and start scripts of the container image."""
