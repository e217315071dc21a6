"""Roll back a target's deployments to an earlier version without losing runs."""
