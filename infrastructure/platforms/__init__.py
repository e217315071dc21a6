"""The platforms that a project runs on: containers, systemd, Kubernetes, Grafana."""
