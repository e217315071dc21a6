"""Set up, deploy and operate a project: servers, Prefect resources, delivery, CI, health checks."""
