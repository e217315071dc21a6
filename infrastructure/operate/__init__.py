"""Operate an installation: health check and backup."""
