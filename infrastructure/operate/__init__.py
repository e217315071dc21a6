"""What keeps a running installation healthy: health check and backup."""
