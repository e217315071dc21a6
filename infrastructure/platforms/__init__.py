"""Deployment platforms: Docker, systemd, Kubernetes, Grafana."""
