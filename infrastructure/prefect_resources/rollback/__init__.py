"""Back to an earlier version of a target's deployments, with no run lost on the way."""
