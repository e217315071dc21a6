"""Operate an installation: health check, deadlines and backup."""
